#!/usr/bin/env bash
# The study: what an LLM learns from an image with and without SEA, on the miniature world.
#   bash scripts/study.sh [flags of python -m playground.study run, e.g. --llms llm-small --seeds 10]
#   QUICK=1 (minutes; shows that all works, is no evidence)   DRY_RUN=1 (print the command)
#   WORKERS=2 (processes of one thread)
# Stop it at any moment; the same command resumes. Tables: python -m playground.study report
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/setup_env.sh"
cd "$root"

# The models are in the checkout and the data are drawn here: nothing is fetched from a hub.
export HF_HUB_OFFLINE=1
RUN=(python -m playground.study run --workers "${WORKERS:-2}" "$@")

if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${RUN[@]}"
  echo
  exit 0
fi
exec "${RUN[@]}"
