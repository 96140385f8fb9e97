"""The text that the world's LLMs read: scenes told in words, questions, captions, word lists.

A document is a list of segments, each with its weight in the loss. A scene is told in a sentence
list with places, or patch by patch: one true word for each patch (or a phrase for each four), row
by row, which is what aligned visual tokens look like to an LLM. Questions or a caption follow. A
curriculum goes from brief lists told again in another order, where looking things up is learned
soonest, to questions and captions. Limits: training scenes only, unless told otherwise.
"""

# Shape letters: B documents, L tokens.

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from playground.captions import noun_phrase, pick_name, sign_phrase, with_article, write_caption
from playground.corpus import all_words
from playground.distractors import distractors
from playground.questions import QUESTION_KINDS, ask, prompt_of, region_of, unique
from playground.render import BACKGROUND, SIGN, patch_owners
from playground.scene import Scene, sample_scene
from playground.vocabulary import BACKGROUND_BY_NAME, COLOURS, KINDS, SIGN_NOUNS, SIZES
from playground.world import GRID, PICTURE_SIDE, Split

BOS, EOS = 1, 2
END = "</s>"
"""Ends an answer, as in LLaVA's conversations."""

EVIDENCE_WEIGHT = 0.05
"""Weight of evidence in the loss: to foresee it is a lesson in looking back, not the aim."""

END_WEIGHT = 0.1
"""Weight of an answer's end: it is learned at once and would only dilute the rest."""


@dataclass(frozen=True)
class Segment:
    """A piece of text, tokenised on its own, and its weight in the loss (0: only read)."""

    text: str
    weight: float


class DocumentEncoder:
    """Turns documents into ids and weights; each segment is tokenised on its own."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text without BOS and EOS."""
        if text not in self._cache:
            if len(self._cache) > 50_000:
                self._cache.clear()
            encoded = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            self._cache[text] = list(encoded)
        return self._cache[text]

    def encode(self, document: list[Segment]) -> tuple[list[int], list[float]]:
        """Return ids (BOS, the segments, EOS) and each id's weight in the loss."""
        ids, weights = [BOS], [0.0]
        for segment in document:
            piece = self.ids(segment.text)
            ids += piece
            weights += [segment.weight] * len(piece)
        if ids[-1] != EOS:
            ids, weights = [*ids, EOS], [*weights, 1.0]
        return ids, weights

    def batch(self, documents: list[list[Segment]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode documents and pad them on the right: ``ids_BL`` and ``weights_BL``."""
        encoded = [self.encode(document) for document in documents]
        length = max(len(ids) for ids, _ in encoded)
        ids_BL = torch.full((len(encoded), length), EOS)
        weights_BL = torch.zeros((len(encoded), length))
        for row, (ids, weights) in enumerate(encoded):
            ids_BL[row, : len(ids)] = torch.tensor(ids)
            weights_BL[row, : len(ids)] = torch.tensor(weights)
        return ids_BL, weights_BL


def document_loss(model: nn.Module, ids_BL: torch.Tensor, weights_BL: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the next-token losses.

    Rows are padded on the right and attention is causal, so no real token sees padding and no
    attention mask is needed. Logits are taken only where the weight is not 0.
    """
    core: Any = model
    hidden_BLD = core.model(input_ids=ids_BL).last_hidden_state
    wanted_BL = weights_BL[:, 1:] > 0
    logits = core.lm_head(hidden_BLD[:, :-1][wanted_BL])
    losses = nn.functional.cross_entropy(logits, ids_BL[:, 1:][wanted_BL], reduction="none")
    weights = weights_BL[:, 1:][wanted_BL]
    return (losses * weights).sum() / weights.sum()


def _first_names() -> list[str]:
    groups = [row.names for row in KINDS] + [row.names for row in COLOURS]
    groups += [row.names for row in SIZES]
    return [names[0] for names in groups]


FIRST_NAMES = tuple(_first_names())

SINGLE_BACKGROUND_WORDS = {
    name: tuple(word for word in row.words if " " not in word)
    for name, row in BACKGROUND_BY_NAME.items()
}


def _patch_word(rng: random.Random, scene: Scene, owner: int, colour_share: float) -> str:
    """Say one true word of a patch."""
    if owner == BACKGROUND:
        return pick_name(rng, SINGLE_BACKGROUND_WORDS[scene.background])
    if owner == SIGN:
        assert scene.sign is not None
        return scene.sign.word if rng.random() < 0.7 else rng.choice(SIGN_NOUNS)
    thing = scene.things[owner]
    draw = rng.random()
    if draw < 0.05:
        return pick_name(rng, thing.size_row.names)
    if draw < 0.05 + colour_share:
        return pick_name(rng, thing.colour_row.names)
    return pick_name(rng, thing.kind_row.names)


def _patch_phrase(rng: random.Random, scene: Scene, owner: int) -> str:
    """Say a true phrase of a patch, mostly colour and kind."""
    if owner == BACKGROUND:
        return pick_name(rng, BACKGROUND_BY_NAME[scene.background].words)
    if owner == SIGN:
        assert scene.sign is not None
        return f"{scene.sign.word} {pick_name(rng, SIGN_NOUNS)}"
    return noun_phrase(
        rng, [scene.things[owner]], colour=rng.random() < 0.9, size=rng.random() < 0.1, opinion=0
    )


def tell_by_patches(rng: random.Random, scene: Scene) -> str:
    """Say one true word for each patch, or one phrase for each four, row by row.

    Per document the share of colour words and the noise (words that are not true) are drawn anew.
    Of four patches the phrase is of one that is not background, if there is one.
    """
    colour_share = rng.uniform(0.3, 0.6)
    noise = rng.choice((0.0, 0.0, 0.05, 0.1))
    rows, columns = GRID
    owners = patch_owners(scene)
    coarse = rng.random() < 0.5
    step = 2 if coarse else 1
    told = []
    for row in range(0, rows, step):
        for column in range(0, columns, step):
            if rng.random() < noise:
                told.append(rng.choice(FIRST_NAMES))
                continue
            here = owners[row : row + step, column : column + step].reshape(-1).tolist()
            shown = [owner for owner in here if owner != BACKGROUND] or here
            owner = int(rng.choice(shown))
            if coarse:
                told.append(_patch_phrase(rng, scene, owner))
            else:
                told.append(_patch_word(rng, scene, owner, colour_share))
    return (", " if coarse else " ").join(told)


def describe(rng: random.Random, scene: Scene) -> str:
    """List the things, in reading order, the sign and the background; mostly with places."""
    things = sorted(scene.things, key=lambda thing: (thing.y // 24, thing.x))
    placed = rng.random() < 0.6
    parts = []
    for thing in things:
        phrase = noun_phrase(rng, [thing], colour=True, size=rng.random() < 0.2, opinion=0)
        large = thing.size_row.side >= PICTURE_SIDE / 2
        place = "everywhere" if large else region_of(thing)
        parts.append(f"{place}: {with_article(phrase)}" if placed else with_article(phrase))
    if scene.sign:
        parts.append(with_article(sign_phrase(rng, scene.sign.word)))
    noun = pick_name(rng, scene.background_row.nouns)
    return "; ".join([*parts, f"background: {noun}"])


def list_briefly(scene: Scene) -> str:
    """List the things by colour and kind alone, first names only."""
    return ", ".join(f"{thing.colour} {thing.kind}" for thing in scene.things)


KIND_WEIGHTS = dict(zip(QUESTION_KINDS, (4, 3, 5, 4, 4, 2, 1, 1, 1), strict=True))
"""How often each kind of question is asked: those that the bars are about, and hard ones, more."""


def _questions(rng: random.Random, scene: Scene, count: int) -> list[Segment]:
    """Ask up to `count` questions, none twice: an answer must not be had from an earlier one."""
    kinds = rng.choices(tuple(KIND_WEIGHTS), tuple(KIND_WEIGHTS.values()), k=2 * count)
    asked = [question for kind in kinds if (question := ask(rng, scene, kind))]
    unique = list({question.text: question for question in asked}.values())[:count]
    segments = []
    for question in unique:
        segments += [
            Segment(prompt_of(question.text), 0.0),
            Segment(question.answer, 1.0),
            Segment(END, END_WEIGHT),
        ]
    return segments


def _caption(rng: random.Random, scene: Scene) -> list[Segment]:
    return [Segment(write_caption(rng, scene).text + "\n", 1.0)]


def caption_document(rng: random.Random, scene: Scene) -> list[Segment]:
    """A bare caption."""
    return _caption(rng, scene)


def captioned_patches(rng: random.Random, scene: Scene) -> list[Segment]:
    """A scene told by patches, then a caption."""
    return [Segment(tell_by_patches(rng, scene), EVIDENCE_WEIGHT), *_caption(rng, scene)]


def asked_patches(rng: random.Random, scene: Scene) -> list[Segment]:
    """A scene told by patches, then questions."""
    told = Segment(tell_by_patches(rng, scene), EVIDENCE_WEIGHT)
    return [told, *_questions(rng, scene, 10)]


def asked_description(rng: random.Random, scene: Scene) -> list[Segment]:
    """A description, then questions."""
    return [Segment(describe(rng, scene), EVIDENCE_WEIGHT), *_questions(rng, scene, 12)]


def _look_ups(rng: random.Random, scene: Scene) -> list[tuple[str, str, bool]]:
    """Return (key, value, whether the key is the kind) of all that can be looked up, shuffled."""
    found = [(t.kind, t.colour, True) for t in unique(scene, "kind")]
    found += [(t.colour, t.kind, False) for t in unique(scene, "colour")]
    rng.shuffle(found)
    return found


def relisted(rng: random.Random, scene: Scene) -> list[Segment]:
    """A brief list, then the same in another order: look-ups whose key is the word before.

    The first lesson, since a model learns these ten times sooner than answers to questions.
    """
    segments = [Segment(list_briefly(scene) + "\n", EVIDENCE_WEIGHT)]
    for key, value, _ in _look_ups(rng, scene):
        segments += [Segment(key, 0.0), Segment(value, 1.0), Segment(",", 0.0)]
    return segments


def stated_description(rng: random.Random, scene: Scene) -> list[Segment]:
    """A description, then what it says of each thing once more, then some questions."""
    segments = [Segment(describe(rng, scene), EVIDENCE_WEIGHT)]
    for key, value, is_kind in _look_ups(rng, scene):
        text = f"\nthe {key} is" if is_kind else f"\nthe {key} thing is"
        segments += [Segment(text, 0.0), Segment(value, 1.0)]
    return [*segments, *_questions(rng, scene, 5)]


WORDS = (*all_words(), *distractors())


def word_document(rng: random.Random, scene: Scene) -> list[Segment]:
    """A list of words and phrases, things of the world or not."""
    return [Segment(", ".join(rng.choices(WORDS, k=12)) + "\n", 0.2)]


Maker = Callable[[random.Random, Scene], list[Segment]]

MAKERS: tuple[Maker, ...] = (
    relisted,
    stated_description,
    asked_description,
    asked_patches,
    captioned_patches,
    caption_document,
    word_document,
)
LESSONS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0.12, (0.85, 0.05, 0.05, 0.00, 0.00, 0.02, 0.03)),
    (0.25, (0.20, 0.45, 0.25, 0.05, 0.00, 0.02, 0.03)),
    (0.45, (0.05, 0.25, 0.45, 0.12, 0.05, 0.05, 0.03)),
    (1.00, (0.00, 0.05, 0.40, 0.28, 0.19, 0.05, 0.03)),
)
"""The curriculum: until which part of the training, and the shares of the kinds of documents."""


def draw_document(
    rng: random.Random, progress: float = 1.0, split: Split = "train"
) -> list[Segment]:
    """Draw a document.

    Args:
        rng: source of all draws.
        progress: how far training is, 0 to 1; see `LESSONS`.
        split: which scenes.
    """
    shares = next(shares for until, shares in LESSONS if progress <= until)
    make = rng.choices(MAKERS, shares)[0]
    few = None if make is not relisted else rng.choice((2, 3, 4, 5, 6))
    return make(rng, sample_scene(rng, split, few))
