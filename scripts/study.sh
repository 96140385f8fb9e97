#!/usr/bin/env bash
# The paper's claims on the miniature world: stage 1, stage 2, the eight, three LLMs, five seeds.
#   bash scripts/study.sh [flags of python -m playground.claims, e.g. --seeds 0-1 --llms llm-small]
#   --ablations (one change of `best` at a time, dev scenes, three seeds)
#   QUICK=1 (minutes; shows that all works, is no evidence)   DRY_RUN=1 (print the command)
#   WORKERS=2 (processes of one thread)
# Stop it at any moment; the same command goes on. Tables: playground/claims/results/summary.md.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/setup_env.sh"
cd "$root"

# The models are in the checkout and the data are drawn here: nothing is fetched from a hub.
export HF_HUB_OFFLINE=1
RUN=(python -m playground.claims --workers "${WORKERS:-2}")
if [ -n "${QUICK:-}" ]; then RUN+=(--quick); fi
RUN+=("$@")

if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${RUN[@]}"
  echo
  exit 0
fi
exec "${RUN[@]}"
