"""The world's instruction data: LLaVA-665K's shape at small scale, and held-out questions.

Conversations about the training pictures (one question or several, a caption asked for, both),
questions in the benchmarks' forms (`playground.benchmarks.training_forms`), records without a
picture (a training scene told in words, then questions) and records with two
(which of them shows a thing?). What is asked and answered is `playground.questions`'; half of the
question records carry LLaVA's request for a short answer. Each record depends on the seed and its
number alone, so the pictures' files do not depend on this. Limits: training scenes, but for the
held-out questions, whose pictures are of the dev split.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from playground.benchmarks.prompts import SHORT_ANSWER
from playground.benchmarks.training_forms import told_choice_turns, training_turns
from playground.captions import with_article, write_caption
from playground.questions import QUESTION_KINDS, Question, ask
from playground.scene import Scene, sample_scene

INSTRUCTIONS = (
    "What is shown here?",
    "Write a short caption for this picture.",
    "Say briefly what you see.",
    "Caption the image in a few words.",
    "Sum up the picture.",
)
"""Requests for a caption."""

MAX_QUESTIONS = 6
FORM_SHARE = 0.6
TEXT_SHARE = 0.1
PAIR_SHARE = 0.05
"""Records in the benchmarks' forms, without a picture and with two of them, for each picture."""

MAX_FORMS = 3
TOLD_CHOICE_SHARE = 0.2
"""Of the records without a picture: those that ask for an option's letter."""

MAKER_SHARES = (0.5, 0.25, 0.15, 0.1)
"""Of the records about one picture: several questions, one, a caption, a caption and questions."""


class Shown(NamedTuple):
    """A picture that was written, and its scene."""

    image: str
    scene: Scene


Record = dict[str, Any]
Turns = list[tuple[str, str]]
"""Pairs of what the human says and what the model answers."""


def ask_several(
    rng: random.Random, scene: Scene, count: int, kinds: tuple[str, ...] = QUESTION_KINDS
) -> list[Question]:
    """Ask up to `count` questions of these kinds, none twice, a kind twice at most."""
    order = rng.sample(2 * kinds, 2 * len(kinds))
    asked = [question for kind in order if (question := ask(rng, scene, kind))]
    return list({question.text: question for question in asked}.values())[:count]


def _turns(questions: list[Question]) -> Turns:
    return [(question.text, question.answer) for question in questions]


def _shortened(rng: random.Random, turns: Turns) -> Turns:
    """Ask for short answers, half of the time, as LLaVA does: in the first turn, for all."""
    if rng.random() < 0.5:
        return turns
    (question, answer), *others = turns
    return [(f"{question}\n{SHORT_ANSWER}", answer), *others]


def _caption(rng: random.Random, scene: Scene) -> Turns:
    return [(rng.choice(INSTRUCTIONS), write_caption(rng, scene).text)]


def _record(identity: str, turns: Turns, image: str | list[str] | None = None) -> Record:
    conversation = []
    for question, answer in turns:
        conversation.append({"from": "human", "value": question})
        conversation.append({"from": "gpt", "value": answer})
    pictured = {} if image is None else {"image": image}
    return {"id": identity, **pictured, "conversations": conversation}


def _with_picture(rng: random.Random, turns: Turns) -> Turns:
    """Put the picture's place before or after the first turn's text, mostly before."""
    (question, answer), *others = turns
    text = f"<image>\n{question}" if rng.random() < 0.8 else f"{question}\n<image>"
    return [(text, answer), *others]


def about_one(rng: random.Random, identity: str, shown: Shown) -> Record:
    """Make a record about one picture."""
    scene = shown.scene
    (kind,) = rng.choices(range(len(MAKER_SHARES)), MAKER_SHARES)
    several = rng.randint(2, MAX_QUESTIONS)
    if kind == 0:
        turns = _shortened(rng, _turns(ask_several(rng, scene, several)))
    elif kind == 1:
        turns = _shortened(rng, _turns(ask_several(rng, scene, 1)))
    elif kind == 2:
        turns = _caption(rng, scene)
    else:
        turns = _caption(rng, scene) + _turns(ask_several(rng, scene, several - 1))
    return _record(identity, _with_picture(rng, turns), shown.image)


def in_forms(rng: random.Random, identity: str, shown: Shown) -> Record:
    """Make a record in the forms that benchmarks use: letters, relations, written words."""
    turns: Turns = []
    while not turns:
        turns = training_turns(rng, shown.scene, rng.randint(1, MAX_FORMS))
    return _record(identity, _with_picture(rng, turns), shown.image)


def about_text(rng: random.Random, identity: str) -> Record:
    """Make a record without a picture: a training scene told in words, then questions."""
    from playground.documents import describe  # needs torch, which pictures do not

    scene = sample_scene(rng, "train")
    if rng.random() < TOLD_CHOICE_SHARE and (turns := told_choice_turns(rng, scene)):
        return _record(identity, turns)
    told = describe(rng, scene)
    placed = "top " in told or "bottom " in told  # some descriptions say where, some do not
    kinds = QUESTION_KINDS if placed else tuple(k for k in QUESTION_KINDS if k != "place")
    asked = ask_several(rng, scene, rng.randint(1, MAX_QUESTIONS), kinds)
    (question, answer), *others = _shortened(rng, _turns(asked))
    return _record(identity, [(f"{told}\n{question}", answer), *others])


def _pairs(shown: Shown) -> set[tuple[str, str]]:
    return {(thing.colour, thing.kind) for thing in shown.scene.things}


def about_two(rng: random.Random, identity: str, pictures: Sequence[Shown]) -> Record:
    """Make a record with two pictures: which of them shows a thing that the other does not?"""
    while True:  # at least 20 pictures, see PAIR_SHARE: some two differ
        shown, other = rng.sample(pictures, 2)
        only = sorted(_pairs(shown) - _pairs(other))
        if only:
            break
    thing = with_article(" ".join(rng.choice(only)))
    first = rng.random() < 0.5
    question = (
        f"first: <image>\nsecond: <image>\nwhich picture shows {thing}, the first or the second?"
    )
    images = [shown.image, other.image] if first else [other.image, shown.image]
    return _record(identity, [(question, "first" if first else "second")], images)


def instruction_records(pictures: Sequence[Shown], seed: int) -> list[Record]:
    """Return the records of ``finetune.json``, mixed: 1.75 for each training picture.

    Args:
        pictures: the training pictures.
        seed: decides every record.
    """
    records = []
    for number, shown in enumerate(pictures):
        rng = random.Random(f"{seed}/instruct/one/{number}")
        records.append(about_one(rng, f"instruct-{number:06d}", shown))
    for number in range(round(FORM_SHARE * len(pictures))):
        rng = random.Random(f"{seed}/instruct/form/{number}")
        records.append(in_forms(rng, f"form-{number:06d}", pictures[number]))
    for number in range(round(TEXT_SHARE * len(pictures))):
        rng = random.Random(f"{seed}/instruct/text/{number}")
        records.append(about_text(rng, f"text-{number:06d}"))
    for number in range(int(PAIR_SHARE * len(pictures))):
        rng = random.Random(f"{seed}/instruct/two/{number}")
        records.append(about_two(rng, f"pair-{number:06d}", pictures))
    random.Random(f"{seed}/instruct/order").shuffle(records)
    return records


def heldout_questions(pictures: Sequence[Shown], seed: int) -> list[Record]:
    """Return the records of ``heldout_questions.json``: of each picture a question of every kind.

    Args:
        pictures: the held-out pictures.
        seed: decides every question.

    Returns:
        LLaVA's records with one question, the right answer as the model's turn, and the question's
        "kind" beside them.
    """
    records = []
    for number, shown in enumerate(pictures):
        for place, kind in enumerate(QUESTION_KINDS):
            rng = random.Random(f"{seed}/heldout-questions/{number}/{kind}")
            question = ask(rng, shown.scene, kind)
            if question:
                turns = [(f"<image>\n{question.text}", question.answer)]
                record = _record(f"heldout-{number:06d}-{place}", turns, shown.image)
                records.append(record | {"kind": kind})
    return records
