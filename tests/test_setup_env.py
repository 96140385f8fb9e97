"""scripts/setup_env.sh against a `python3` that only writes down what it is asked to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

FAKE_PYTHON = """#!/usr/bin/env bash
# Logs its arguments; makes a fake .venv; fails where the test says so.
here="$(cd "$(dirname "$0")" && pwd)"
echo "$(basename "$(dirname "$here")") ${*//$'\n'/ }" >>"$LOG"
case "$*" in
  *"import sys, venv, ensurepip"*) exit "${OLD_PYTHON:-0}" ;;
  "-m venv --clear "*)
    sleep 0.1
    rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python"
    touch "$4/pyvenv.cfg"
    echo "VIRTUAL_ENV=\\"$4\\"" >"$4/bin/activate" ;;
  *"-e .[dev]") exit "${FAIL_INSTALL:-0}" ;;
  *"--index-url"*) exit "${FAIL_CPU_INDEX:-0}" ;;
  *"find_spec"*) exit "${NO_PACKAGE:-0}" ;;
esac
"""


class Checkout:
    """A copy of what set-up reads, at a path with a space, and a log of what Python was told."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a check out"
        self.log = folder / "log"
        self.fakes = folder / "fake" / "bin"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("scripts/setup_env.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(REPOSITORY / name, self.root / name)
        self.add_python(self.fakes / "python3")
        self.venv = self.root / ".venv"

    def add_python(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FAKE_PYTHON)
        path.chmod(0o755)

    def start(self, **env: str) -> "subprocess.Popen[str]":
        script = (
            'set -euo pipefail; source "$ROOT/scripts/setup_env.sh"; command -v python;'
            'echo "$TORCH_EXTENSIONS_DIR $TOKENIZERS_PARALLELISM"'
        )
        given = {"PATH": f"{self.fakes}:/usr/bin:/bin", "HOME": str(self.root.parent)}
        given |= {"ROOT": str(self.root), "LOG": str(self.log), "LLAVA_SEA_TORCH": "cpu", **env}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(["bash", "-c", script], text=True, cwd="/", env=given, **pipes)

    def source(self, **env: str) -> tuple[int, str, str, list[str]]:
        """Source the file: exit status, stdout, stderr, and what Python was told meanwhile."""
        self.log.write_text("")
        process = self.start(**env)
        out, err = process.communicate()
        return process.returncode, out, err, self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path)


def torch_version() -> str:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def test_first_time_makes_the_environment_torch_first(checkout):
    status, out, err, log = checkout.source()
    assert status == 0, err
    assert "setup: making" in err and "setup: done" in err
    python, exported = out.splitlines()
    assert python == f"{checkout.venv}/bin/python"
    assert exported == f"{checkout.root}/.cache/torch_extensions false"
    made = next(i for i, line in enumerate(log) if "-m venv" in line)
    pips = [line for line in log[made:] if " install " in line]
    assert len(pips) == 2
    assert pips[0].endswith(torch_version()) and "whl/cpu" in pips[0]
    assert pips[1].endswith("install -c constraints.txt -e .[dev]")


# A file that starts with "#!" is a script of its own, the others are sourced.
SCRIPTS = [p.name for p in (REPOSITORY / "scripts").glob("*.sh") if p.read_text()[:2] == "#!"]


@pytest.mark.parametrize("recipe", ["mini", "vicuna-7b-dinov2"])
def test_a_dry_run_needs_no_environment(checkout, recipe):
    for name in ("scripts", "zero_configs", "playground/models"):
        ignore = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(REPOSITORY / name, checkout.root / name, ignore=ignore, dirs_exist_ok=True)
    checkout.add_python(checkout.fakes / "python")
    before = sorted(checkout.root.rglob("*"))
    assert {"pretrain_sea.sh", "finetune.sh", "eval.sh", "study.sh", "test.sh"} <= set(SCRIPTS)
    env = {"PATH": f"{checkout.fakes}:/usr/bin:/bin", "LOG": str(checkout.log)}
    env |= {"LLAVA_SEA_PYTHON": "/no/python", "DRY_RUN": "1", "RECIPE": recipe}
    for script, *flags in [*([name] for name in SCRIPTS), ["eval.sh", "--help"]]:
        command = ["bash", str(checkout.root / "scripts" / script), *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert done.returncode == 0, (script, done.stderr)
        assert "setup:" not in done.stderr and "python -m" in done.stdout.replace("\\", ""), script
    assert not checkout.log.exists() and sorted(checkout.root.rglob("*")) == before


def test_current_environment_starts_no_python(checkout):
    checkout.source()
    status, out, err, log = checkout.source()
    assert (status, err, log) == (0, "", [])
    assert out.startswith(f"{checkout.venv}/bin/python\n")
    # An activated .venv is still this checkout's own.
    assert checkout.source(VIRTUAL_ENV=str(checkout.venv))[3] == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_update_without_a_new_environment(checkout, name):
    checkout.source()
    with (checkout.root / name).open("a") as file:
        file.write("# changed\n")
    status, _, _, log = checkout.source()
    assert status == 0
    assert sum(" install " in line for line in log) == 2
    assert not any("-m venv" in line for line in log)
    assert checkout.source()[3] == []


def test_an_interrupted_set_up_is_taken_up_again(checkout):
    status, out, err, _ = checkout.source(FAIL_INSTALL="1")
    assert (status, out) == (1, "")
    assert "run the script again" in err
    status, _, _, log = checkout.source()
    assert status == 0
    assert any(line.endswith("-e .[dev]") for line in log)


def test_an_environment_of_another_place_is_made_anew(checkout):
    checkout.source()
    (checkout.venv / ".stamp").write_text("/elsewhere 123 45\n")
    assert any("-m venv --clear" in line for line in checkout.source()[3])


@pytest.fixture
def elsewhere(checkout, tmp_path):
    """Another checkout's environment, to which .venv is a link."""
    other = tmp_path / "other" / "venv"
    checkout.add_python(other / "bin" / "python")
    (other / "pyvenv.cfg").write_text("home = /usr/bin")
    checkout.venv.symlink_to(other)
    return other


def test_a_linked_environment_is_used_if_it_has_the_package_and_never_changed(checkout, elsewhere):
    status, out, err, log = checkout.source()
    assert (status, err) == (0, "")
    assert out.startswith(f"{checkout.venv}/bin/python\n")
    assert len(log) == 1 and log[0].endswith(str(checkout.root))
    assert {path.name for path in elsewhere.iterdir()} == {"bin", "pyvenv.cfg"}
    status, out, err, log = checkout.source(NO_PACKAGE="1")
    assert (status, out) == (1, "")
    assert "is a link to" in err and err.count("\n") == 1 and len(log) == 1
    shutil.rmtree(elsewhere)  # a link to nowhere
    assert "is a link to" in checkout.source()[2] and not elsewhere.exists()


def test_a_folder_that_is_no_environment_is_not_emptied(checkout):
    checkout.venv.mkdir()
    (checkout.venv / "thesis.tex").write_text("all of it")
    status, _, err, log = checkout.source()
    assert status == 1
    assert "is no environment" in err and "LLAVA_SEA_PYTHON=" in err
    assert not any("-m venv" in line for line in log)
    assert (checkout.venv / "thesis.tex").read_text() == "all of it"


def test_without_the_cpu_index_the_default_one_serves(checkout):
    status, _, err, log = checkout.source(FAIL_CPU_INDEX="1")
    assert status == 0
    assert "not within reach" in err
    assert [line for line in log if " install " in line][1].endswith(f"install {torch_version()}")


def test_an_active_environment_is_used_if_it_has_the_package_and_never_changed(checkout, tmp_path):
    active = tmp_path / "active"
    checkout.add_python(active / "bin" / "python")
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        status, out, err, log = checkout.source(**{name: str(active)})
        assert (status, err) == (0, "")
        assert out.startswith(f"{active}/bin/python\n")
        assert len(log) == 1 and log[0].startswith("active -c import")
    assert not checkout.venv.exists()
    status, out, _, log = checkout.source(VIRTUAL_ENV=str(active), NO_PACKAGE="1")
    assert status == 0
    assert out.startswith(f"{checkout.venv}/bin/python\n")
    assert sum(line.startswith("active ") for line in log) == 1


def test_a_named_interpreter_is_used_or_refused(checkout):
    named = str(Path(sys.executable).parent / "python")
    status, out, err, log = checkout.source(
        LLAVA_SEA_PYTHON=named, PYTHONPATH=str(REPOSITORY), PYTHONDONTWRITEBYTECODE="1"
    )
    assert status == 0, err
    assert (out.splitlines()[0], log) == (named, [])
    assert f"this llava_sea is {REPOSITORY}" in err
    status, out, err, _ = checkout.source(LLAVA_SEA_PYTHON="/no/such/python")
    assert (status, out) == (1, "")
    assert "LLAVA_SEA_PYTHON=/no/such/python does not have this package" in err


def test_an_old_python_or_one_without_venv_is_refused(checkout):
    status, _, err, log = checkout.source(OLD_PYTHON="1", PYTHON="python3")
    assert status == 1
    assert "python3 is missing, older than 3.10 or without venv" in err and "PYTHON=" in err
    assert not any("-m venv" in line for line in log)


@pytest.mark.skipif(not shutil.which("flock"), reason="the lock needs flock")
def test_two_scripts_at_once_set_up_once(checkout):
    checkout.log.write_text("")
    processes = [checkout.start(), checkout.start()]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert sum("-m venv" in line for line in checkout.log.read_text().splitlines()) == 1


def test_the_scripts_are_valid_bash():
    for script in [*REPOSITORY.glob("scripts/**/*.sh"), REPOSITORY / ".ci" / "run"]:
        subprocess.run(["bash", "-n", script], check=True, env=os.environ)
