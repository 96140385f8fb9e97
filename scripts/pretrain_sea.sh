#!/usr/bin/env bash
# Stage 1 with SEA: words for every patch, then the projector with L = L_g + lambda * L_a (eq. 13),
# then a report. Without arguments on the miniature world; RECIPE=vicuna-7b for the real thing.
#   bash scripts/pretrain_sea.sh [flags of llava_sea/train/train_mem.py, e.g. --sea_weight 0.5]
#   SEA_PRESET=paper (labels and training as the paper prints them; default: best)
#   WARM_START=0 (1, best's default: first as many steps of the alignment loss alone, without the LLM)
#   BASELINE=... (the plain LLaVA run that the report shows beside this one; default: the finished
#   run of pretrain.sh, whose folder is this one's without "-sea")
#   OUTPUT_DIR=...  NUM_GPUS=...  DRY_RUN=1 (print the commands only)
set -euo pipefail
case "${SEA_PRESET:-best}" in best | paper) ;; *)
  echo "SEA_PRESET=$SEA_PRESET: choose best or paper" >&2
  exit 2
esac
if [ "${SEA_PRESET:-best}" = best ]; then : "${WARM_START:=1}"; else : "${WARM_START:=0}"; fi
case $WARM_START in 0 | 1) ;; *)
  echo "WARM_START=$WARM_START: choose 1 (a warm start as long as stage 1) or 0 (none)" >&2
  exit 2
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/setup_env.sh"
STAGE=pretrain-sea
source "$root/scripts/recipe.sh"

SEA_FLAGS=(
  --sea_labels "$LABELS"                        # mined below if they are not there
  --sea_preset "${SEA_PRESET:-best}"            # how training uses them; they must be mined so
  --sea_weight 1.0                              # lambda
  --sea_window 2                                # one patch of every 2 x 2
  --sea_negatives local                         # negatives from the device's own batch
)
if [ -n "${LABEL_TOWER:-}" ]; then
  SEA_FLAGS+=(--sea_transfer True)              # the labels are another encoder's
fi
if [ -n "${DRY_RUN:-}" ]; then bash "$root/scripts/extract_labels.sh"; fi
source "$root/scripts/stage1.sh"

if [ -n "${BASELINE:-}" ] && ! is_finished "$BASELINE"; then
  echo "BASELINE=$BASELINE: holds no mm_projector.bin; it is the output folder of scripts/pretrain.sh" >&2
  exit 2
fi

prepare
# Labels, once: the corpus's words, then the best of them for every patch of every picture.
# Training refuses labels that do not fit it.
if [ ! -e "$LABELS/manifest.json" ]; then run_and_wait bash "$root/scripts/extract_labels.sh"; fi
# The projector's first values, from the alignment loss alone; stage 1 starts from them and from the
# temperature.
if [ "$WARM_START" = 1 ]; then
  run_and_wait "${WARM[@]}"
  while IFS= read -r word; do TRAIN+=("$word"); done <"$WARM_DIR/stage1_flags"
fi
run_and_wait "${TRAIN[@]}"

# The report. A baseline that was asked for must fit; one that merely lies there need not.
REPORT+=(--run "$OUTPUT_DIR")
plain=${OUTPUT_DIR%-sea}
if [ -n "${BASELINE:-}" ]; then
  run_and_wait "${REPORT[@]}" --baseline "$BASELINE"
elif [ "$plain" != "$OUTPUT_DIR" ] && is_finished "$plain"; then
  run_and_return "${REPORT[@]}" --baseline "$plain" || run_and_wait "${REPORT[@]}"
else
  run_and_wait "${REPORT[@]}"
  if [ "$plain" != "$OUTPUT_DIR" ]; then
    echo "for plain LLaVA beside SEA: ${RECIPE_PREFIX}OUTPUT_DIR=$plain bash scripts/pretrain.sh"
  else
    echo "for plain LLaVA beside SEA, with RUN the output folder of scripts/pretrain.sh:"
    echo "  ${REPORT[*]} --baseline RUN"
  fi
fi
