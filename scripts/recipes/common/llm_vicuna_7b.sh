# Vicuna-7B v1.5, LLaVA-1.5's smaller LLM.
LLM=lmsys/vicuna-7b-v1.5
FINETUNE_VERSION=v1
