"""What a terminal would obey is shown and not obeyed, whoever wrote it."""

import io
import logging
import sys
from types import SimpleNamespace

import pytest
from rich.table import Table
from rich.text import Text

from llava_sea.errors import UserError, run_command
from llava_sea.progress import Progress
from llava_sea.serve.chat import AnswerStreamer
from llava_sea.terminal import log_to, open_console, printable, say, without_password

NASTY = "a\x1b[2J\x1b]0;title\x07\x9b31m\r\x08\u202eb\u2066\u2028\x7f\x00\ud83dz"
SHOWN = r"a\x1b[2J\x1b]0;title\x07\x9b31m\r\x08\u202eb\u2066\u2028\x7f\x00\ud83dz"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_printable():
    assert printable(NASTY) == SHOWN and printable(SHOWN) == SHOWN
    for kept in ("a\tb\nc", "größe 图像 🙂 👩‍👩‍👧 می‌خواهم", "\\x1b"):
        assert printable(kept) == kept


def test_say(capsys):
    say(NASTY)
    say(NASTY, file=sys.stderr, end="")
    say()
    assert capsys.readouterr() == (f"{SHOWN}\n\n", SHOWN)


def test_errors(capsys, monkeypatch, tmp_path):
    def main():
        raise UserError(f"record {NASTY}: no")

    monkeypatch.setenv("LLAVA_SEA_ERROR_FILE", str(tmp_path / "errors"))
    with pytest.raises(SystemExit):
        run_command(main)
    assert capsys.readouterr().err == f"error: record {SHOWN}: no\n"
    assert (tmp_path / "errors").read_text() == f"error: record {SHOWN}: no\n"


@pytest.fixture
def no_logging_left_over():
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.setLogRecordFactory(factory)


@pytest.mark.usefixtures("no_logging_left_over")
@pytest.mark.parametrize("name", ["llava_sea.data", "transformers.configuration_utils"])
def test_logs(name, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "level", logging.WARNING)
    out = io.StringIO()
    log_to(out, force=True)
    logger = logging.getLogger(name)
    handler = logging.StreamHandler(out)
    logger.addHandler(handler)  # transformers has its own
    logger.warning("no labels for %s", NASTY)
    logger.removeHandler(handler)
    assert set(out.getvalue().splitlines()) == {f"no labels for {SHOWN}"}


@pytest.mark.parametrize("terminal", [False, True])
def test_console(terminal):
    out = io.StringIO()
    console = open_console(file=out, force_terminal=terminal, width=200, _environ={})
    table = Table(title=NASTY)
    table.add_column(NASTY, header_style="bold")
    table.add_row(Text(NASTY, "red"))
    for thing in (NASTY, Text(NASTY, "bold red"), table):
        console.print(thing, markup=False, highlight=False)
    shown = out.getvalue()
    assert "\x1b[2J" not in shown and "\x9b" not in shown and "\u202e" not in shown
    assert shown.count(r"\x1b[2J") == 5
    assert ("\x1b[" in shown) == terminal  # rich's own colours


def test_progress_on_a_terminal(monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("COLUMNS", "200")
    with Progress("images", 1) as progress:
        progress.set_postfix_str(f"{NASTY} is read")
    assert r"\x1b[2J" in out.getvalue() and "\x1b[2J" not in out.getvalue()


@pytest.mark.parametrize("out", [Terminal(), io.StringIO()])
def test_answers(out):
    streamer = AnswerStreamer(SimpleNamespace(), out)
    streamer.on_finalized_text("\x1b[2", stream_end=False)
    streamer.on_finalized_text("J", stream_end=True)
    assert out.getvalue() == ("\\x1b[2J\n" if out.isatty() else "\x1b[2J\n")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/@me/a.png?b=@", "https://host/@me/a.png?b=@"),
        ("https://me:secret@host:8000/v1", "https://***@host:8000/v1"),
        ("https://secret@host", "https://***@host"),
        ("http://me:se/cret@host/v1", "http://***@host/v1"),
        ("http://me:secret@[::1", "http://***@[::1"),
        ("me:secret@host/v1", "***@host/v1"),
        ("localhost:8000", "localhost:8000"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_addresses(url, shown):
    assert without_password(url) == shown
