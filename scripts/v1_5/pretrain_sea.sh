#!/usr/bin/env bash
# LLaVA-1.5's stage 1 with SEA on 8 GPUs, flat: LLaVA's own flags, and two for SEA at the end.
# Needs an environment with this package, and labels: RECIPE=vicuna-7b bash scripts/extract_labels.sh
# DRY_RUN=1 prints the command. RECIPE=vicuna-7b bash scripts/pretrain_sea.sh does all of it, with a
# warm start before (llava_sea/train/README.md).
flags=(
  --deepspeed zero_configs/zero2.json
  --model_name_or_path lmsys/vicuna-7b-v1.5     # the frozen LLM
  --version plain                               # <image> + caption, no conversation template
  --data_path playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json
  --image_folder playground/data/LLaVA-Pretrain/images
  --vision_tower openai/clip-vit-large-patch14-336
  --mm_projector_type mlp2x_gelu
  --tune_mm_mlp_adapter True                    # stage 1: the projector alone is trained
  --mm_vision_select_layer -2
  --bf16 True
  --tf32 True
  --output_dir checkpoints/llava-v1.5-7b-pretrain-sea
  --num_train_epochs 1
  --per_device_train_batch_size 32              # x 8 GPUs = 256
  --gradient_accumulation_steps 1
  --learning_rate 1e-3
  --weight_decay 0.
  --warmup_ratio 0.03
  --lr_scheduler_type cosine
  --gradient_checkpointing True
  --model_max_length 2048                       # tokens of a sequence, the image's 576 included
  --dataloader_num_workers 4
  --save_strategy steps
  --save_steps 500                              # small checkpoints: nothing frozen is in them
  --save_total_limit 1
  --logging_steps 1
  --report_to tensorboard
  --sea_labels playground/data/LLaVA-Pretrain/labels-clip-l-336-best  # turns SEA on
  --sea_preset best                             # or paper; labels and training must agree
)
exec ${DRY_RUN:+echo} deepspeed llava_sea/train/train_mem.py "${flags[@]}" "$@"
