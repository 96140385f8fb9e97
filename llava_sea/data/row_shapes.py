"""What a record may look like in a data file, and the one form that all come out in.

Rows are told apart by their keys:

- ``conversations``: LLaVA's, `{"from": "human" or "gpt", "value"}`, images in ``image``.
- ``messages``: `{"role", "content"}` as ms-swift, TRL and LLaMA-Factory write them; a content is a
  text or a list of parts (text, image), images in the parts or in ``images``.
- ``texts``: FineVision's, `{"user", "assistant"}`, images in ``images``.

An image is a path below the image folder, or `{"bytes", "path"}` in a parquet file. In the last two
forms images without an ``<image>`` of their own come before the first question.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.data.problems import Kind, RecordError, record_name

ROLES = ("human", "gpt")
_FORMS = ("conversations", "messages", "texts")
_ROLE_OF = {"user": "human", "assistant": "gpt", "human": "human", "gpt": "gpt"}
_NOT_READ = ("video", "videos", "audio", "audios")
"""Other packages' keys for what the turns are about; left unread, their records lose it."""

_IGNORED = ("system", "weight", "loss")
"""Other packages' keys for how a record or a turn is trained on; LLaVA ignores them as well."""

_short = reprlib.Repr()
"""Values in messages: a text of a gigabyte or a thousand brackets is no line to read."""
_short.maxstring = _short.maxother = 100
_short.maxlevel, _short.maxlist = 2, 3


class Turn(NamedTuple):
    """One speaker's text; `role` is "human" or "gpt"."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One conversation; images are paths below the image folder, `image` the first or None.

    An image that the data file holds itself is named ``FILE#ROW``, or ``FILE#ROW.NUMBER`` where a
    record has several.
    """

    index: int
    """Its place in the corpus; what is drawn for it depends on this and on the epoch."""
    id: str
    image: str | None
    turns: tuple[Turn, ...]
    more_images: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    """Keys in it that mean something elsewhere and nothing here."""
    file: str = field(default="", compare=False)
    """The data file that it comes from, for messages."""
    row: int | None = field(default=None, compare=False)
    """Its place in that file, where that is not `index`."""

    @property
    def images(self) -> tuple[str, ...]:
        """All images, in the order of their places."""
        return () if self.image is None else (self.image, *self.more_images)

    @property
    def place(self) -> int:
        """Its place in its file."""
        return self.index if self.row is None else self.row

    @property
    def name(self) -> str:
        """The record's name in messages."""
        return record_name(self.place, self.id)

    def error(self, kind: Kind, what: str) -> RecordError:
        """Return the error that says what is wrong with this record."""
        return RecordError(kind, what, self.place, self.id, self.file)


class BadShape(Exception):
    """A record of none of the forms."""


def make_record(row: Any, index: int, file: str) -> tuple[Record, list[bytes]]:
    """Return a row as a record, and the bytes of its images where the row holds them.

    Raises:
        BadShape: saying what is wrong.
    """
    if not isinstance(row, dict):
        raise BadShape(f"is a {json_type(row)}, not an object")
    record_id = row.get("id")
    if record_id is None:
        record_id = index
    if isinstance(record_id, bool) or not isinstance(record_id, (str, int)):
        raise BadShape('"id" must be a string or a whole number')
    _check_characters(str(record_id), '"id"')
    for key in _NOT_READ:
        if row.get(key):
            raise BadShape(
                f'has "{key}", which is not read: only images are. Rename the key if it names '
                "images, or remove the record if it is about a video or a sound"
            )
    ignored: tuple[str, ...] = ()
    extra: list[Any] = []  # images that stand in the turns themselves
    form = next((key for key in _FORMS if row.get(key) is not None), None)
    if form == "messages":
        turns, extra, ignored = _messages(row["messages"])
    elif form == "texts":
        turns = _pairs(row["texts"])
    else:
        turns = _conversations(row.get("conversations"))
    images, named = _images(row), [image for image in extra if image is not None]
    if images and named:
        raise BadShape('names images in its turns and in "images" too; keep one of them')
    if not images and len(named) < len(extra):
        raise BadShape('an image in its turns has no name, there or in "images"; name it')
    names, data = _name_images(images or named, index, file)
    if form != "conversations":
        turns = _place_images(turns, len(names))
    first = names[0] if names else None
    ignored += tuple(key for key in _FORMS if key != form and row.get(key)) + _ignored(row)
    record = Record(
        index,
        str(record_id),
        first,
        tuple(turns),
        tuple(names[1:]),
        tuple(dict.fromkeys(ignored)),
        file,
    )
    return record, data


def image_names(row: dict[str, Any], index: int, file: str) -> list[str]:
    """Return how the images of a row that need not be a record are called; raises `BadShape`."""
    return _name_images(_images(row), index, file)[0]


# --- turns ----------------------------------------------------------------------------------------


def _conversations(turns: Any) -> list[Turn]:
    if not isinstance(turns, list) or not turns:
        missing = 'missing, and so are "messages" and "texts"'
        given = "empty" if turns == [] else f"of type {json_type(turns)}"
        raise BadShape(
            '"conversations" must be a list of turns {"from": "human" or "gpt", "value": "..."}, '
            f"it is {missing if turns is None else given}"
        )
    found = []
    for number, turn in enumerate(turns):
        role, text = (
            (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None,) * 2
        )
        if role not in ROLES:
            raise BadShape(
                f'turn {number} is from {_short.repr(role)}; LLaVA\'s names are "human" and "gpt" '
                '(for "user" and "assistant"; a "system" turn is not supported)'
            )
        found.append(Turn(role, _text(text, number, "value")))
    return found


def _messages(messages: Any) -> tuple[list[Turn], list[Any], tuple[str, ...]]:
    """Return the turns, the images of their parts, and ("system",) if there is a system turn."""
    if not isinstance(messages, list) or not messages:
        given = "empty" if messages == [] else f"of type {json_type(messages)}"
        raise BadShape(f'"messages" must be a list of turns {{"role", "content"}}, it is {given}')
    turns: list[Turn] = []
    images: list[Any] = []
    ignored: tuple[str, ...] = ()
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role == "system" and number == 0:
            ignored = ("system",) if message.get("content") else ()
            continue
        if not isinstance(role, str) or role not in _ROLE_OF:
            raise BadShape(
                f'turn {number} is from {_short.repr(role)}; the roles of "messages" are "user" '
                'and "assistant", and "system" for the first'
            )
        text, found = _content(message.get("content"), number)
        images += found
        turns.append(Turn(_ROLE_OF[role], text))
    if not turns:
        raise BadShape('"messages" holds a system turn and nothing else')
    return turns, images, ignored


def _content(content: Any, number: int) -> tuple[str, list[Any]]:
    """Return a content's text, with ``<image>`` for each image, and the images: None unnamed."""
    if not isinstance(content, list):
        return _text(content, number, "content"), []
    parts, images = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            parts.append(_text(part.get("text"), number, "text"))
        elif kind in ("image", "image_url"):
            parts.append(IMAGE_TOKEN)
            named = next(
                (part[k] for k in ("image", "image_url", "path", "url") if part.get(k)), None
            )
            if isinstance(named, dict) and "url" in named:
                named = named["url"]
            images.append(named if named is None else _unwrapped(named, "image"))
        else:
            raise BadShape(
                f"turn {number} has a part of type {_short.repr(kind)}; those that are read are "
                "text and image"
            )
    return "\n".join(parts), images


def _pairs(texts: Any) -> list[Turn]:
    if not isinstance(texts, list) or not texts:
        given = "empty" if texts == [] else f"of type {json_type(texts)}"
        raise BadShape(f'"texts" must be a list of pairs {{"user", "assistant"}}, it is {given}')
    turns = []
    for number, pair in enumerate(texts):
        if not isinstance(pair, dict) or not {"user", "assistant"} <= pair.keys():
            raise BadShape(
                f'pair {number} of "texts" must be {{"user": "...", "assistant": "..."}}'
            )
        for key in ("user", "assistant"):
            turns.append(Turn(_ROLE_OF[key], _text(pair[key], number, key)))
    return turns


def _text(text: Any, number: int, key: str) -> str:
    if not isinstance(text, str):
        raise BadShape(f'turn {number} needs its text in "{key}", it is {_short.repr(text)}')
    return _check_characters(text, f"turn {number}")


def _check_characters(text: str, where: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadShape(
                f"{where} holds half a character (character {error.start} is an "
                "unpaired surrogate, often a cut-off emoji); fix the text"
            ) from None
    return text


def _place_images(turns: list[Turn], num_images: int) -> list[Turn]:
    """Put ``<image>`` for images that have no place before the first question."""
    places = sum(turn.text.count(IMAGE_TOKEN) for turn in turns if turn.role == "human")
    first = next((n for n, turn in enumerate(turns) if turn.role == "human"), None)
    if first is None or not num_images or places:
        return turns
    text = f"{IMAGE_TOKEN}\n" * num_images + turns[first].text
    return [*turns[:first], Turn("human", text), *turns[first + 1 :]]


# --- images and other keys ------------------------------------------------------------------------


def _images(row: dict[str, Any]) -> list[Any]:
    """Return the images of an "image" or "images": paths, `{"bytes", "path"}`, or nothing."""
    if row.get("image") and row.get("images"):
        raise BadShape('has "image" and "images" too; keep the one that names its images')
    for key in ("image", "images"):
        value = row.get(key)
        if value is None or (key == "images" and value == []):
            continue
        listed: list[Any] = value if isinstance(value, list) and value else [value]
        return [_unwrapped(one, key) for one in listed]
    return []


def _unwrapped(value: Any, key: str) -> Any:
    found = value
    if isinstance(value, dict):
        found = value.get("bytes") or value.get("path")
        if isinstance(value.get("bytes"), str):  # JSON has no bytes
            found = None
    if not isinstance(found, (str, bytes)) or not found:
        raise BadShape(
            f'"{key}" must be a path below the image folder or a list of them, it is '
            f"{_short.repr(value)}"
        )
    return found if isinstance(found, bytes) else _check_characters(found, f'"{key}"')


def _name_images(images: Sequence[Any], index: int, file: str) -> tuple[list[str], list[bytes]]:
    """Return the images' names, and the bytes of those that have them."""
    data = [image for image in images if isinstance(image, bytes)]
    if not data:
        for image in images:
            if "://" in image or image.startswith("data:"):
                raise BadShape(
                    f"the image {image[:60]!r} is not below the image folder; save it there and "
                    "write its path"
                )
        return list(images), []
    if len(data) < len(images):
        raise BadShape("some of its images are bytes and some are paths; write all alike")
    stem = f"{Path(file).name}#{index}"
    return [stem] if len(data) == 1 else [f"{stem}.{n}" for n in range(len(data))], data


def _ignored(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of a record and its turns that are not read, but for those that say nothing.

    Nothing is said by an empty system prompt, a weight of 1, and a loss that is wanted.
    """
    turns = row.get("conversations") or row.get("messages") or row.get("texts") or []
    parts = (row, *(turn for turn in turns if isinstance(turn, dict)))
    return tuple(k for k in _IGNORED if any(one.get(k) not in (None, "", 1) for one in parts))


def json_type(value: Any) -> str:
    """Return the name that JSON has for a value's type."""
    names = {dict: "object", list: "list", str: "string", bool: "true/false", type(None): "null"}
    return names.get(type(value), "number")
