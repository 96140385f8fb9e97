"""The text that the world's LLMs read: scenes told in words, questions, captions, word lists.

A document is a list of segments, each with its weight in the loss. A scene is told in a sentence
list with places, or patch by patch: one true word for each patch (or a phrase for each four), row
by row, which is what aligned visual tokens look like to an LLM. Questions or a caption follow. A
curriculum goes from scenes with one thing to full ones; questions are many to a scene, so that
looking things up is learned early. Limits: training scenes only, unless told otherwise.
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
from playground.questions import QUESTION_KINDS, ask, prompt_of, region_of
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
    """List the things and the sign with their places, and the background, in reading order."""
    things = sorted(scene.things, key=lambda thing: (thing.y // 24, thing.x))
    parts = []
    for thing in things:
        phrase = noun_phrase(rng, [thing], colour=True, size=rng.random() < 0.3, opinion=0)
        large = thing.size_row.side >= PICTURE_SIDE / 2
        place = "everywhere" if large else region_of(thing)
        parts.append(f"{place}: {with_article(phrase)}")
    if scene.sign:
        parts.append(with_article(sign_phrase(rng, scene.sign.word)))
    noun = pick_name(rng, scene.background_row.nouns)
    return "; ".join([*parts, f"background: {noun}"])


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


WORDS = (*all_words(), *distractors())


def word_document(rng: random.Random, scene: Scene) -> list[Segment]:
    """A list of words and phrases, things of the world or not."""
    return [Segment(", ".join(rng.choices(WORDS, k=12)) + "\n", 0.2)]


Maker = Callable[[random.Random, Scene], list[Segment]]

MAKERS: tuple[Maker, ...] = (
    asked_description,
    asked_patches,
    captioned_patches,
    caption_document,
    word_document,
)
EARLY_SHARES = (0.76, 0.12, 0.06, 0.03, 0.03)
LATE_SHARES = (0.44, 0.28, 0.20, 0.05, 0.03)
"""Shares of the kinds of documents: first mostly those that teach looking things up."""

EARLY_UNTIL = 0.4
ONE_UNTIL, TWO_UNTIL = 0.04, 0.15
"""The curriculum: until these parts of the training scenes have one thing, and at most two."""


def draw_document(
    rng: random.Random, progress: float = 1.0, split: Split = "train"
) -> list[Segment]:
    """Draw a document.

    Args:
        rng: source of all draws.
        progress: how far training is, 0 to 1; early documents are about one or two things.
        split: which scenes.
    """
    count = None
    if progress < ONE_UNTIL:
        count = 1
    elif progress < TWO_UNTIL:
        count = rng.choice((1, 2, 2))
    scene = sample_scene(rng, split, count)
    shares = EARLY_SHARES if progress < EARLY_UNTIL else LATE_SHARES
    return rng.choices(MAKERS, shares)[0](rng, scene)
