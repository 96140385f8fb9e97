# Today: Qwen3-1.7B with SigLIP 2-SO400M/14@384, labels of TIPSv2-L/14: LLaVA-1.5 data.
RUN=qwen3-1.7b
use training llm_qwen3_1.7b tower_siglip2_384 labels_tipsv2 data_llava15
