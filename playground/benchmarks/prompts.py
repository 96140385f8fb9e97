"""What LLaVA-1.5 appends to a benchmark's questions, word for word.

Source: the question files of LLaVA's eval.zip and ``llava/eval`` (haotian-liu/LLaVA v1.2).
"""

from __future__ import annotations

from collections.abc import Sequence

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""Follows the questions of VQAv2, GQA, VizWiz, TextVQA and POPE."""

LETTER = "Answer with the option's letter from the given choices directly."
"""Follows the options of ScienceQA and MMBench (appended by the runner, not in the files)."""

UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
"""Stands before the request for a short answer in VizWiz."""

OCR_TOKENS = "Reference OCR token: "
"""Starts TextVQA's line of the words that an OCR system read in the picture."""

LETTERS = "ABCD"


def with_options(question: str, options: Sequence[str], hint: str = "") -> str:
    """Write a question with lettered options, a line each; the hint, if any, comes first."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join(([hint] if hint else []) + [question, *lines])
