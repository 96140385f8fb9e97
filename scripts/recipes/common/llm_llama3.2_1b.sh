# Llama-3.2-1B-Instruct. Its hub page asks you to accept a licence. All rates are LLaVA-1.5's.
# 128,256 logits for every answer's token: smaller batches, more of them.
LLM=meta-llama/Llama-3.2-1B-Instruct
FINETUNE_VERSION=auto
FINETUNE_BATCH=8
FINETUNE_ACCUMULATION=2
