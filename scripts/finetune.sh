#!/usr/bin/env bash
# Stage 2, instruction tuning: the LLM and the projector learn from conversations, with LLaVA's loss
# alone, under ZeRO-3. Without arguments on the miniature world (ZeRO-2), from what pretrain_sea.sh
# left.
#   bash scripts/finetune.sh [flags of llava_sea/train/train_mem.py, e.g. --num_train_epochs 3]
#   RECIPE=vicuna-7b  PROJECTOR=checkpoints/mini-pretrain/mm_projector.bin (another stage 1's result)
#   OUTPUT_DIR=...  NUM_GPUS=...  DRY_RUN=1 (print the commands only)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/setup_env.sh"
STAGE=finetune
source "$root/scripts/recipe.sh"

TUNING_FLAGS=(--learning_rate "$FINETUNE_LR")
if [ -n "${FINETUNE_TOWER_LR:-}" ]; then
  TUNING_FLAGS+=(
    --unfreeze_mm_vision_tower True             # SEA-PRIME trains the vision tower too,
    --mm_vision_tower_lr "$FINETUNE_TOWER_LR"   # more slowly than the rest
  )
fi
source "$root/scripts/stage2.sh"
