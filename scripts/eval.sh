#!/usr/bin/env bash
# The eight benchmarks: answers, scores and submissions of checkpoints, and one table of all.
#   bash scripts/eval.sh CHECKPOINT... [flags of python -m llava_sea.eval, e.g. --only pope,gqa]
#   bash scripts/eval.sh --help
#   --baseline CHECKPOINT (gains over it)   --server_scores FILE (what servers returned)
#   BENCHMARKS=playground/data/eval (LLaVA's layout)   NUM_GPUS=...   HOSTFILE=... (several machines)
#   DRY_RUN=1 (print the command)
# Without a checkpoint: the miniature world's eight, on what finetune.sh left there.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/setup_env.sh"
STAGE=eval
source "$root/scripts/recipe.sh"
source "$root/scripts/launch.sh"

if ! [[ $NUM_GPUS =~ ^[1-9][0-9]*$ ]]; then
  echo "NUM_GPUS=$NUM_GPUS: must be a number of GPUs, at least 1" >&2
  exit 2
fi

# What is no flag and no flag's value is a checkpoint, wherever it stands.
CHECKPOINTS=()
GIVEN=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      if [ -n "${DRY_RUN:-}" ]; then print_commands python -m llava_sea.eval --help; exit 0; fi
      exec python -m llava_sea.eval --help
      ;;
    -*=*) GIVEN+=("$1") ;;
    -*)
      GIVEN+=("$1" ${2+"$2"})
      if [ $# -gt 1 ]; then shift; fi
      ;;
    *) CHECKPOINTS+=("$1") ;;
  esac
  shift
done
FLAGS=()
if [ ${#CHECKPOINTS[@]} -eq 0 ]; then
  SEA=$root/checkpoints/$RUN-finetune
  PLAIN=$root/checkpoints/$RUN-finetune-from-$RUN-pretrain
  BENCHMARKS=${BENCHMARKS:-$root/playground/data/mini-eval}
  for folder in "$PLAIN" "$SEA"; do
    if [ -f "$folder/model.safetensors" ]; then CHECKPOINTS+=("$folder"); fi
  done
  if [ ${#CHECKPOINTS[@]} -eq 0 ] && [ -z "${DRY_RUN:-}" ]; then
    echo "no checkpoint is named, and none is in $SEA. Run first:" >&2
    echo "  bash scripts/pretrain_sea.sh && bash scripts/finetune.sh" >&2
    echo "and for plain LLaVA beside it:" >&2
    echo "  bash scripts/pretrain.sh && PROJECTOR=checkpoints/$RUN-pretrain/mm_projector.bin bash scripts/finetune.sh" >&2
    exit 2
  fi
  if [ ${#CHECKPOINTS[@]} -ne 1 ]; then
    CHECKPOINTS=("$PLAIN" "$SEA")
    FLAGS+=(--baseline "$PLAIN")
  fi
  DRAW=(python -m playground.benchmarks --out "$BENCHMARKS")
fi
# The miniature benchmarks (their folder has a manifest) have a judge that compares words.
asked=${BENCHMARKS:-}
for ((i = 0; i + 1 < ${#GIVEN[@]}; i++)); do
  if [ "${GIVEN[i]}" = --data ]; then asked=${GIVEN[i + 1]}; fi
done
if [ -n "${DRAW:-}" ] || [ -f "$asked/manifest.json" ]; then
  case " ${GIVEN[*]-} " in
    *" --judge"*) ;;
    *) FLAGS+=(--judge local) ;;
  esac
fi

RUN_EVAL=(python -m llava_sea.eval)
# The GPUs share the questions.
if [ -n "${HOSTFILE:-}" ] || { [ "$NUM_GPUS" -gt 1 ] && [ "$has_gpu" -gt 0 ]; }; then
  RUN_EVAL=(
    python -m llava_sea.train.launch --num_gpus "$NUM_GPUS" --master_port "${MASTER_PORT:-29500}"
    ${HOSTFILE:+--hostfile "$HOSTFILE"} --module llava_sea.eval
  )
else
  unset OMP_NUM_THREADS # one process: all cores are its own
fi
RUN_EVAL+=(
  "${CHECKPOINTS[@]}" --data "${BENCHMARKS:-$root/playground/data/eval}"
  ${FLAGS[@]+"${FLAGS[@]}"} ${GIVEN[@]+"${GIVEN[@]}"}
)

if [ -n "${DRY_RUN:-}" ]; then
  if [ -n "${DRAW:-}" ]; then print_commands "${DRAW[@]}"; fi
  print_commands "${RUN_EVAL[@]}"
  exit 0
fi
if [ -n "${DRAW:-}" ]; then "${DRAW[@]}"; fi
run_and_wait "${RUN_EVAL[@]}"
