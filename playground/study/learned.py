"""What an LLM learns from an image: the primary measures after stage 1, without any stage 2.

A fixed set of scenes is shown, each with texts after it: its own caption and those of other scenes,
and questions with two answers. All texts of a scene are scored in one pass, as branches of a tree
whose stem is the image; that equals a pass for each.

- Captions: the loss of a caption after another scene's image, minus the loss after its own, in nats
  a token. What the LLM knows of captions without the image cancels.
- Questions: two scenes answer the same question differently (a in scene i, b in scene j). It is
  right if image i raises a over b more than image j does; chance is one half, and what the LLM
  believes of the answers without an image cancels.

Shape letters: B scenes, L tokens, P patches, D hidden size, K scored tokens.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.data.tokenize import PLACEHOLDER_ID
from llava_sea.model.stage1 import Stage1Model
from playground.captions import write_caption
from playground.questions import QUESTION_KINDS, ask, prompt_of
from playground.scene import Scene, sample_scene
from playground.world import Split

TRIES = 12
"""Questions drawn of each kind and scene, from which pairs are made."""


class Pair(NamedTuple):
    """A question that two scenes answer differently."""

    kind: str
    text: str
    scenes: tuple[int, int]
    answers: tuple[str, str]


class Exam(NamedTuple):
    """The scenes, their captions, and the questions about them."""

    scenes: list[Scene]
    captions: list[str]
    pairs: list[Pair]
    num_others: int
    """Captions of other scenes that each image is followed by."""

    def others(self, scene: int) -> list[int]:
        """Return the scenes whose captions are not this one's: the ones before it, in a ring."""
        return [(scene - back) % len(self.scenes) for back in range(1, self.num_others + 1)]


def make_exam(split: Split, num_scenes: int, per_kind: int, num_others: int = 3) -> Exam:
    """Draw an exam; the same arguments give the same one.

    Raises:
        ValueError: if the scenes have less than half of the questions of a kind.
    """
    rng = random.Random(f"learned/{split}")
    scenes = [sample_scene(rng, split) for _ in range(num_scenes)]
    captions = [write_caption(rng, scene).text for scene in scenes]
    pairs = [pair for kind in QUESTION_KINDS for pair in _pairs(rng, scenes, kind, per_kind)]
    return Exam(scenes, captions, pairs, num_others)


def _pairs(rng: random.Random, scenes: Sequence[Scene], kind: str, count: int) -> list[Pair]:
    """Pair each scene with one that answers the same question differently."""
    answers: dict[str, dict[int, str]] = defaultdict(dict)
    for number, scene in enumerate(scenes):
        for _ in range(TRIES):
            if question := ask(rng, scene, kind):
                answers[question.text][number] = question.answer
    found = []
    for text in sorted(answers):
        asked = list(answers[text].items())
        rng.shuffle(asked)
        for place, (first, answer) in enumerate(asked):
            rest = asked[place + 1 :] + asked[:place]
            later = ((n, other) for n, other in rest if other != answer)
            if second := next(later, None):
                found.append(Pair(kind, text, (first, second[0]), (answer, second[1])))
    if len(found) < count / 2:
        raise ValueError(f"{len(scenes)} scenes have {len(found)} pairs of {kind!r}, not {count}")
    return sorted(rng.sample(found, min(count, len(found))))


class Branch(NamedTuple):
    """A text after an image: what is read, then what is scored."""

    read: list[int]
    scored: list[int]


class Learned:
    """Asks a `Stage1Model` an exam."""

    def __init__(
        self,
        exam: Exam,
        features_IPD: NDArray[np.float32],
        tokenizer: Any,
        stem: Sequence[int],
        caption_end: str,
        *,
        batch_size: int = 8,
    ) -> None:
        """Tokenise.

        Args:
            exam: the scenes and texts.
            features_IPD: what the projector gets for each scene.
            tokenizer: the LLM's.
            stem: tokens in front of the image.
            caption_end: what the template puts after a caption, scored with it.
            batch_size: scenes of one pass.
        """
        self.exam, self.features_IPD, self.batch_size = exam, features_IPD, batch_size
        self.stem = list(stem)
        captions = [
            Branch([], tokenizer(text + caption_end, add_special_tokens=False)["input_ids"])
            for text in exam.captions
        ]
        self.num_tokens = [len(branch.scored) for branch in captions]
        self.branches = [
            [captions[number] for number in (scene, *exam.others(scene))]
            for scene in range(len(exam.scenes))
        ]
        self.places: list[tuple[int, int]] = []
        """Of each pair's questions the first branch in its first and its second scene."""
        for pair in exam.pairs:
            branches = [_branch(prompt_of(pair.text), answer, tokenizer) for answer in pair.answers]
            first, second = pair.scenes
            self.places.append((len(self.branches[first]), len(self.branches[second])))
            for scene in pair.scenes:
                self.branches[scene] += branches

    @torch.no_grad()
    def measure(self, stage1: Stage1Model) -> dict[str, float]:
        """Return what was learned.

        ``learned`` is ``other`` minus ``own`` (nats a token); ``answers`` is the mean of the kinds'
        shares, ``answers: KIND``.
        """
        losses = self.losses(stage1)
        own = sum(row[0] for row in losses) / sum(self.num_tokens)
        others = [
            (losses[scene][place], self.num_tokens[number])
            for scene in range(len(losses))
            for place, number in enumerate(self.exam.others(scene), 1)
        ]
        other = sum(loss for loss, _ in others) / sum(count for _, count in others)
        right: dict[str, list[bool]] = defaultdict(list)
        for pair, (i, j) in zip(self.exam.pairs, self.places, strict=True):
            first, second = (losses[scene] for scene in pair.scenes)
            right[pair.kind].append(first[i + 1] - first[i] > second[j + 1] - second[j])
        shares = {f"answers: {kind}": float(np.mean(found)) for kind, found in right.items()}
        answers = float(np.mean(list(shares.values())))
        return {
            "learned": other - own,
            "own": own,
            "other": other,
            "answers": answers,
            **shares,
        }

    def losses(self, stage1: Stage1Model) -> list[list[float]]:
        """Return for each scene the summed negative log-likelihood of each of its branches."""
        order = sorted(range(len(self.branches)), key=lambda i: _length(self.branches[i]))
        found: list[list[float]] = [[] for _ in order]
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            visual_IPD = stage1.project(torch.from_numpy(np.array(self.features_IPD[rows])))
            scored = branch_losses(stage1, self.stem, visual_IPD, [self.branches[i] for i in rows])
            for row, losses in zip(rows, scored, strict=True):
                found[row] = losses
        return found


def _branch(read: str, scored: str, tokenizer: Any) -> Branch:
    """Tokenise both together, as a text is read."""
    before: list[int] = tokenizer(read, add_special_tokens=False)["input_ids"]
    ids: list[int] = tokenizer(f"{read} {scored}", add_special_tokens=False)["input_ids"]
    assert ids[: len(before)] == before, (read, scored)
    return Branch(before, ids[len(before) :])


def _length(branches: Iterable[Branch]) -> int:
    return sum(len(branch.read) + len(branch.scored) for branch in branches)


def branch_losses(
    stage1: Stage1Model,
    stem: Sequence[int],
    visual_BPD: Tensor,
    branches: Sequence[Sequence[Branch]],
) -> list[list[float]]:
    """Return the summed negative log-likelihood of what each branch scores, in one pass.

    A token sees the stem, the image, and what stands before it in its own branch.
    """
    patches = visual_BPD.shape[1]
    trunk = len(stem) + patches
    longest = trunk + max(_length(row) for row in branches)
    shape = (len(branches), longest)
    ids_BL = torch.full(shape, PLACEHOLDER_ID)
    branch_BL = torch.full(shape, -1)  # 0: the trunk; -1: padding
    position_BL = torch.zeros(shape, dtype=torch.long)
    ids_BL[:, : len(stem)] = torch.tensor(stem, dtype=torch.long)
    branch_BL[:, :trunk], position_BL[:, :trunk] = 0, torch.arange(trunk)
    before, wanted = [], []  # (row, place) that foretells a token; (token, branch over all rows)
    for row, given in enumerate(branches):
        start = trunk
        for number, (read, scored) in enumerate(given, 1):
            end = start + len(read) + len(scored)
            ids_BL[row, start:end] = torch.tensor([*read, *scored])
            branch_BL[row, start:end] = number
            position_BL[row, start:end] = torch.arange(trunk, trunk + end - start)
            places = range(start + len(read), end)
            before += [(row, place - 1 if place > start else trunk - 1) for place in places]
            wanted += [(token, row, number - 1) for token in scored]
            start = end
    image_BL = torch.zeros(shape, dtype=torch.bool)
    image_BL[:, len(stem) : trunk] = True
    same_BLL = branch_BL[:, :, None] == branch_BL[:, None]
    seen_BLL = (same_BLL | (branch_BL == 0)[:, None]).tril()  # padding sees itself: no empty row
    embeds_BLD = stage1.place(visual_BPD, ids_BL, image_BL)
    far = torch.finfo(embeds_BLD.dtype).min
    mask_BLL = torch.zeros(seen_BLL.shape, dtype=embeds_BLD.dtype).masked_fill(~seen_BLL, far)
    hidden_BLD = stage1.language_model(
        inputs_embeds=embeds_BLD,
        attention_mask=mask_BLL[:, None],
        position_ids=position_BL,
        use_cache=False,
    ).last_hidden_state
    rows, places = torch.tensor(before).T
    logits_KV = stage1.llava.lm_head(hidden_BLD[rows, places]).float()
    tokens_K = torch.tensor([token for token, _, _ in wanted])
    loss_K = torch.nn.functional.cross_entropy(logits_KV, tokens_K, reduction="none")
    found = [[0.0] * len(row) for row in branches]
    for (_, row, number), loss in zip(wanted, loss_K.tolist(), strict=True):
        found[row][number] += loss
    return found
