# Vicuna-13B v1.5, LLaVA-1.5's larger LLM.
LLM=lmsys/vicuna-13b-v1.5
FINETUNE_VERSION=v1
