# Today: Gemma-3-1B with SigLIP 2-SO400M/14@384, labels of TIPSv2-L/14: LLaVA-1.5 data.
RUN=gemma3-1b
use training llm_gemma3_1b tower_siglip2_384 labels_tipsv2 data_llava15
