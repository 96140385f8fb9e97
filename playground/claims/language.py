"""How much of its language an LLM keeps (the paper's figure 3, where it is MMLU).

A scene is told in words and a question follows, no picture. It is asked in two forms: as in the
LLM's own documents, which the LLM before stage 2 can answer, and in the conversation template of
stage 2. An answer is right if it is the known one, case and a full stop apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from llava_sea.conversation import Template
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import stop_ids, tokenize_prompt
from playground.claims.asked import Prompt, answer_batches, make_batches
from playground.questions import prompt_of

DOCUMENT, CONVERSATION = "document", "conversation"
FORMS = (DOCUMENT, CONVERSATION)
MAX_NEW_TOKENS = 8
"""The answers are words of the world, of four tokens at most."""


def normalise(text: str) -> str:
    """Return an answer as it is compared."""
    return " ".join(text.lower().strip().rstrip(".").split())


class Language:
    """Asks an LLM the questions without a picture."""

    def __init__(self, path: Path, tokenizer: Any, template: Template, *, batch_size: int) -> None:
        """Read ``text_only.jsonl`` and tokenise it in both forms."""
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        self.answers = [normalise(row["answer"]) for row in rows]
        self.tokenizer, self.stop = tokenizer, stop_ids(template, tokenizer)
        none = np.zeros((0, 1, 1), np.float32)
        made = {
            DOCUMENT: [_document(row["text"], tokenizer) for row in rows],
            CONVERSATION: [_conversation(row["text"], tokenizer, template) for row in rows],
        }
        self._batches = {
            form: make_batches(prompts, none, batch_size) for form, prompts in made.items()
        }

    def measure(self, llava: Any) -> dict[str, float]:
        """Return the share of right answers, 0 to 100, in each form."""
        found = {}
        for form, batches in self._batches.items():
            texts = answer_batches(llava, batches, self.tokenizer, self.stop, MAX_NEW_TOKENS)
            right = [normalise(t) == a for t, a in zip(texts, self.answers, strict=True)]
            found[form] = 100.0 * sum(right) / len(right)
        return found


def _document(text: str, tokenizer: Any) -> Prompt:
    """Tokenise the scene and the question each on its own, as the LLM's documents are."""
    told, _, question = text.rpartition("\n")
    ids = [tokenizer.bos_token_id]
    for part in (told, prompt_of(question)):
        ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return Prompt(ids, [False] * len(ids), None)


def _conversation(text: str, tokenizer: Any, template: Template) -> Prompt:
    ids, mask = tokenize_prompt([Turn("human", text)], template, tokenizer, 0, 0)
    return Prompt(ids, mask, None)
