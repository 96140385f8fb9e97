#!/usr/bin/env bash
# Lint, types, tests: `bash scripts/test.sh [pytest arguments]`.
# The last line is pytest's; the exit status is pytest's, or 1 when only lint or types fail.
#   DRY_RUN=1 (print the commands)
set -euo pipefail

source "$(dirname -- "${BASH_SOURCE[0]}")/setup_env.sh"
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

if [ -n "${DRY_RUN:-}" ]; then
  printf '%s\n' "ruff check ." "ruff format --check ." "mypy llava_sea playground"
  printf '%q ' python -m pytest "$@"
  echo
  exit 0
fi

# Nothing is fetched from a model hub in the tests.
export HF_HUB_OFFLINE=1

failed=()
ruff check . || failed+=("ruff check")
ruff format --check . || failed+=("ruff format")
mypy llava_sea playground || failed+=("mypy")
for step in ${failed[@]+"${failed[@]}"}; do
  echo "FAILED: $step"
done

status=0
python -m pytest "$@" || status=$?
if [ "$status" -eq 0 ] && [ "${#failed[@]}" -gt 0 ]; then
  status=1
fi
exit "$status"
