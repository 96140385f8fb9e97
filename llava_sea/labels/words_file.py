"""`words.tsv`: the word list on disk, and its hash, by which labels know their list.

UTF-8, the header `word TAB count TAB pos`, then a row an entry, by falling count, then by word
(code points). Words are lower-case with single spaces; a count of 0 with pos `list` is an entry
that the corpus does not hold. The hash is SHA-256 over the file's bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from llava_sea.errors import UserError
from llava_sea.files import read_text, write_atomically

HEADER = "word\tcount\tpos"


class WordEntry(NamedTuple):
    """A word or phrase, how often the corpus holds it, and its most frequent part of speech."""

    word: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    pos: str

    def sort_key(self) -> tuple[int, str]:
        """The file's order."""
        return -self.count, self.word


def read_words(path: Path | str) -> list[WordEntry]:
    """The entries of a word list, in its order.

    Raises:
        UserError: the file is missing, empty, not UTF-8, or a row is malformed, doubled or out of
            order; with the line.
    """
    header, *lines = read_text(path).split("\n")
    if header != HEADER:
        raise UserError(f"{path}, line 1: expected the header {HEADER!r}, found {header!r}")
    if lines and lines[-1] == "":
        lines.pop()
    if not lines:
        raise UserError(f"{path}: the word list is empty")
    entries: list[WordEntry] = []
    seen: set[str] = set()
    for number, row in enumerate(lines, start=2):
        entry = _parse_row(row, f"{path}, line {number}")
        if entry.word in seen:
            raise UserError(f"{path}, line {number}: {entry.word!r} is there a second time")
        if entries and entries[-1].sort_key() > entry.sort_key():
            raise UserError(
                f"{path}, line {number}: {entry.word!r} is out of order; rows stand by falling "
                "count, then by word"
            )
        seen.add(entry.word)
        entries.append(entry)
    return entries


def write_words(path: Path, entries: Iterable[WordEntry]) -> str:
    """Write entries, which are in order: whole or not at all. Returns the SHA-256 in hex."""
    data = format_words(entries)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def format_words(entries: Iterable[WordEntry]) -> bytes:
    """Return the file of entries, which are in order."""
    rows = "".join(f"{word}\t{count}\t{pos}\n" for word, count, pos in entries)
    return f"{HEADER}\n{rows}".encode()


def _parse_row(line: str, where: str) -> WordEntry:
    cells = line.split("\t")
    if len(cells) != 3:
        raise UserError(f"{where}: expected 3 columns ({HEADER!r}), found {len(cells)}: {line!r}")
    word, count, pos = cells
    if not word or word != " ".join(word.split()) or word != word.lower():
        raise UserError(f"{where}: {word!r} is not a lower-case word or phrase with single spaces")
    if not (count.isascii() and count.isdigit() and len(count) < 19):
        raise UserError(f"{where}: the count {count[:40]!r} is not a number from 0 to 10^18")
    if not pos or pos != pos.strip():
        raise UserError(f"{where}: the part of speech {pos!r} is not a name")
    return WordEntry(word, int(count), pos)
