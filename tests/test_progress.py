"""Progress: lines in a log, a bar on a terminal."""

from __future__ import annotations

import math
import sys

import pytest

from llava_sea import progress as module
from llava_sea.progress import Progress, clock, counter


@pytest.fixture
def at(monkeypatch):
    """Set the clock."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def set_clock(seconds):
        now[0] = 100.0 + seconds

    return set_clock


def test_a_log_has_a_line_now_and_then_and_the_last(at, capsys):
    with Progress(seconds_between_lines=10.0) as progress:
        progress("pictures", 0, 1000)
        at(5)
        progress("pictures", 50, 1000)  # too soon
        at(10)
        progress("pictures", 200, 1000, "all well")
        at(11)
        progress("pictures", 1000, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "pictures: 0/1,000, ? left",
        "pictures: 200/1,000, 0:00:40 left, 20.0 pictures/s, all well",
        "pictures: 1,000/1,000, 0:00:00 left, 90.9 pictures/s",
    ]


def test_what_was_done_before_is_not_in_the_rate(at, capsys):
    progress = Progress(seconds_between_lines=0.0)
    progress("clip: steps", 900, 1000)
    at(20)
    progress("clip: steps", 910, 1000)
    at(21)
    progress("clip: steps", 963, 1000)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "clip: steps: 910/1,000, 0:03:00 left, 2.0 s each",
        "clip: steps: 963/1,000, 0:00:12 left, 3.0 steps/s",
    ]


def test_another_estimate_wins(at, capsys):
    progress = Progress(seconds_between_lines=0.0)
    progress("runs", 1, 9)
    at(7)
    progress("runs", 2, 9, "llm-small 7 s", seconds_left=3725.2)
    assert capsys.readouterr().err.splitlines()[-1] == "runs: 2/9, 1:02:05 left, llm-small 7 s"


def test_on_a_terminal_there_is_a_bar_and_an_error_takes_it_down(at, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(KeyboardInterrupt), Progress() as progress:
        progress("words", 0, 50)
        at(5)
        progress("words", 10, 50, "[unk] " + "long " * 50)  # no markup, cut at the line's end
        assert progress._bar.live.is_started
        raise KeyboardInterrupt
    assert not progress._bar.live.is_started
    shown = capsys.readouterr().err
    assert "words: 10/50, 0:00:20 left, 2.0 words/s, [unk]" in shown


def test_a_counter_adds_up_and_needs_no_progress():
    seen = []
    count = counter(lambda *state: seen.append(state), "pictures", 5)
    count(2)
    count(3)
    assert seen == [("pictures", 2, 5), ("pictures", 5, 5)]
    counter(None, "pictures", 5)(2)


def test_a_clock():
    assert clock(3725.2) == "1:02:05" and clock(math.nan) == "?" and clock(90000) == "25:00:00"
