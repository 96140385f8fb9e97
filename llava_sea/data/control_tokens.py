"""Special tokens typed in a text (``</s>``, ``<|im_end|>``): found, counted, and kept as text.

A tokenizer makes a control token of the word wherever it stands. In training that stays so, as in
LLaVA, and is counted. In chat and in questions of files a person's text is text: there the prompt
is encoded by a twin of the tokenizer whose special tokens have names that nobody can type, and only
the template writes those. All other text gets the same ids from both.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.conversation import Template, begins_with_gpt
from llava_sea.data.records import Record

_WRITTEN = ("system", "first", "again", "reply", "answer_start", "answer_end", "after", "stop")
"""The texts that a template puts around turns."""


def control_tokens(tokenizer: Any, template: Template) -> frozenset[str]:
    """Return the tokens that control: the special ones, and the template's whatever their flag.

    ``<image>`` is none: it is a place or text, and never reaches a tokenizer as a token.
    """
    wanted = {*tokenizer.all_special_tokens, *template.special_tokens}
    added = tokenizer.added_tokens_decoder.values()
    found = {token.content for token in added if token.special or token.content in wanted}
    return frozenset(found - {IMAGE_TOKEN})


@lru_cache(maxsize=16)
def typed_pattern(tokenizer: Any, template: Template) -> re.Pattern[str]:
    """Return what finds control tokens in a text, the longest first."""
    words = sorted(control_tokens(tokenizer, template), key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, words)) or r"(?!)")


def typed_tokens(record: Record, tokenizer: Any, template: Template) -> Counter[str]:
    """Count the control tokens in the texts of a record that training reads."""
    pattern = typed_pattern(tokenizer, template)
    left_out = template.caption_only or begins_with_gpt(record)
    found: Counter[str] = Counter()
    for turn in record.turns[left_out:]:
        found.update(pattern.findall(turn.text))
    return found


def tell(found: Counter[str]) -> str:
    """Write counted tokens: ``'</s>' (2), '<s>' (1)``."""
    return ", ".join(f"{token!r} ({count})" for token, count in found.most_common())


def has_typed(texts: Iterable[str], tokenizer: Any, template: Template) -> bool:
    """Say whether a control token stands in one of the texts."""
    pattern = typed_pattern(tokenizer, template)
    return any(pattern.search(text) for text in texts)


@dataclass(frozen=True)
class Twin:
    """A template whose control tokens have other names, and the tokenizer that knows these only."""

    template: Template
    backend: Tokenizer

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids, which are the tokenizer's own, and character offsets."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        return list(encoding.ids), list(encoding.offsets)


@lru_cache(maxsize=4)
def make_twin(tokenizer: Any, template: Template) -> Twin:
    """Rename the control tokens of a tokenizer and of a template; ids and all other rules stay."""
    nonce = secrets.token_hex(8)
    words = control_tokens(tokenizer, template)
    names = {word: f"<|{nonce}-{number}|>" for number, word in enumerate(sorted(words))}
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in content["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(word, word): id_ for word, id_ in model["vocab"].items()}
    else:  # Unigram's, where a place in the list is the id
        model["vocab"] = [[names.get(word, word), score] for word, score in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:  # one that makes the word would lead text to the token
        model["merges"] = [
            pair for pair in model["merges"] if words.isdisjoint((*pair, "".join(pair)))
        ]
    pattern = typed_pattern(tokenizer, template)
    texts: dict[str, Any] = {
        name: pattern.sub(lambda match: names[match[0]], getattr(template, name))
        for name in _WRITTEN
    }
    return Twin(replace(template, **texts), Tokenizer.from_str(json.dumps(content)))
