# Today: Qwen3-4B with SigLIP 2-SO400M/14@384, labels of TIPSv2-L/14: ReCap-558K, FineVision.
RUN=qwen3-4b
use training llm_qwen3_4b tower_siglip2_384 labels_tipsv2 data_recap data_finevision
