# Llama-3-8B-Instruct. Its hub page asks you to accept a licence.
# 128,256 logits for every token: smaller batches, more of them.
LLM=meta-llama/Meta-Llama-3-8B-Instruct
FINETUNE_VERSION=llama_3
FINETUNE_BATCH=8
FINETUNE_ACCUMULATION=2
