# Sourced by every script: leaves a Python with this package first on PATH.
#
# - An environment that is active (LLAVA_SEA_PYTHON, VIRTUAL_ENV or CONDA_PREFIX) and has the package
#   and what it needs is used as it is.
# - Otherwise .venv in the checkout, made or brought up to date when pyproject.toml or
#   constraints.txt have changed since; when they have not, this costs a few milliseconds.
# - A .venv that is a link is used if it has the package and is never changed: it may belong to
#   another checkout. A folder of that name that no set-up has made is not emptied either.
# - With DRY_RUN=1 nothing is looked for and nothing is made: printing commands needs no Python.
#
# LLAVA_SEA_PYTHON=/path/to/python   use this interpreter and no other
# LLAVA_SEA_TORCH=cpu|default        which build of torch .venv gets; without it, the default build
#                                    where there is an NVIDIA device and on macOS, else the CPU's
# PYTHON=python3.12                  the interpreter that .venv is made with (3.10 or newer)

_sea_repo="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
_sea_venv="$_sea_repo/.venv"
_sea_stamp="$_sea_venv/.llava_sea_stamp"

_sea_say() { printf 'setup: %s\n' "$*" >&2; }

# What .venv must have been made from: the place, and the two files.
_sea_wanted() { printf '%s %s' "$_sea_repo" "$(cd -- "$_sea_repo" && cat pyproject.toml constraints.txt | cksum)"; }

_sea_torch_build() {
  if [ -n "${LLAVA_SEA_TORCH:-}" ]; then
    printf '%s' "$LLAVA_SEA_TORCH"
  elif [[ "$OSTYPE" != linux* ]] || { command -v nvidia-smi && { [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; }; } >/dev/null; then
    printf 'default'
  else
    printf 'cpu'
  fi
}

# The default build of torch serves where the CPU's would do, not the other way round.
_sea_is_current() {
  local made build
  [ -x "$_sea_venv/bin/python" ] && [ -r "$_sea_stamp" ] || return 1
  { read -r build; read -r made; } <"$_sea_stamp" || return 1
  [ "$made" = "$(_sea_wanted)" ] && { [ "$build" = default ] || [ "$build" = "$_sea_build" ]; }
}

# Run from / so that the checkout, when it is the working directory, does not count as installed.
_sea_has_package() {
  (cd / && "$1" - "$_sea_repo" >&2 <<'PYTHON'
import importlib.util, os, sys

if sys.version_info < (3, 10):
    sys.exit(1)
specs = [importlib.util.find_spec(n) for n in ("llava_sea", "torch", "transformers", "deepspeed")]
if None in specs:
    sys.exit(1)
home = os.path.dirname(os.path.dirname(os.path.realpath(specs[0].origin)))
if home != sys.argv[1]:
    print(f"setup: note: this environment's llava_sea is {home}, not {sys.argv[1]}")
PYTHON
  )
}

# Use a given interpreter if it serves; 1 when it does not.
_sea_use() {
  local folder
  _sea_has_package "$1" || return 1
  folder="$(cd -- "$(dirname -- "$(command -v "$1")")" && pwd)"
  [ -x "$folder/python" ] || { _sea_say "$1 serves, but there is no 'python' beside it, which deepspeed needs"; return 1; }
  PATH="$folder:$PATH"
}

_sea_active() {
  local prefix
  if [ -n "${LLAVA_SEA_PYTHON:-}" ]; then
    _sea_use "$LLAVA_SEA_PYTHON" && return
    _sea_say "LLAVA_SEA_PYTHON=$LLAVA_SEA_PYTHON cannot import llava_sea with torch, transformers and deepspeed (Python 3.10 or newer)."
    _sea_say "In it: pip install -c '$_sea_repo/constraints.txt' -e '$_sea_repo'; or unset LLAVA_SEA_PYTHON to use .venv."
    return 2
  fi
  for prefix in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    [ -n "$prefix" ] && [ -x "$prefix/bin/python" ] && [ ! "$prefix" -ef "$_sea_venv" ] || continue
    _sea_use "$prefix/bin/python" && return
    _sea_say "the active environment $prefix does not have this package; using $_sea_venv"
  done
  return 1
}

_sea_use_link() {
  [ -x "$_sea_venv/bin/python" ] && _sea_use "$_sea_venv/bin/python" && return
  _sea_say "$_sea_venv is a link to $(readlink -- "$_sea_venv"), which does not have this package and is left alone; remove the link, or name an interpreter that has it: LLAVA_SEA_PYTHON=/path/to/python"
  return 1
}

_sea_find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  _sea_say "no Python 3.10 or newer found${PYTHON:+ (PYTHON=$PYTHON)}; install one, or name it: PYTHON=/path/to/python3.12"
  return 1
}

_sea_pip() { "$_sea_venv/bin/python" -m pip -qq --no-input --disable-pip-version-check "$@"; }

_sea_make_venv() {
  local python
  # A copied or torn environment cannot be mended: its files hold another path, or pip is gone.
  if grep -qsF -e "=$_sea_venv" -e "=\"$_sea_venv" -e "='$_sea_venv" "$_sea_venv/bin/activate" &&
    _sea_pip --version >/dev/null 2>&1; then
    return
  fi
  if [ -n "$(ls -A -- "$_sea_venv" 2>/dev/null)" ] && [ -z "$_sea_had" ] && [ ! -e "$_sea_venv/pyvenv.cfg" ]; then
    _sea_say "$_sea_venv is no environment (it has no pyvenv.cfg) and is not emptied for one; move it away, or name an interpreter: LLAVA_SEA_PYTHON=/path/to/python"
    return 1
  fi
  python="$(_sea_find_python)" || return 1
  if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    _sea_say "$python has no venv module with pip; on Debian and Ubuntu: apt install python3-venv"
    return 1
  fi
  _sea_say "making $_sea_venv with $("$python" --version)"
  "$python" -m venv --clear "$_sea_venv"
}

# torch goes first and by name: as a mere dependency, pip may fetch gigabytes for a GPU that is not
# there. The CPU's index is left out of the rest: it mirrors only a part of what we need.
_sea_install_torch() {
  local version force=
  version="$(sed -n 's/^torch==//p' "$_sea_repo/constraints.txt")"
  if [ "$_sea_build" = cpu ]; then
    _sea_say "installing torch $version, the CPU build (no NVIDIA device here; LLAVA_SEA_TORCH=default for the other)"
    # --no-deps: its dependencies come with the next step, from the usual index.
    _sea_pip install --no-deps --retries 0 --timeout 5 \
      --index-url https://download.pytorch.org/whl/cpu "torch==$version" 2>/dev/null && return
    _sea_say "the CPU build is not within reach; taking the default index's, which may be large"
  else
    _sea_say "installing torch $version, the default build"
    [ "$_sea_had" != cpu ] || force=--force-reinstall
  fi
  _sea_pip install ${force:+"$force" --no-deps} "torch==$version"
}

_sea_install() {
  local wanted start=$SECONDS
  if _sea_is_current; then return; fi # Another script has just done it.
  _sea_had="$(head -n 1 "$_sea_stamp" 2>/dev/null)"
  # Without its stamp an interrupted set-up is taken up again next time.
  rm -f "$_sea_stamp"
  wanted="$(_sea_wanted)"
  _sea_make_venv && _sea_install_torch || return 1
  _sea_say "installing llava_sea and what it needs (constraints.txt)"
  (cd -- "$_sea_repo" && _sea_pip install -c constraints.txt -e '.[dev]') || return 1
  printf '%s\n%s\n' "$_sea_build" "$wanted" >"$_sea_stamp.new" && mv "$_sea_stamp.new" "$_sea_stamp"
  _sea_say "done in $((SECONDS - start)) s"
}

_sea_setup() {
  local status=0 _sea_build _sea_had=
  _sea_active || status=$?
  [ "$status" -ne 2 ] || return 1
  if [ "$status" -ne 0 ]; then
    _sea_build="$(_sea_torch_build)"
    if _sea_is_current; then
      :
    elif [ -L "$_sea_venv" ]; then
      _sea_use_link || return 1
    else
      mkdir -p "$_sea_repo/.cache"
      if ! (
        if command -v flock >/dev/null && ! flock -n 9; then
          _sea_say "another script is setting up; waiting for it"
          flock 9
        fi
        _sea_install
      ) 9>"$_sea_repo/.cache/setup.lock"; then
        _sea_say "failed; run the script again once the cause above is mended: it goes on from here"
        return 1
      fi
    fi
    export VIRTUAL_ENV="$_sea_venv"
    unset PYTHONHOME
    PATH="$_sea_venv/bin:$PATH"
  fi
  export PATH
  export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$_sea_repo/.cache/torch_extensions}"
  export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
}

if [ -z "${DRY_RUN:-}" ] && ! _sea_setup; then
  case $- in *i*) return 1 ;; *) exit 1 ;; esac
fi
