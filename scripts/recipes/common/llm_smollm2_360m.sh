# SmolLM2-360M-Instruct. The rate of stage 2 is nanoVLM's for this LLM (models/config.py,
# lr_language_backbone); nanoVLM trains its projector in the same stage, at 5.12e-3.
LLM=HuggingFaceTB/SmolLM2-360M-Instruct
FINETUNE_VERSION=auto
FINETUNE_LR=5e-5
