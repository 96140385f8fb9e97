"""All records of a data set, asked before a run what their tokens are.

Only a tokenizer with more tokens than the LLM's embedding table has rows (one with a ``[PAD]`` of
its own, say) makes this read more than the texts, and then only records that can have such a token.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter

from llava_sea.conversation import render
from llava_sea.data.check_text import errors_name, refuse
from llava_sea.data.control_tokens import tell, typed_tokens
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.records import Record
from llava_sea.data.tokenize import tell_beyond, tokenize_record

logger = logging.getLogger(__name__)


def check_tokens(dataset: LazySupervisedDataset, num_rows: int, file: str) -> None:
    """See that the embedding table has every token; say how many special tokens are typed in texts.

    Args:
        dataset: its records, and how they are read.
        num_rows: of the table.
        file: the data file, as messages name it.

    Raises:
        UserError: with the number of records that hold a token beyond the table, the first of them
            and the places of the next few.
    """
    with errors_name(file):
        bad = [
            (record, problem)
            for record in _suspects(dataset, num_rows)
            if (problem := _beyond(dataset, record, num_rows))
        ]
    if bad:
        refuse(bad, len(dataset), file)
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
            file,
            len(holders),
            tell(found),
            holders[0].name,
        )


def _suspects(dataset: LazySupervisedDataset, num_rows: int) -> list[Record]:
    """Return the records that may hold a token beyond the table."""
    tokenizer, template = dataset.tokenizer, dataset.template
    beyond = {token for token, id_ in tokenizer.get_vocab().items() if id_ >= num_rows}
    if not beyond:
        return []
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    if not beyond <= added or tokenizer.bos_token in beyond or template.bos in beyond:
        return list(dataset.records)
    written = re.compile("|".join(re.escape(_folded(token)) for token in beyond))
    return [
        record
        for record in dataset.records
        if written.search(_folded("".join(segment.text for segment in render(record, template))))
    ]


def _folded(text: str) -> str:
    """Write alike what a tokenizer may take for alike before it looks for added tokens."""
    return unicodedata.normalize("NFKC", text).casefold().replace("▁", " ")


def _beyond(dataset: LazySupervisedDataset, record: Record, num_rows: int) -> str:
    tokens = tokenize_record(
        record,
        dataset.template,
        dataset.tokenizer,
        dataset.image_tokens,
        dataset.model_max_length,
    )
    told = tell_beyond(tokens.input_ids, dataset.tokenizer, num_rows)
    return f"{record.name} holds {told}; take the LLM's own tokenizer or remove it" if told else ""
