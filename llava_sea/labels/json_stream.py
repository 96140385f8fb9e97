"""Read the elements of a JSON array, or the lines of a file, one at a time.

Why: a caption corpus is a list of up to millions of records; `json.load` holds all of it at once.
Here memory is bounded by one element (at most `MAX_ELEMENT_CHARS`) and one block of the file.
Limits: the file is UTF-8 and, for `iter_json_array`, its top level is one list.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llava_sea.errors import UserError
from llava_sea.files import open_file

BLOCK_BYTES = 1 << 20
MAX_ELEMENT_CHARS = 64 << 20
# A decoder error this close to the end of the buffer may only mean "not all of it is here yet":
# the longest token without a string is the surrogate pair \ud83d\ude00 (12 characters).
TORN_CHARS = 16
WHITESPACE = " \t\r\n"


class Element(NamedTuple):
    """One element of the array."""

    record: int
    line: int
    value: Any


class TextBlocks:
    """Decoded blocks of a UTF-8 file; counts the bytes read and names the line of a bad byte."""

    def __init__(self, path: Path, block_bytes: int = BLOCK_BYTES) -> None:
        self.path = path
        self.bytes_read = 0
        self._block_bytes = block_bytes
        self._lines = 1
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._file = open_file(path)

    def read(self) -> str:
        """The next block, or "" at the end of the file.

        Raises:
            UserError: the file holds bytes that are not UTF-8, or cannot be read.
        """
        while True:
            try:
                block = self._file.read(self._block_bytes)
            except OSError as error:
                raise UserError(f"{self.path}: cannot be read: {error.strerror}") from error
            self.bytes_read += len(block)
            try:
                text = self._decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line = self._lines + error.object[: error.start].count(b"\n")
                raise UserError(
                    f"{self.path}, line {line}: byte 0x{error.object[error.start]:02x} is not "
                    "UTF-8; save the file as UTF-8"
                ) from error
            self._lines += block.count(b"\n")
            if text or not block:
                return text

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def iter_json_array(blocks: TextBlocks) -> Iterator[Element]:
    """The elements of a file that is one JSON list, in order.

    Raises:
        UserError: the file is empty, its top level is not a list, or its JSON is broken; the text
            names the file, the line and, inside the list, the record.
    """
    yield from _ArrayReader(blocks).elements()


def iter_lines(blocks: TextBlocks) -> Iterator[tuple[int, str]]:
    r"""The lines of a text file as (line number from 1, text without the line end).

    Lines end with \n or \r\n only: the other characters at which `str.splitlines` cuts may stand
    inside a caption.

    Raises:
        UserError: a byte is not UTF-8, or a line is longer than `MAX_ELEMENT_CHARS`.
    """
    number, tail = 1, ""
    while text := blocks.read():
        lines = (tail + text).split("\n")
        tail = lines.pop()
        for line in lines:
            yield number, line.removesuffix("\r")
            number += 1
        if len(tail) > MAX_ELEMENT_CHARS:
            raise UserError(
                f"{blocks.path}, line {number}: is longer than {MAX_ELEMENT_CHARS} characters"
            )
    if tail:
        yield number, tail.removesuffix("\r")


class _ArrayReader:
    """A window on the file's text; everything before `position` is consumed."""

    def __init__(self, blocks: TextBlocks) -> None:
        self.blocks = blocks
        self.text = ""
        self.position = 0
        self.ended = False
        self.index = 0
        self._dropped_lines = 0
        self._seen_lines = 0
        self._seen_to = 0
        self._decode = json.JSONDecoder().raw_decode

    def elements(self) -> Iterator[Element]:
        first = self._next_character()
        if first == "":
            raise UserError(f"{self.blocks.path}: is empty; a JSON list of records is expected")
        if first != "[":
            raise self._error(
                f"the file starts with {first!r}; a JSON list of records is expected, "
                "'[{...}, {...}]' (one record a line: name the file *.jsonl)",
                self.position,
                in_record=False,
            )
        self.position += 1
        if self._next_character() != "]":
            while True:
                line = self._line(self.position)
                yield Element(self.index, line, self._element())
                self.index += 1
                if self.text[self.position] == "]":
                    break
                self.position += 1
                self._next_character()
        self.position += 1
        if self._next_character() != "":
            raise self._error("there is more text after the list", self.position, in_record=False)

    def _element(self) -> Any:
        """Decode one element and stop on the `,` or `]` behind it; read on while it is torn."""
        while True:
            try:
                value, end = self._decode(self.text, self.position)
            except json.JSONDecodeError as error:
                torn = error.pos >= len(self.text) - TORN_CHARS
                torn = torn or error.msg.startswith("Unterminated string")
                if self.ended or not torn:
                    raise self._error(_plain(error), error.pos) from error
                self._grow()
                continue
            except RecursionError as error:
                raise self._error("the record is nested too deeply", self.position) from error
            after = _skip_whitespace(self.text, end)
            if after < len(self.text) and self.text[after] in ",]":
                self.position = after
                return value
            if not self.ended and (after == len(self.text) or end >= len(self.text) - TORN_CHARS):
                self._grow()
            elif after == len(self.text):
                raise self._error("the file ends inside the list", end)
            else:
                raise self._error(f"',' or ']' is missing before {self.text[after]!r}", after)

    def _next_character(self) -> str:
        """Skip whitespace; the character that follows, "" at the end of the file."""
        while True:
            self.position = _skip_whitespace(self.text, self.position)
            if self.position < len(self.text):
                return self.text[self.position]
            if self.ended:
                return ""
            self._grow()

    def _grow(self) -> None:
        """Drop the consumed text and read more, or find that the file has ended.

        At least as much again as is there, so that a long element is decoded a logarithmic number
        of times. Positions change: decode again.
        """
        self._dropped_lines = self._line(self.position) - 1
        parts = [self.text[self.position :]]
        self.position = self._seen_to = self._seen_lines = 0
        have, wanted = len(parts[0]), 2 * len(parts[0])
        if have > MAX_ELEMENT_CHARS:
            self.text = parts[0]
            raise self._error(f"the record is longer than {MAX_ELEMENT_CHARS} characters", 0)
        while not self.ended and have <= wanted:
            part = self.blocks.read()
            self.ended = part == ""
            parts.append(part)
            have += len(part)
        self.text = "".join(parts)

    def _line(self, position: int) -> int:
        """The file's line, from 1, of a position in the window; cheap when called in order."""
        if position < self._seen_to:
            return self._dropped_lines + self.text.count("\n", 0, position) + 1
        self._seen_lines += self.text.count("\n", self._seen_to, position)
        self._seen_to = position
        return self._dropped_lines + self._seen_lines + 1

    def _error(self, what: str, position: int, *, in_record: bool = True) -> UserError:
        record = f" (record {self.index})" if in_record else ""
        return UserError(
            f"{self.blocks.path}, line {self._line(position)}{record}: broken JSON: {what}"
        )


def _skip_whitespace(text: str, position: int) -> int:
    while position < len(text) and text[position] in WHITESPACE:
        position += 1
    return position


def _plain(error: json.JSONDecodeError) -> str:
    """The decoder's message without its own line number, which counts from the window's start."""
    return error.msg[0].lower() + error.msg[1:]
