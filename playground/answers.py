"""How often an LLM answers the fixed questions right, for scenes told in words.

Each question stands alone after its scene, as in `playground.documents`; an answer is right if the
LLM's best token is the right one at every place of it. Limits: greedy, teacher-forced, which for
answers of one or two tokens is what generation would give.
"""

# Shape letters: B questions, L tokens.

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import LlamaForCausalLM

from playground.documents import DocumentEncoder, Segment
from playground.questions import QUESTION_KINDS, Question, prompt_of
from playground.scene import Scene

Teller = Callable[[random.Random, Scene], str]


@torch.no_grad()
def answer_rates(
    model: LlamaForCausalLM,
    encoder: DocumentEncoder,
    asked: Sequence[tuple[Scene, Question]],
    tell: Teller,
    batch: int = 64,
) -> dict[str, float]:
    """Return the share of right answers by kind of question.

    Args:
        model: the LLM.
        encoder: its tokenizer's encoder of documents.
        asked: scenes with a question each.
        tell: says a scene in words.
        batch: questions read at a time.
    """
    right: dict[str, list[bool]] = {kind: [] for kind in QUESTION_KINDS}
    prompts, answers = [], []
    for number, (scene, question) in enumerate(asked):
        told = tell(random.Random(f"tell/{number}"), scene)
        ids, _ = encoder.encode([Segment(told, 0.0), Segment(prompt_of(question.text), 0.0)])
        prompts.append(ids[:-1])  # the closing EOS goes
        answers.append(encoder.ids(question.answer))
    order = sorted(range(len(asked)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        length = max(len(prompts[i]) + len(answers[i]) for i in rows)
        ids_BL = torch.zeros((len(rows), length), dtype=torch.long)
        for row, i in enumerate(rows):
            known = torch.tensor(prompts[i] + answers[i])
            ids_BL[row, : len(known)] = known
        best_BL = model(input_ids=ids_BL).logits.argmax(dim=-1)
        for row, i in enumerate(rows):
            first = len(prompts[i]) - 1
            guessed = best_BL[row, first : first + len(answers[i])].tolist()
            right[asked[i][1].kind].append(guessed == answers[i])
    return {kind: float(np.mean(r)) for kind, r in right.items() if r}
