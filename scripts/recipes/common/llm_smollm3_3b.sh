# SmolLM3-3B. 128,256 logits for every answer's token: smaller batches, more of them.
# The rate of stage 2 is LLaVA-OneVision's for Qwen2-7B (LLaVA-NeXT, scripts/train/finetune_si.sh).
LLM=HuggingFaceTB/SmolLM3-3B
FINETUNE_VERSION=auto
FINETUNE_LR=1e-5
FINETUNE_BATCH=8
FINETUNE_ACCUMULATION=2
