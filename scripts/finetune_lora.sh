#!/usr/bin/env bash
# Stage 2 with LoRA: low-rank updates of the LLM's linear layers, the projector trained whole, the
# vision tower frozen. Else as finetune.sh; without arguments on the miniature world.
#   bash scripts/finetune_lora.sh [flags of llava_sea/train/train_mem.py, e.g. for QLoRA
#   --bits 4 --deepspeed zero_configs/zero2.json]
#   RECIPE=vicuna-7b  PROJECTOR=...  OUTPUT_DIR=...  NUM_GPUS=...  DRY_RUN=1
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/setup_env.sh"
STAGE=finetune-lora
source "$root/scripts/recipe.sh"

TUNING_FLAGS=(
  --lora_enable True
  --lora_r "${LORA_R:-128}"                     # rank of the updates
  --lora_alpha "${LORA_ALPHA:-256}"             # an update is scaled by alpha / r
  --lora_dropout "${LORA_DROPOUT:-0.05}"
  --lora_bias none                              # biases stay as they are
  --learning_rate "${LORA_LR:-2e-4}"            # of the updates
  --mm_projector_lr "${LORA_PROJECTOR_LR:-2e-5}" # of the projector
)
source "$root/scripts/stage2.sh"
