# Phi-3-mini, 3.8B, the model with 4K context.
LLM=microsoft/Phi-3-mini-4k-instruct
FINETUNE_VERSION=phi3
