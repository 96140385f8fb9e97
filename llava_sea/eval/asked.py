"""How a score's questions were asked: the prompt's form, and the conversation template.

The form enters the protocol, since other prompts are another test. The template does not: it is the
model's own, as its weights are, and models are what is compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence

from llava_sea.eval.answers import Answer
from llava_sea.eval.score import Score

LONGEST = 160
"""Characters of an ending that are shown, the last ones; LLaVA's longest, VizWiz's, has 126."""


def with_prompt(score: Score, answers: Sequence[Answer], template: str = "") -> Score:
    """Return a score that says how it was asked.

    Args:
        score: of the answers.
        answers: each with its prompt.
        template: the conversation template's name, "" where it is not known.
    """
    protocol = {"prompt": prompt_form(answers), **score.protocol}
    return dataclasses.replace(score, protocol=protocol, template=template)


def prompt_form(answers: Sequence[Answer]) -> str:
    r"""Return the lines that end more than half of the prompts, and a hash of all prompts.

    The ending is what a benchmark adds to its questions, e.g. "Answer the question using a single
    word or phrase."; its lines are joined by blanks. The hash, 8 digits of a SHA-256 of the
    different prompts in order, tells apart what differs elsewhere or is not shown.
    """
    prompts = [answer.prompt.strip() for answer in answers if answer.prompt.strip()]
    if not prompts:
        return "not known, no answer repeats it"
    texts = json.dumps(sorted(set(prompts))).encode()
    digest = f"(all texts: {hashlib.sha256(texts).hexdigest()[:8]})"
    ending, count = _ending(prompts)
    if not ending:
        return f"the questions have no ending in common {digest}"
    shown = ending if len(ending) <= LONGEST else f"...{ending[3 - LONGEST :]}"
    whose = (
        "each question ends"
        if count == len(answers)
        else f"{count} of {len(answers)} questions end"
    )
    return f'{whose} "{shown}" {digest}'


def _ending(prompts: Sequence[str]) -> tuple[str, int]:
    """Return the longest ending that as many prompts share as share its last line, and how many."""
    split = [tuple(line.strip() for line in prompt.split("\n")) for prompt in prompts]
    ending: tuple[str, ...] = ()
    sharing = 0
    for length in range(1, max(map(len, split)) + 1):
        tails = Counter(lines[-length:] for lines in split if len(lines) >= length)
        tail, count = tails.most_common(1)[0]
        if count < sharing or 2 * count <= len(prompts):
            break
        ending, sharing = tail, count
    return " ".join(ending), sharing
