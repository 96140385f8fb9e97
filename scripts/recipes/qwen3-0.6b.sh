# Today: Qwen3-0.6B with SigLIP 2-SO400M/14@384, labels of TIPSv2-L/14: LLaVA-1.5 data.
RUN=qwen3-0.6b
use training llm_qwen3_0.6b tower_siglip2_384 labels_tipsv2 data_llava15
