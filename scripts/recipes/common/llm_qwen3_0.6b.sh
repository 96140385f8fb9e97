# Qwen3-0.6B. 151,936 logits for every answer's token: smaller batches, more of them.
# The rate of stage 2 is LLaVA-1.5's, which SiQ-VL also takes for Qwen2.5-0.5B (scripts/run_stage2.sh).
LLM=Qwen/Qwen3-0.6B
FINETUNE_VERSION=auto
FINETUNE_BATCH=8
FINETUNE_ACCUMULATION=2
