#!/usr/bin/env bash
# Before the first real step: one page that says whether everything works on this machine, whether
# both stages fit, and how many hours they take. Exit status: 0 ready, 1 not, with the ways out.
#   bash scripts/preflight.sh [flags of training, e.g. --per_device_train_batch_size 8; those of one
#   stage go to it alone, all others to both]
#   RECIPE=vicuna-7b   STAGES="1 2" (or one of them)   TUNE=finetune_lora (how stage 2 is tuned)
#   GPU_MEMORY=24 (GB that a GPU will have, where none is; default: 80)   NUM_GPUS=...
#   PAGE=page.json (the file for a report of a fault)   SEA_PRESET=paper   DRY_RUN=1 (print the command)
set -euo pipefail
case "${TUNE:=finetune}" in finetune | finetune_lora) ;; *)
  echo "TUNE=$TUNE: choose finetune or finetune_lora" >&2
  exit 2
esac
case "${SEA_PRESET:-best}" in best | paper) ;; *)
  echo "SEA_PRESET=$SEA_PRESET: choose best or paper" >&2
  exit 2
esac
if ! [[ ${NUM_GPUS:-1} =~ ^[1-9][0-9]*$ ]]; then
  echo "NUM_GPUS=$NUM_GPUS: must be a number of GPUs, at least 1" >&2
  exit 2
fi
case " ${STAGES:=1 2} " in " 1 " | " 2 " | " 1 2 " | " 2 1 ") ;; *)
  echo "STAGES=$STAGES: choose 1, 2 or both" >&2
  exit 2
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/setup_env.sh"
STAGE=preflight
source "$root/scripts/recipe.sh"

# Adds to `parts` the flags of each training that a script would start, after the given word (stage
# 1's warm start after --warm_start), and takes its processes.
add_flags() {
  local lines line words
  lines=$(DRY_RUN=1 bash "$root/scripts/$2.sh" "${@:3}" | grep 'train_mem.py ')
  while IFS= read -r line; do
    eval "words=($line)" # as the script has quoted it
    while [[ ${words[0]} != *train_mem.py ]]; do
      if [ "${words[0]}" = --num_gpus ]; then processes=${words[1]}; fi
      words=("${words[@]:1}")
    done
    case " ${words[*]} " in
      *" --sea_align_only True "*) parts+=(--warm_start) ;;
      *) parts+=("$1") ;;
    esac
    parts+=("${words[@]:1}")
  done <<<"$lines"
}

PREFLIGHT=(
  python -m llava_sea.preflight
  --preset "${SEA_PRESET:-best}"
  --output "${PAGE:-$root/runs/preflight/$RUN.json}"
  ${LABEL_TOWER:+--label_tower "$LABEL_TOWER"}
  ${GPU_MEMORY:+--gpu_memory "$GPU_MEMORY"}
)
if [ -e "$WORDS" ]; then PREFLIGHT+=(--words "$WORDS"); fi
if [ -e "${COMMON_WORDS:-}" ]; then PREFLIGHT+=(--common_words "$COMMON_WORDS"); fi
if [ -z "${DRY_RUN:-}" ]; then prepare; fi
parts=()
for stage in $STAGES; do
  case $stage in
    1) add_flags --stage1 pretrain_sea "$@" ;;
    2) add_flags --stage2 "$TUNE" "$@" ;;
  esac
done
PREFLIGHT+=(--num_gpus "$processes" "${parts[@]}")

if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${PREFLIGHT[@]}"
  echo
  exit 0
fi
exec "${PREFLIGHT[@]}"
