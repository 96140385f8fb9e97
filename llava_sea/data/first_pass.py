"""Checks of all records before a run, so that none ends it at the step that meets it.

`check_conversations` reads the texts alone: a fraction of a minute for LLaVA's 665,000 records,
some minutes with ``--version auto``, which renders each.
`check_tokens` tokenises records only where the tokenizer has more tokens than the LLM's embedding
table has rows (one with a ``[PAD]`` of its own, say), and of them those that can have such a token.
Limits: images are not opened and lengths not known; ``python -m llava_sea.check`` does that too.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.conversation import Template, begins_with_gpt, has_literal_image, render
from llava_sea.data import problems
from llava_sea.data.control_tokens import tell, typed_tokens
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.problems import Kind, RecordError
from llava_sea.data.records import Record
from llava_sea.data.tokenize import tell_beyond, tokenize_record
from llava_sea.errors import UserError

logger = logging.getLogger(__name__)

_NAMED = 5
"""Bad records named in a message."""


def check_conversations(records: Sequence[Record], template: Template) -> None:
    """See that every record can be written by a template and has something to learn from.

    What training accepts but its owner may not have meant is logged with a count.

    Raises:
        UserError: with the number of bad records, what is wrong with the first, and the places of
            the next few.
    """
    bad: list[RecordError] = []
    first: dict[Kind, Record] = {}
    counts: Counter[Kind] = Counter()
    for record in records:  # read from disk: once
        if problem := _problem(record, template):
            bad.append(problem)
        for kind, _ in odd_texts(record):
            if kind is problems.IGNORED_KEY or not template.caption_only:
                counts[kind] += 1
                first.setdefault(kind, record)
    if bad:
        _refuse(bad, len(records))
    for kind, record in first.items():
        text = "%s: %d records: %s (%s); the first: %s"
        logger.warning(text, record.file, counts[kind], kind.name, kind.way_out, record.name)


def odd_texts(record: Record) -> list[tuple[Kind, str]]:
    """Return what training accepts and the record's owner may not have meant."""
    found = []
    if record.ignored:
        found.append((problems.IGNORED_KEY, f"it has {', '.join(map(repr, record.ignored))}"))
    if begins_with_gpt(record):
        found.append((problems.LEADING_GPT, f"it says {record.turns[0].text[:60]!r}"))
    if has_literal_image(record):
        found.append((problems.LITERAL_IMAGE, f'no "image", so {IMAGE_TOKEN} is text here'))
    return found


def check_meaning(record: Record) -> None:
    """Refuse a conversation that could be trained on, as LLaVA does, and can hardly be meant so.

    Raises:
        RecordError: if the speakers seem to be swapped, or a question has the place of an image
            (``<image>`` first or last in it) and the record names none. Amid a text it is text.
    """
    first, last = record.turns[0].role, record.turns[-1].role
    if (first, last) == ("gpt", "human") and len(record.turns) % 2 == 0:
        raise record.error(
            problems.TURNS,
            "the first turn is from 'gpt' and the last from 'human', as if the speakers were "
            'swapped. Swap "human" and "gpt", or remove these two turns',
        )
    for turn in () if record.images else record.turns:
        text = turn.text.strip()
        if turn.role == "human" and (text.startswith(IMAGE_TOKEN) or text.endswith(IMAGE_TOKEN)):
            raise record.error(
                problems.PLACE_ALONE,
                f"a human turn has {IMAGE_TOKEN} for its image, but there is no "
                '"image". Name the image there, or write the word without its brackets',
            )


def _problem(record: Record, template: Template) -> RecordError | None:
    try:
        segments = render(record, template)
        check_meaning(record)
    except RecordError as error:
        return error
    if not any(segment.supervised and segment.text for segment in segments):
        what = "no answer to learn from; give it one or remove the record"
        return record.error(problems.NOTHING_SUPERVISED, what)
    return None


def _refuse(bad: Sequence[RecordError], total: int) -> NoReturn:
    """End with what is wrong with the first of some records, and the places of the next few."""
    others = ", ".join(str(error.index) for error in bad[1:_NAMED])
    more = ", ..." if len(bad) > _NAMED else ""
    raise UserError(
        f"{bad[0]}. {len(bad)} of {total} records cannot be trained on"
        + (f" (also record {others}{more})" if others else "")
        + "; `python -m llava_sea.check` with the same flags names every one"
    )


def check_tokens(dataset: LazySupervisedDataset, num_rows: int) -> None:
    """See that the embedding table has every token; say how many special tokens are typed in texts.

    Raises:
        UserError: with the number of records that hold a token beyond the table, the first of them
            and the places of the next few.
    """
    suspects = _suspects(dataset, num_rows)
    bad = [error for record in suspects if (error := _beyond(dataset, record, num_rows))]
    if bad:
        _refuse(bad, len(dataset))
    found: Counter[str] = Counter()
    holders = []
    for record in dataset.records:
        if typed := typed_tokens(record, dataset.tokenizer, dataset.template):
            found += typed
            holders.append(record)
    if holders:
        logger.warning(
            "%s: %d records hold special tokens in their texts, which are read as the tokens, as "
            "in LLaVA: %s; the first: %s",
            holders[0].file,
            len(holders),
            tell(found),
            holders[0].name,
        )


def _suspects(dataset: LazySupervisedDataset, num_rows: int) -> Sequence[Record]:
    """Return the records that may hold a token beyond the table."""
    tokenizer, template = dataset.tokenizer, dataset.template
    beyond = {token for token, id_ in tokenizer.get_vocab().items() if id_ >= num_rows}
    if not beyond:
        return []
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    if not beyond <= added or tokenizer.bos_token in beyond or template.bos in beyond:
        return dataset.records
    written = re.compile("|".join(re.escape(_folded(token)) for token in beyond))
    return [
        record
        for record in dataset.records
        if written.search(_folded("".join(segment.text for segment in render(record, template))))
    ]


def _folded(text: str) -> str:
    """Write alike what a tokenizer may take for alike before it looks for added tokens."""
    return unicodedata.normalize("NFKC", text).casefold().replace("▁", " ")


def _beyond(dataset: LazySupervisedDataset, record: Record, num_rows: int) -> RecordError | None:
    try:
        tokens = tokenize_record(record, *dataset.reading)
        check_table(record, tokens.input_ids, dataset.tokenizer, num_rows)
    except RecordError as error:
        return error
    return None


def check_table(record: Record, ids: Sequence[int], tokenizer: Any, num_rows: int) -> None:
    """Refuse a record whose tokens the embedding table has no rows for.

    Raises:
        RecordError: naming the tokens.
    """
    if told := tell_beyond(ids, tokenizer, num_rows):
        what = f"holds {told}; take the LLM's own tokenizer or remove it"
        raise record.error(problems.BEYOND_TABLE, what)
