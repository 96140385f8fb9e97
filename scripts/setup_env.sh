# Sourced by every script: puts a Python that has this package first on PATH. An active environment
# (VIRTUAL_ENV or CONDA_PREFIX) that has the package is used as it is. Otherwise .venv in the checkout:
# made at the first start, brought up to date when pyproject.toml or constraints.txt have changed.
# With DRY_RUN=1 nothing is looked for and nothing is made.
#   LLAVA_SEA_PYTHON=/path/to/python   use this interpreter and no other
#   LLAVA_SEA_TORCH=cpu|default        build of torch in .venv (default: cpu where no NVIDIA device is)
#   PYTHON=python3.12                  the interpreter that .venv is made with (3.10 or newer)

_sea_repo="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
_sea_venv="$_sea_repo/.venv"
_sea_active="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"

_sea_say() { printf 'setup: %s\n' "$*" >&2; }
_sea_pip() { "$_sea_venv/bin/python" -m pip -qq --no-input --disable-pip-version-check "$@"; }

# What .venv must have been made from: the place and the two files.
_sea_wanted() { (cd -- "$_sea_repo" && pwd -P && cat pyproject.toml constraints.txt | cksum); }
_sea_is_current() { [ -x "$_sea_venv/bin/python" ] && [ "$(cat "$_sea_venv/.stamp" 2>/dev/null)" = "$(_sea_wanted)" ]; }

# Use an interpreter if it has the package; the working directory does not count.
_sea_use() {
  command -v "$1" >/dev/null && "$1" -c 'import importlib.util, os, sys; sys.path = [p for p in sys.path if p]
specs = [importlib.util.find_spec(n) for n in ("llava_sea", "torch", "transformers", "deepspeed")]
home = None in specs or os.path.dirname(os.path.dirname(os.path.realpath(specs[0].origin)))
if home not in (True, sys.argv[1]): print(f"setup: note: this llava_sea is {home}", file=sys.stderr)
sys.exit(home is True)' "$_sea_repo" && PATH="$(cd -- "$(dirname -- "$(command -v "$1")")" && pwd):$PATH"
}

# torch goes first and by name: as a mere dependency pip may fetch gigabytes for a GPU that is not there.
_sea_install_torch() {
  local torch="$(grep '^torch==' "$_sea_repo/constraints.txt")"
  if [ "${LLAVA_SEA_TORCH:-$(command -v nvidia-smi >/dev/null && echo default || echo cpu)}" = cpu ]; then
    _sea_say "installing $torch, the CPU build (LLAVA_SEA_TORCH=default for the other)"
    _sea_pip install --no-deps --retries 0 --timeout 5 --index-url https://download.pytorch.org/whl/cpu "$torch" 2>/dev/null && return
    _sea_say "the CPU build is not within reach; taking the default index's, which may be large"
  fi
  _sea_pip install "$torch"
}

_sea_install() {
  local start=$SECONDS python=${PYTHON:-python3}
  if _sea_is_current; then return; fi # another script has just done it
  if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    _sea_say "$python is missing, older than 3.10 or without venv (apt install python3-venv); name another: PYTHON=python3.12"
    return 1
  fi
  if [ -e "$_sea_venv" ] && [ ! -e "$_sea_venv/pyvenv.cfg" ]; then
    _sea_say "$_sea_venv is no environment; move it away, or name one: LLAVA_SEA_PYTHON=..." && return 1
  fi
  _sea_say "making $_sea_venv (some minutes, once)"
  # Made for another place, it is made anew; else only what has changed is installed.
  [ "$(head -n 1 "$_sea_venv/.stamp" 2>/dev/null)" = "$_sea_repo" ] || "$python" -m venv --clear "$_sea_venv" || return 1
  _sea_install_torch || return 1
  (cd -- "$_sea_repo" && _sea_pip install -c constraints.txt -e '.[dev]') || return 1
  _sea_wanted >"$_sea_venv/.stamp"
  _sea_say "done in $((SECONDS - start)) s"
}

_sea_setup() {
  export PATH TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$_sea_repo/.cache/torch_extensions}"
  export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
  if [ -n "${LLAVA_SEA_PYTHON:-}" ]; then
    if _sea_use "$LLAVA_SEA_PYTHON"; then return; fi
    _sea_say "LLAVA_SEA_PYTHON=$LLAVA_SEA_PYTHON does not have this package; in it: pip install -c constraints.txt -e '$_sea_repo'"
    return 1
  elif [ -n "$_sea_active" ] && [ ! "$_sea_active" -ef "$_sea_venv" ] && _sea_use "$_sea_active/bin/python"; then :
  elif [ -L "$_sea_venv" ]; then # another checkout's: used, never changed
    _sea_use "$_sea_venv/bin/python" && return
    _sea_say "$_sea_venv is a link to an environment without this package; remove the link" && return 1
  else
    mkdir -p "$_sea_repo/.cache"
    if ! _sea_is_current && ! (if command -v flock >/dev/null; then flock 9; fi && _sea_install) 9>"$_sea_repo/.cache/setup.lock"; then
      _sea_say "failed; fix the cause above and run the script again" && return 1
    fi
    export VIRTUAL_ENV="$_sea_venv" PATH="$_sea_venv/bin:$PATH"
  fi
}

if [ -z "${DRY_RUN:-}" ] && ! _sea_setup; then case $- in *i*) return 1 ;; *) exit 1 ;; esac; fi
