"""Kinds of problems with a record, each with its way out, and the error that carries one.

A problem stops a training run, or would train on something else than was meant; a warning does not.
"""

from __future__ import annotations

from typing import NamedTuple

from llava_sea.errors import UserError


class Kind(NamedTuple):
    """A kind of problem and its way out."""

    name: str
    way_out: str
    is_warning: bool = False


DATA_FILE = Kind("data file", "fix the file")
BROKEN_JSON = Kind("broken JSON", "fix that place; what follows in a list is not checked")
BAD_SHAPE = Kind("record shape", "fix the record or remove it")
NO_IMAGE = Kind("no image", "remove the record, or use a conversation template such as v1")
TURNS = Kind("turns", "fix the turns or remove the record")
IMAGE_TOKENS = Kind("image tokens", "write <image> once, in a human turn")
PLACE_ALONE = Kind("image not named", "name the image, or write the word without brackets")
OWN_TEMPLATE = Kind(
    "chat template", "change that text, or name a fixed template instead of --version auto"
)
EMPTY_CAPTION = Kind("empty caption", "remove the record")
NOTHING_SUPERVISED = Kind("nothing supervised", "give it an answer or remove the record")
TOO_LONG = Kind("too long", "raise --model_max_length, or shorten or remove the record")
IMAGE_OUTSIDE = Kind("image outside", "write its path relative to --image_folder")
NOT_A_FILE = Kind("not a file", "put a regular file there, or remove the record")
IMAGE_MISSING = Kind("image missing", "put the file there, or remove the record")
IMAGE_TOO_LARGE = Kind("image too large", "make it smaller")
IMAGE_DAMAGED = Kind("image damaged", "replace it or remove the record")
LABEL_STORE = Kind("label store", "extract the labels again for this run")
NO_LABELS = Kind("no labels", "extract the labels for this --data_path")
LABELS_STALE = Kind("labels of another image", "extract the labels again")
OF_LABELS = (LABEL_STORE, NO_LABELS, LABELS_STALE)
BEYOND_TABLE = Kind(
    "token beyond the table", "take the LLM's own tokenizer, or remove it from the text"
)
LOSS = Kind("loss not finite", "look at the record with --show, and at the model's dtype")

CUT = Kind("cut off", "raise --model_max_length if the end matters", is_warning=True)
EMPTY_ANSWER = Kind("empty answer", "nothing is learned from that turn", is_warning=True)
LITERAL_IMAGE = Kind("<image> without image", "give the record its image", is_warning=True)
LEADING_GPT = Kind("gpt speaks first", "its first turn is left out, as in LLaVA", is_warning=True)
LABELS_SKIPPED = Kind("labels skipped", "it trains without SEA", is_warning=True)
SPECIAL_TOKEN = Kind(
    "special token in text", "as in LLaVA it is read as the token; write it otherwise", True
)
WHITE_SPACE = Kind(
    "white space before answer", "remove it, or answers are learned to begin with it", True
)
IGNORED_KEY = Kind(
    "key not read", "say it in the turns, as in LLaVA, or remove it", is_warning=True
)
SAME_ID = Kind("same id", "give each record its own", is_warning=True)


class RecordError(UserError):
    """Something wrong with one record of a file, or without an index and an id with all of them.

    Attributes:
        kind: one of this module's.
        what: the fault, without the names of file and record.
        index: the record's place in its file.
        id: the record's id.
        file: the data file; "" where it is not known.
    """

    def __init__(
        self,
        kind: Kind,
        what: str,
        index: int | None = None,
        record_id: object = None,
        file: object = "",
    ) -> None:
        super().__init__(kind, what, index, record_id, file)  # pickled between processes
        self.kind, self.what, self.index, self.id, self.file = kind, what, index, record_id, file

    def __str__(self) -> str:
        return ": ".join(
            str(part) for part in (self.file, record_name(self.index, self.id), self.what) if part
        )


class ImageError(UserError):
    """An image that cannot be used."""

    def __init__(self, text: str, kind: Kind = IMAGE_DAMAGED) -> None:
        super().__init__(text)
        self.kind = kind


def record_name(index: int | None, record_id: object) -> str:
    """Return a record's name in messages: its place in the file, and its id."""
    if index is None:
        return "" if record_id is None else f"record {record_id!r}"
    return f"record {index}" if record_id is None else f"record {index} (id {record_id!r})"
