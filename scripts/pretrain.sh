#!/usr/bin/env bash
# Stage 1 without SEA: plain LLaVA, the baseline. All else is as in pretrain_sea.sh.
#   bash scripts/pretrain.sh [flags of llava_sea/train/train_mem.py]
#   RECIPE=vicuna-7b  OUTPUT_DIR=...  NUM_GPUS=...  DRY_RUN=1 (print the commands only)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/setup_env.sh"
STAGE=pretrain
source "$root/scripts/recipe.sh"
SEA_FLAGS=()
WARM_START=0
source "$root/scripts/stage1.sh"
prepare

# The words that nearest ones are sought among; pretrain_sea.sh uses the same list.
if [ ! -e "$WORDS" ]; then
  run_and_wait python -m llava_sea.labels.word_list --data_path "${PRETRAIN_DATA[@]}" \
    --output "$WORDS" --min_count "${MIN_COUNT:-1}" ${COMMON_WORDS:+--common_words "$COMMON_WORDS"}
fi
run_and_wait "${TRAIN[@]}"
run_and_wait "${REPORT[@]}" --run "$OUTPUT_DIR"

# Where the same with SEA is there, its report gets this run beside it.
if is_finished "$OUTPUT_DIR-sea"; then
  run_and_return "${REPORT[@]}" --run "$OUTPUT_DIR-sea" --baseline "$OUTPUT_DIR" ||
    echo "the report of $OUTPUT_DIR-sea stays as it was"
fi
