# LLaVA-1.5's hyperparameters, which the paper takes over, for 8 GPUs of 80 GB: batches of 256 in
# stage 1 and of 128 in stage 2. With 4 GPUs double the accumulation by a flag after the script,
# --gradient_accumulation_steps 2 (4 where the recipe has 2), and so on.
NUM_WORKERS=4
GRADIENT_CHECKPOINTING=True
PRETRAIN_BATCH=32
PRETRAIN_LR=1e-3
PRETRAIN_SAVE_STEPS=500
FINETUNE_BATCH=16
FINETUNE_LR=2e-5
FINETUNE_SAVE_STEPS=1000                        # a checkpoint of a 7B takes some 100 GB
