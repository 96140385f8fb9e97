"""Files that users name: only regular ones are read, wherever they are named; nothing blocks."""

import json
import os
import shutil
import signal
import socket

import pytest

from llava_sea import files
from llava_sea.alignment import LabelStore
from llava_sea.data.images import load_image
from llava_sea.data.records import load_records, parse_records
from llava_sea.errors import UserError
from llava_sea.eval.answers import read_rows
from llava_sea.eval.evaluate import read_server_scores
from llava_sea.eval.judge import GradeCache
from llava_sea.eval.questions import read_questions
from llava_sea.eval.score import read_scores
from llava_sea.eval.scorers import official
from llava_sea.eval.scorers.mmbench import read_table
from llava_sea.labels.occurrence import Truth
from llava_sea.labels.word_list import read_captions, read_common_words
from llava_sea.labels.words_file import read_words
from llava_sea.model import load_weights
from llava_sea.report.runs import open_run
from llava_sea.serve.image import open_image


@pytest.fixture(autouse=True)
def in_five_seconds():
    def give_up(*_):
        raise TimeoutError("still reading")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def make(path, what):
    """Put something that is no regular file there."""
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's name is at most 107 bytes
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.chdir(here)
    else:
        path.symlink_to(what)


WHAT = ["folder", "pipe", "socket", "/dev/zero", "/dev/null"]


@pytest.mark.parametrize("what", WHAT)
def test_only_regular_files_are_opened(tmp_path, what):
    path = tmp_path / "x"
    make(path, what)
    for read in (files.open_file, files.read_file, files.read_text, files.sha256_file):
        with pytest.raises(files.NotAFileError, match=rf"^{path}: is a .*, not a file"):
            read(path)


def test_links_sizes_and_names(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"12345")
    link.symlink_to(path)
    assert files.read_file(link, 5) == b"12345"
    with pytest.raises(UserError, match=rf"^{link}: has 5 bytes, the limit .* is 4"):
        files.read_file(link, 4)
    with pytest.raises(UserError, match=r"/none: cannot be read .No such file"):
        files.read_file(tmp_path / "none")
    with pytest.raises(UserError, match=r"cannot be read .embedded null"):
        files.read_file("a\0b")
    with pytest.raises(UserError, match=r"link/more: cannot be read .Not a directory"):
        files.read_file(link / "more")
    path.write_bytes(b"ab\nc\xff")
    with pytest.raises(UserError, match=rf"^{path}: not UTF-8 text .byte 4, line 2"):
        files.read_text(path)
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert files.read_json(path) == {}
    for broken in ("{", "[" * 100_000):
        path.write_text(broken)
        with pytest.raises(UserError, match=rf"^{path}: broken JSON"):
            files.read_json(path)


def test_a_file_is_read_as_large_as_it_says(tmp_path):
    """Files of /proc say 0 and go on for ever."""
    assert files.read_file("/proc/self/pagemap") == b""


def scores(path):
    return read_scores(path.parent)


def run_folder(path):
    folder = path.parent
    for name, text in (("config.json", "{}"), ("mm_projector.bin", ""), ("metrics.jsonl", "")):
        if not os.path.lexists(folder / name):
            (folder / name).write_text(text)
    return open_run(folder)


READERS = {
    "records": (load_records, "data.json", None),
    "records one by one": (lambda path: list(parse_records(path)), "data.jsonl", None),
    "image": (lambda path: load_image(path.parent, path.name, "r"), "a.png", files.IMAGE_BYTES),
    "image of a chat": (lambda path: open_image(str(path)), "a.png", files.IMAGE_BYTES),
    "questions": (read_questions, "q.jsonl", files.LIST_BYTES),
    "answers": (read_rows, "a.jsonl", files.LIST_BYTES),
    "scores": (scores, "scores.json", files.SETTINGS_BYTES),
    "scores of servers": (lambda path: read_server_scores(path, []), "s", files.SETTINGS_BYTES),
    "official JSON": (official.read_json, "o.json", files.LIST_BYTES),
    "official lines": (lambda path: official.read_jsonl(path, []), "o.jsonl", files.LIST_BYTES),
    "official table": (read_table, "o.tsv", files.LIST_BYTES),
    "grades": (GradeCache, "grades.jsonl", files.LIST_BYTES),
    "words": (read_words, "words.tsv", files.LIST_BYTES),
    "common words": (read_common_words, "2of12.txt", None),
    "captions": (lambda path: list(read_captions(path)), "c.json", None),
    "settings": (files.read_object, "config.json", files.SETTINGS_BYTES),
    "weights": (load_weights.read_tensors, "mm_projector.bin", None),
    "truth": (Truth, "truth.json", files.LIST_BYTES),
    "a run's config": (run_folder, "config.json", files.SETTINGS_BYTES),
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_end_at_once_and_name_the_file(tmp_path, reader):
    read, name, limit = READERS[reader]
    for number, what in enumerate(["folder", "pipe", "socket", "/dev/zero"]):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / name
        make(path, what)
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    if limit is not None:
        (tmp_path / "large").mkdir()
        path = tmp_path / "large" / name
        path.touch()
        os.truncate(path, limit + 1)
        with pytest.raises(UserError, match=rf"{path}.*has {limit + 1:,} bytes"):
            read(path)


@pytest.mark.parametrize("read", [load_records, read_captions])
def test_a_line_without_end(tmp_path, monkeypatch, read):
    monkeypatch.setattr(files, "LINE_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_text('"a"\n' + "b" * 101)
    with pytest.raises(UserError, match=rf"^{path}: line 2 has over"):
        list(read(path))


@pytest.mark.parametrize("name", ["manifest.json", "words.tsv"])
def test_a_label_store_of_endless_files(tiny_labels, tmp_path, name):
    shutil.copytree(tiny_labels, tmp_path / "labels")
    os.truncate(tmp_path / "labels" / name, files.LIST_BYTES + 1)
    with pytest.raises(ValueError, match=rf"{name}: has {files.LIST_BYTES + 1:,} bytes"):
        LabelStore(tmp_path / "labels").words()


@pytest.mark.parametrize("name", ["index.npy", "manifest.json", "words.tsv", "shard-00000"])
def test_a_label_store_of_pipes(tiny_labels, tmp_path, name):
    copy = tmp_path / "labels"
    copy.mkdir()
    for path in tiny_labels.iterdir():
        if path.name.startswith(name):
            os.mkfifo(copy / path.name)
        else:
            (copy / path.name).symlink_to(path)
    with pytest.raises(ValueError, match=str(copy)):
        LabelStore(copy).words()


def test_records_from_a_pipe_of_the_shell_are_refused(tmp_path):
    """`--data_path <(cat data.json)`: training reads the file more than once."""
    read, write = os.pipe()
    os.write(write, json.dumps([]).encode())
    os.close(write)
    with pytest.raises(UserError, match="is a pipe, not a file"):
        load_records(f"/dev/fd/{read}")
    os.close(read)
