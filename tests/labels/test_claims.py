"""Claims: one holder at a time, the dead are taken over, a failure ends all who had joined."""

import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from llava_sea.errors import UserError
from llava_sea.labels import claims as module
from llava_sea.labels.claims import Claims
from llava_sea.processes import FailedElsewhereError, Processes


@pytest.fixture
def dead():
    """The id of a process that has ended and is not reaped, so that nobody else has it."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    while module.is_alive(process.pid):
        time.sleep(0.01)
    yield process.pid
    process.wait()


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Make the claims of another process: `pid` on `host`, this one if not given."""

    def make(pid, host=None, **options):
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: pid)
            if host:
                patched.setattr(module, "host_name", lambda: host)
            return Claims(tmp_path, **options)

    return make


def test_one_holds_a_claim_until_it_lets_go(tmp_path, other):
    one, two = Claims(tmp_path), other(os.getppid())
    assert two.take("a") and not one.take("a")
    one.release()  # nothing of its own
    assert not one.take("a") and one.take("b")
    two.close()
    assert one.take("a") and not two.take("b")


def test_the_claim_of_a_dead_process_is_taken_over_at_once_on_its_machine(tmp_path, other, dead):
    assert other(dead).take("a")
    assert other(os.getppid()).take("b")
    one = Claims(tmp_path)
    assert one.take("a") and not one.take("b")


def test_the_claim_of_another_machine_is_taken_over_when_it_is_not_touched(
    tmp_path, other, dead, monkeypatch
):
    far = other(dead, "far away")
    assert far.take("a")
    one = Claims(tmp_path)
    assert not one.take("a")
    before = time.time() - module.SILENCE_S - 5
    os.utime(tmp_path / "a", (before, before))
    monkeypatch.setattr(module, "_BEAT_S", 0.01)
    far.listen()
    while (tmp_path / "a").stat().st_mtime < before + 1:
        time.sleep(0.01)
    assert not one.take("a")  # it is touched
    far._closed.set()  # as killed
    time.sleep(0.05)
    os.utime(tmp_path / "a", (before, before))
    assert one.take("a")
    far.release()
    assert (tmp_path / "a").exists()  # it is no longer far's


def test_a_claim_that_was_cut_off_while_it_was_made_is_one_of_another_machine(tmp_path):
    (tmp_path / "a").touch()
    assert not Claims(tmp_path).take("a")
    os.utime(tmp_path / "a", (1, 1))
    assert Claims(tmp_path).take("a")


def test_what_is_done_once_is_done_by_one(tmp_path, other):
    made, done = [], tmp_path / "done"

    def work():
        made.append(1)
        time.sleep(0.1)
        done.touch()

    living = [process.pid for process in [psutil.Process(), *psutil.Process().parents()]]
    threads = [
        threading.Thread(target=other(pid).once, args=("a", done.exists, work)) for pid in living
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(threads) > 1 and not (tmp_path / "a").exists()


def test_a_failure_ends_those_who_had_joined_and_not_those_who_resume(tmp_path, other, monkeypatch):
    monkeypatch.setattr(module, "_BEAT_S", 0.01)
    first, silent, failing = Claims(tmp_path), Claims(tmp_path, speaks=False), other(os.getppid())
    for one in (first, silent, failing):
        one.listen()
    time.sleep(0.05)  # a file system's times are some milliseconds apart
    failing.take("a")
    failing.fail("no image")
    failing.close()
    with pytest.raises(UserError, match="another process of this run failed: no image"):
        first.take("a")
    end = time.monotonic() + 10
    with pytest.raises(FailedElsewhereError):
        while time.monotonic() < end:
            silent.check()
    time.sleep(0.05)
    resumed = Claims(tmp_path)
    resumed.listen()
    assert resumed.take("a")
    for one in (first, silent, resumed):
        one.close()


def test_one_that_never_joined_ends_nobody(tmp_path):
    Claims(tmp_path).fail("other flags")
    assert not list(tmp_path.iterdir())


def test_the_folder_that_went_is_told_from_a_claim_that_went(tmp_path):
    one = Claims(tmp_path / "claims")
    with pytest.raises(FileNotFoundError):
        one.take("a")


SLURM = {"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
RANK = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Processes()),
        ({"SLURM_NTASKS": "8"}, Processes()),  # salloc's shell
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, Processes(5, 8, 1, 4)),
        (SLURM | RANK | {"LOCAL_WORLD_SIZE": "2"}, Processes(3, 4, 1, 2)),
        (RANK | {"LOCAL_SIZE": "2"}, Processes(3, 4, 1, 2)),
        (RANK, Processes(3, 4, 1, 4)),
    ],
    ids=["alone", "salloc", "srun", "torchrun in srun", "deepspeed", "by hand"],
)
def test_a_process_knows_its_place_by_each_launcher(monkeypatch, environment, place):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Processes.here() == place


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "2"}, SLURM | {"SLURM_LOCALID": "x"}])
def test_an_environment_that_is_not_whole_is_refused(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="is set and the environment is not whole"):
        Processes.here()
