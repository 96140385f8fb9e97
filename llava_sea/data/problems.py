"""What can be wrong with a record: its kinds, each with the way out, and how one is written.

A problem stops a training run, or would train on something else than was meant; a warning does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llava_sea.errors import UserError


class Kind(NamedTuple):
    """A kind of problem; `way_out` is added to what is said of a single one."""

    name: str
    way_out: str
    is_warning: bool = False


DATA_FILE = Kind("data file", "mend the file")
BROKEN_JSON = Kind("broken JSON", "mend that place; what follows in a list is not checked")
BAD_SHAPE = Kind("record shape", "mend the record or remove it")
NO_PICTURE = Kind("no picture", "remove the record, or use a conversation template such as v1")
TURNS = Kind("turns", "mend the turns or remove the record")
IMAGE_TOKENS = Kind("image tokens", "write <image> once, in a human turn")
PLACE_ALONE = Kind("picture not named", "name the picture, or write the word without brackets")
EMPTY_CAPTION = Kind("empty caption", "remove the record")
NOTHING_SUPERVISED = Kind("nothing supervised", "give it an answer or remove the record")
TOO_LONG = Kind("too long", "raise --model_max_length, or shorten or remove the record")
PICTURE_OUTSIDE = Kind("picture outside", "write its path relative to --image_folder")
PICTURE_NOT_A_FILE = Kind("not a file", "put a regular file there, or remove the record")
PICTURE_MISSING = Kind("picture missing", "put the file there, or remove the record")
PICTURE_TOO_LARGE = Kind("picture too large", "make it smaller")
PICTURE_DAMAGED = Kind("picture damaged", "replace it or remove the record")
LABEL_STORE = Kind("label store", "extract the labels again for this run")
NO_LABELS = Kind("no labels", "extract the labels for this --data_path")
LABELS_STALE = Kind("labels of another picture", "extract the labels again")
OF_LABELS = (LABEL_STORE, NO_LABELS, LABELS_STALE)
BEYOND_TABLE = Kind(
    "token beyond the table", "take the LLM's own tokenizer, or remove it from the text"
)
LOSS = Kind("loss not finite", "look at the record with --show, and at the model's dtype")

CUT = Kind("cut off", "raise --model_max_length if the end matters", is_warning=True)
EMPTY_ANSWER = Kind("empty answer", "nothing is learned from that turn", is_warning=True)
LITERAL_IMAGE = Kind("<image> without picture", "give the record its image", is_warning=True)
LEADING_GPT = Kind("gpt speaks first", "its first turn is left out, as in LLaVA", is_warning=True)
LABELS_SKIPPED = Kind("labels skipped", "it trains without SEA", is_warning=True)
SPECIAL_TOKEN = Kind(
    "special token in text", "as in LLaVA it is read as the token; write it otherwise", True
)
WHITE_SPACE = Kind(
    "white space before answer", "remove it, or answers are learned to begin with it", True
)
IGNORED_KEY = Kind("key not read", "LLaVA ignores it too; say it in the turns", is_warning=True)
SAME_ID = Kind("same id", "give each record its own", is_warning=True)


@dataclass(frozen=True)
class Problem:
    """Something wrong with one record of a file (or, without an index, with all of them)."""

    kind: Kind
    what: str
    index: int | None = None
    record_id: str | None = None

    def line(self, file: str) -> str:
        """Say it on one line: file, record, kind, what, way out."""
        record = ""
        if self.index is not None:
            named = "" if self.record_id is None else f" (id {self.record_id!r})"
            record = f" record {self.index}{named}:"
        what = self.what if self.kind.way_out in self.what else f"{self.what}; {self.kind.way_out}"
        warning = "warning, " if self.kind.is_warning else ""
        return f"{file}:{record} {warning}{self.kind.name}: {' '.join(what.split())}"


def strip_name(error: UserError, *names: str) -> str:
    """Return an error's text without the names at its beginning: the line says them already."""
    text = str(error)
    for name in names:
        if text.startswith((f"{name}: ", f"{name} ")):
            text = text[len(name) :].lstrip(": ")
    return text
