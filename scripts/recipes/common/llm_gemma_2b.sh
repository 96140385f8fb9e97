# Gemma-2B, the first generation's instruction-tuned model. Its hub page asks you to accept a licence.
# 256,000 logits for every token: smaller batches, more of them.
LLM=google/gemma-2b-it
FINETUNE_VERSION=gemma
FINETUNE_BATCH=8
FINETUNE_ACCUMULATION=2
