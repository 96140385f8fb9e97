# Today: SmolLM3-3B with SigLIP 2-SO400M/14@384, labels of TIPSv2-L/14: ReCap-558K, FineVision.
RUN=smollm3-3b
use training llm_smollm3_3b tower_siglip2_384 labels_tipsv2 data_recap data_finevision
