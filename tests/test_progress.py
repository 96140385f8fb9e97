"""Progress: lines in a log, a live bar on a terminal."""

from __future__ import annotations

import io
import os
import sys

import pytest

from llava_sea.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def at(monkeypatch):
    """Set the clock."""
    now = [100.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])

    def set_clock(seconds):
        now[0] = 100.0 + seconds

    return set_clock


def test_a_log_has_a_line_now_and_then_and_the_last(at, capsys):
    with Progress("images", 1000, every=10.0) as progress:
        at(5)
        progress.update(50)  # too soon
        at(10)
        progress.set_postfix_str("all well", refresh=False)
        progress.update(150)
        at(11)
        progress.update(800)
    first, then, last = capsys.readouterr().err.splitlines()
    assert first.startswith("images: 0/1000,") and last.startswith("images: 1000/1000,")
    assert then == "images: 200/1000, 00:40 left, 20.00 images/s, all well"


def test_items_done_before_are_not_in_the_rate(at, capsys):
    progress = Progress("clip: steps", 1000, done=900, every=0.0)
    at(20)
    progress.update(10)
    progress.close()
    assert capsys.readouterr().err.splitlines()[1:] == [
        "clip: steps: 910/1000, 03:00 left,  2.00s/ steps"
    ]


def test_an_unknown_total_is_counted_and_other_ranks_are_silent(at, capsys):
    with Progress("captions") as progress, Progress("captions", shown=False) as silent:
        at(1)
        progress.update(7)
        silent.update(7)
    assert [line.split("[")[0] for line in capsys.readouterr().err.splitlines()] == [
        "captions: 0 captions ",
        "captions: 7 captions ",
    ]


def test_on_a_terminal_there_is_a_live_line_and_an_error_takes_it_down(at, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(KeyboardInterrupt), Progress("words", 50) as progress:
        at(5)
        progress.update(10)
        raise KeyboardInterrupt
    shown = terminal.getvalue()
    assert "\rwords:  20%" in shown and "10/50" in shown and shown.endswith("\n")


def test_a_killed_process_holds_no_lock_of_the_others():
    Progress("images", shown=False).close()
    if (child := os.fork()) == 0:
        Progress.get_lock().acquire()
        os._exit(0)
    os.waitpid(child, 0)
    assert Progress.get_lock().acquire(blocking=False)
    Progress.get_lock().release()
