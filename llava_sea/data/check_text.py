"""All conversations of a data file, asked before a run what can be asked without a tokenizer.

A record that cannot be written by the template would otherwise end the run at the step that meets
it. Fast enough for every start. Limits: pictures are not opened and lengths not known;
`llava_sea.data.check` does that too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.conversation import Template, begins_with_gpt, has_literal_image, render
from llava_sea.data.records import Record
from llava_sea.errors import UserError

logger = logging.getLogger(__name__)

_NAMED = 5
"""Bad records named in a message."""


def check_conversations(records: Sequence[Record], template: Template, file: str) -> None:
    """See that every record can be written by a template and has something to learn from.

    What training bears but its owner may not have meant is logged with a count.

    Args:
        records: those of a data file.
        template: how conversations are written.
        file: the data file, as messages name it.

    Raises:
        UserError: with the number of bad records, what is wrong with the first, and the places of
            the next few.
    """
    bad = [(record, problem) for record in records if (problem := _problem(record, template))]
    if bad:
        refuse(bad, len(records), file)
    _warn(
        records,
        file,
        lambda record: bool(record.ignored),
        'have keys that LLaVA ignores, as is done here ("system", "weight" or "loss")',
    )
    if template.caption_only:
        return
    _warn(records, file, begins_with_gpt, "begin with a gpt turn, which is left out as in LLaVA")
    _warn(records, file, has_literal_image, 'have no "image" and train on <image> as text')


def refuse(bad: Sequence[tuple[Record, str]], total: int, file: str) -> NoReturn:
    """End with what is wrong with the first of some records, and the places of the next few.

    Args:
        bad: records, each with what is wrong with it; at least one.
        total: records of the file.
        file: the data file, as messages name it.
    """
    others = ", ".join(str(record.index) for record, _ in bad[1:_NAMED])
    more = ", ..." if len(bad) > _NAMED else ""
    raise UserError(
        f"{file}: {bad[0][1]}. {len(bad)} of {total} records cannot be trained on"
        + (f" (also record {others}{more})" if others else "")
        + "; `python -m llava_sea.data.check` with the same flags names every one"
    )


def check_meaning(record: Record) -> None:
    """Refuse a conversation that could be trained on, as LLaVA does, and can hardly be meant so.

    Raises:
        UserError: if the speakers seem to be swapped, or a question has the place of a picture
            (``<image>`` first or last in it) and the record names none. Amid a text it is text.
    """
    first, last = record.turns[0].role, record.turns[-1].role
    if (first, last) == ("gpt", "human") and len(record.turns) % 2 == 0:
        raise UserError(
            f"{record.name}: the first turn is from 'gpt' and the last from 'human', as if the "
            'speakers were swapped. Swap "human" and "gpt", or remove these two turns'
        )
    for turn in () if record.images else record.turns:
        text = turn.text.strip()
        if turn.role == "human" and (text.startswith(IMAGE_TOKEN) or text.endswith(IMAGE_TOKEN)):
            raise UserError(
                f"{record.name}: a human turn has {IMAGE_TOKEN} for its picture, but there is no "
                '"image". Name the picture there, or write the word without its brackets'
            )


def _problem(record: Record, template: Template) -> str:
    try:
        segments = render(record, template)
        check_meaning(record)
    except UserError as error:
        return str(error)
    if not any(segment.supervised and segment.text for segment in segments):
        return f"{record.name}: no answer to learn from; give it one or remove the record"
    return ""


def _warn(
    records: Sequence[Record], file: str, is_odd: Callable[[Record], bool], what: str
) -> None:
    odd = [record for record in records if is_odd(record)]
    if odd:
        logger.warning("%s: %d records %s; the first: %s", file, len(odd), what, odd[0].name)


@contextmanager
def errors_name(file: str) -> Iterator[None]:
    """Put the data file before the text of errors that name a record alone.

    A data worker's error, which arrives with the worker's traceback around its text, loses that.
    """
    try:
        yield
    except UserError as error:
        text = str(error).strip().rpartition("UserError: ")[2]
        if not text.startswith("record "):
            raise
        raise UserError(f"{file}: {text}") from None
