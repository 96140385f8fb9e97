#!/usr/bin/env bash
# LLaVA-1.5's stage 2 on 8 GPUs, flat: LLaVA's own flags, from the projector that SEA's stage 1 left.
# Needs an environment with this package. DRY_RUN=1 prints the command.
flags=(
  --deepspeed zero_configs/zero3.json           # weights split over the GPUs too
  --model_name_or_path lmsys/vicuna-7b-v1.5
  --version v1                                  # Vicuna's conversation template
  --data_path playground/data/llava_v1_5_mix665k.json
  --image_folder playground/data
  --vision_tower openai/clip-vit-large-patch14-336
  --pretrain_mm_mlp_adapter checkpoints/llava-v1.5-7b-pretrain-sea/mm_projector.bin
  --mm_projector_type mlp2x_gelu
  --mm_vision_select_layer -2
  --image_aspect_ratio pad                      # to a square: nothing of an image is cut off
  --group_by_modality_length True               # batches of one modality and like length
  --bf16 True
  --tf32 True
  --output_dir checkpoints/llava-v1.5-7b-finetune
  --num_train_epochs 1
  --per_device_train_batch_size 16              # x 8 GPUs = 128
  --gradient_accumulation_steps 1
  --learning_rate 2e-5
  --weight_decay 0.
  --warmup_ratio 0.03
  --lr_scheduler_type cosine
  --gradient_checkpointing True                 # activations computed twice, not kept
  --model_max_length 2048
  --dataloader_num_workers 4
  --save_strategy steps
  --save_steps 1000                             # a checkpoint of a 7B takes some 100 GB
  --save_total_limit 1
  --logging_steps 1
  --report_to tensorboard
)
exec ${DRY_RUN:+echo} deepspeed llava_sea/train/train_mem.py "${flags[@]}" "$@"
