"""The launcher's last line, with a `deepspeed` that only says and ends as the test tells it."""

import os
import subprocess
import sys

import pytest

FAKE = f"""#!{sys.executable}
import os, sys
from llava_sea.errors import UserError, run_command

def rank(number, *words):
    def main():
        raise UserError(" ".join(words))
    if os.fork() == 0:
        os.environ["RANK"] = str(number)
        run_command(main)
    os.wait()

"""
DROWNED = (
    'rank(1, "no file x"); rank(0, "no file x"); print("Traceback of gloo", file=sys.stderr)\n'
)


@pytest.fixture
def launched(tmp_path, repo):
    """Run the launcher over a fake deepspeed; returns status and stderr's lines."""

    def run(script, *arguments):
        fake = tmp_path / "bin" / "deepspeed"
        fake.parent.mkdir()
        fake.write_text(FAKE + script)
        fake.chmod(0o755)
        (tmp_path / "tmp").mkdir()
        env = {"PATH": f"{fake.parent}:{os.environ['PATH']}", "PYTHONPATH": str(repo)}
        command = [sys.executable, "-m", "llava_sea.train.launch", *arguments]
        done = subprocess.run(
            command,
            env=os.environ | env | {"TMPDIR": str(tmp_path / "tmp")},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not any(p.name.startswith("llava_sea") for p in (tmp_path / "tmp").iterdir())
        return done.returncode, done.stderr.splitlines()

    return run


def test_what_a_rank_said_is_the_last_line(launched):
    status, lines = launched(DROWNED + "sys.exit(1)\n", "train_mem.py")
    assert status == 2
    assert lines[-2:] == ["Traceback of gloo", "error: no file x"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train_mem.py"], "resumes from the last complete checkpoint"),
        (["--module", "llava_sea.labels.extract"], "resumes from the finished shards"),
        (["--module", "llava_sea.eval", "--benchmark", "gqa"], "resumes from its answers on disk"),
    ],
)
def test_a_death_without_a_word_says_how_to_go_on(launched, arguments, message):
    status, lines = launched("sys.exit(7)\n", *arguments)
    assert status == 7
    assert lines[-1].startswith("error: a process of this run died (status 7)")
    assert lines[-1].endswith(message)


def test_a_run_that_ends_well_says_nothing(launched):
    assert launched("", "train_mem.py") == (0, [])


def test_a_signal_reaches_deepspeed_where_pdsh_has_started_the_ranks(launched, tmp_path):
    pdsh = tmp_path / "pdsh"
    pdsh.write_text("#!/bin/sh\nsleep 600 & wait  # deepspeed.launcher.launch\n")
    pdsh.chmod(0o755)
    script = f"""import signal, subprocess, time
child = subprocess.Popen([{str(pdsh)!r}, "deepspeed.launcher.launch"], start_new_session=True)
def end(*_):
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    sys.exit(1)
signal.signal(signal.SIGTERM, end)
time.sleep(1)
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(600)
"""
    assert launched(script, "train_mem.py") == (143, [])
