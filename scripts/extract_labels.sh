#!/usr/bin/env bash
# Labels for every patch, once for a corpus: its words and phrases, then the best of them for each
# patch of each image (SEA 3.1). Without arguments for the miniature world.
#   bash scripts/extract_labels.sh [flags of llava_sea.labels.extract, e.g. --sea_preset paper]
#   RECIPE=vicuna-7b  SEA_PRESET=paper  WORDS=...  LABELS=...  COMMON_WORDS=2of12.txt  MIN_COUNT=5
#   NUM_GPUS=... (all; they share the images)   HOSTFILE=... (several machines, a shared folder)
#   DRY_RUN=1 (print the commands)
# Stopped at any moment, it resumes where it was; finished labels cost it some seconds.
set -euo pipefail
case "${SEA_PRESET:-best}" in best | paper) ;; *)
  echo "SEA_PRESET=$SEA_PRESET: choose best or paper" >&2
  exit 2
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/setup_env.sh"
STAGE=labels                                    # nothing is trained: OUTPUT_DIR is unused here
# Sets VISION_TOWER, PRETRAIN_DATA, PRETRAIN_IMAGES, WORDS, LABELS, and LABEL_TOWER if it is another.
source "$root/scripts/recipe.sh"

WORD_LIST=(
  python -m llava_sea.labels.word_list
  --data_path "${PRETRAIN_DATA[@]}"                  # the captions
  --output "$WORDS"
  --min_count "${MIN_COUNT:-1}"                 # rarer words and phrases are left out
  ${COMMON_WORDS:+--common_words "$COMMON_WORDS"} # frequent words to add: the paper's 2of12
)
NUM_GPUS=${NUM_GPUS:-$has_gpu}
LAUNCH=(python -m llava_sea.labels.extract)
if [ -n "${HOSTFILE:-}" ] || { [ "$NUM_GPUS" -gt 1 ] && [ "$has_gpu" -gt 0 ]; }; then
  LAUNCH=(
    python -m llava_sea.train.launch --num_gpus "$((NUM_GPUS > 0 ? NUM_GPUS : 1))"
    --master_port "${MASTER_PORT:-29500}" ${HOSTFILE:+--hostfile "$HOSTFILE"} --module llava_sea.labels.extract
  )
fi
EXTRACT=(
  "${LAUNCH[@]}"
  --data_path "${PRETRAIN_DATA[@]}"                  # the images that its records name, once each
  --image_folder "$PRETRAIN_IMAGES"
  --image_aspect_ratio square                   # must be the training's: the same pixels
  --vision_tower "${LABEL_TOWER:-$VISION_TOWER}" # with its text tower; training's, or a transfer's
  --words "$WORDS"
  --output_dir "$LABELS"
  --sea_preset "${SEA_PRESET:-best}"            # or paper; --sea_features, --sea_sign, --sea_top_n win
  --on_bad_image fail                           # or skip: no labels for it, listed in the manifest
  "$@"
)
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${WORD_LIST[@]}"; echo
  printf '%q ' "${EXTRACT[@]}"; echo
  exit 0
fi

prepare
if [ ! -e "$WORDS" ]; then "${WORD_LIST[@]}"; fi
exec "${EXTRACT[@]}"
