"""Files and folders of one writer: left-overs, locks, other things, writes that fail."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from llava_sea.errors import UserError, cannot_write, naming
from llava_sea.files import (
    check_folder,
    is_alive,
    only_writer,
    open_atomically,
    refuse_other_things,
    write_atomically,
)


@pytest.fixture
def zombie():
    """A process that was killed and that nobody has waited for."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    seen = psutil.Process(process.pid)
    process.kill()
    while seen.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    yield seen
    process.wait()


def test_a_process_that_was_killed_and_not_reaped_is_not_alive(zombie):
    assert zombie.is_running()  # says psutil
    assert not is_alive(zombie.pid)
    assert is_alive(os.getpid())


def test_a_dead_writers_half_file_goes_with_the_next_write(tmp_path, zombie):
    with open_atomically(tmp_path / "x") as file:
        own = Path(file.name).name
    left = own.replace(f".{os.getpid()}.", f".{zombie.pid}.")
    living = own.replace(f".{os.getpid()}.", f".{os.getppid()}.")
    other = {left.replace(".x.", ".y."), ".x.00000000" + left[left.index(f".{zombie.pid}.") :]}
    for name in (left, living, *other):  # of another file, and of another machine
        (tmp_path / name).write_bytes(b"half")
    write_atomically(tmp_path / "x", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"x", living, *other}


def test_a_write_that_fails_names_the_file_and_the_cause(tmp_path, file_limit):
    path = tmp_path / "x"
    path.write_bytes(b"former")
    file_limit(10_000)
    with pytest.raises(OSError, match="File too large") as caught:
        write_atomically(path, bytes(20_000))
    assert caught.value.filename == str(path)
    said = cannot_write(caught.value)
    assert said.startswith(f"{path}: File too large (a file may have 10,000 bytes")
    assert path.read_bytes() == b"former" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (Exception("File too large (os error 27)"), errno.EFBIG),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), 0),
        (RuntimeError("basic_ios::clear: iostream error"), 0),
    ],
    ids=["python", "rust", "torch", "torch's end"],
)
def test_every_librarys_failed_write_is_one_kind_of_error(tmp_path, error, number):
    with pytest.raises(OSError) as caught, naming(tmp_path / "x"):
        raise error
    assert caught.value.filename == str(tmp_path / "x")
    assert caught.value.errno == (number or errno.EIO)  # there is room, and torch says no more


def test_other_errors_pass_as_they_are(tmp_path):
    for error in (RuntimeError("shapes"), FileNotFoundError(errno.ENOENT, "gone"), KeyError("x")):
        with pytest.raises(type(error)) as caught, naming(tmp_path):
            raise error
        assert caught.value is error


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError) as caught, open_atomically(tmp_path / "gone" / "x"):
        pass
    assert caught.value.filename == str(tmp_path / "gone" / "x")


def test_a_lock_is_let_go_by_a_process_that_ends_and_not_held_by_its_children(tmp_path):
    lock = tmp_path / ".lock"
    with only_writer(lock, "busy") as held:
        assert held
        with pytest.raises(UserError, match="busy"), only_writer(lock, "busy"):
            pass
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # as a data worker: it lives on
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    with only_writer(lock, "busy"):
        pass
    os.close(writer)
    os.waitpid(child, 0)


@pytest.mark.parametrize("names", [["config.json"], ["runs", "thesis.doc"], list("abcdefgh")])
def test_other_things_are_named_and_left_hidden_files_and_logs_are_in_nobodys_way(tmp_path, names):
    refuse_other_things(tmp_path / "not there", "--out")
    for name in (".gitkeep", "train.log", "slurm-7.out", "run.sh"):
        (tmp_path / name).touch()
    refuse_other_things(tmp_path, "--out")
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"^--out {tmp_path}: holds other things \({names[0]}"):
        refuse_other_things(tmp_path, "--out")
    refuse_other_things(tmp_path, "--out", names)
    assert len(list(tmp_path.iterdir())) == len(names) + 4


@pytest.mark.parametrize("place", ["file", "file/below", "file/far/below", "link"])
def test_a_file_is_no_folder(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match=rf"^--out {tmp_path / place}: .* is a file, no folder"):
        check_folder(tmp_path / place, "--out")
