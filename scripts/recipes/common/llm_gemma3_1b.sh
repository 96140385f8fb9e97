# Gemma-3-1B, text alone. Its hub page asks you to accept a licence. All rates are LLaVA-1.5's.
# 262,144 logits for every answer's token: smaller batches, more of them.
LLM=google/gemma-3-1b-it
FINETUNE_VERSION=auto
FINETUNE_BATCH=8
FINETUNE_ACCUMULATION=2
