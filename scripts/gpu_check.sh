#!/usr/bin/env bash
# The first thing on a machine with a GPU: the tests that need one, then the benches at the paper's
# shapes in order of importance, within ten minutes in all. Results go into scripts/bench/results and
# scripts/bench/README.md, with device and date. Exit status: 0 well, 1 something failed, 2 no GPU.
#   bash scripts/gpu_check.sh [--budget SECONDS]
#   QUICK=1 (small sizes on a CPU, into runs/: shows that the command works)   DRY_RUN=1
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/setup_env.sh"
cd "$root"
export HF_HUB_OFFLINE=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

CHECK=(python -m scripts.bench.common.gpu_check ${QUICK:+--quick} "$@")
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${CHECK[@]}"
  echo
  exit 0
fi
exec "${CHECK[@]}"
