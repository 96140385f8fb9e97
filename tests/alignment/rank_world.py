"""The loss one logarithm at a time, cases for it, and the work of forked ranks."""

import os
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from llava_sea.alignment import (
    AlignmentHead,
    PairOptions,
    PatchWords,
    infonce,
    symmetric_infonce,
    word_targets,
)
from llava_sea.data.collator import Collator
from llava_sea.data.words import WordTokens


class Case(NamedTuple):
    """A batch for `infonce`, or one of pairs for `symmetric_infonce`: then `valid` is there."""

    visual: Tensor
    text: Tensor
    log_scale: Tensor
    words: PatchWords
    valid: Tensor | None = None

    def loss(self, **options):
        if self.valid is not None:
            return symmetric_infonce(self.visual, self.text, self.log_scale, self.valid, **options)
        return infonce(self.visual, self.text, self.log_scale, self.words, **options)

    def reference(self):
        """The two means of the module's docstring."""
        visual, text, log_scale, labels, valid = self
        text = text if valid is None else text[valid]
        words = labels.word_U.tolist()
        targets = []  # of each patch: {column: weight}
        for ids, weights in zip(labels.label_NK.tolist(), labels.weight_NK.tolist(), strict=True):
            found: dict[int, float] = {}
            for word, weight in zip(ids, weights, strict=True):
                if weight > 0:
                    column = words.index(word)
                    found[column] = found.get(column, 0.0) + weight / sum(weights)
            targets.append(found)
        rows = [n for n, found in enumerate(targets) if found]
        if not rows:
            return 0 * (visual.sum() + log_scale)
        logits = log_scale.exp() * normalize(visual, dim=-1) @ normalize(text, dim=-1).T

        def is_seen(n, u):
            own = [] if labels.own_NJ is None else labels.own_NJ[n].tolist()
            return u in targets[n] or words[u] not in own

        to_word = []
        for n in rows:
            seen = torch.stack([logits[n, u] for u in range(len(words)) if is_seen(n, u)])
            to_word.append(
                -sum(t * (logits[n, u] - seen.logsumexp(0)) for u, t in targets[n].items())
            )
        to_patch, counts = [], []
        for u in range(len(words)):
            mass = sum(targets[n].get(u, 0.0) for n in rows)
            if mass == 0:
                continue
            seen = torch.stack([logits[n, u] for n in rows if is_seen(n, u)])
            log_q = {n: logits[n, u] - seen.logsumexp(0) for n in rows if u in targets[n]}
            counts.append(min(1.0, mass))
            to_patch.append(counts[-1] * -sum(targets[n][u] / mass * q for n, q in log_q.items()))
        return (sum(to_word) / len(rows) + sum(to_patch) / sum(counts)) / 2


def make(num_patches, kind, seed=0, share_valid=0.8):
    """A case of a kind; there are so few words that patches share them, but for ``pairs``."""
    rng = torch.Generator().manual_seed(seed)
    visual = torch.randn(num_patches, 6, generator=rng).requires_grad_()
    valid = torch.rand(num_patches, generator=rng) < share_valid
    log_scale = torch.tensor(1.3, requires_grad=True)
    if kind == "pairs":
        pair, text = torch.arange(num_patches), torch.randn(num_patches, 6, generator=rng)
        words = PatchWords(pair[:, None], valid[:, None], pair[valid])
        return Case(visual, text, log_scale, words, valid)
    vocabulary = torch.arange(9) * 3 + 2
    top = vocabulary[torch.randint(9, (num_patches, 4), generator=rng)]
    label, weight = top[:, :1], valid[:, None]
    if kind == "soft":
        weight = torch.rand(num_patches, 4, generator=rng) * valid[:, None]
        top[:, 2], weight[:, 2] = -1, 0  # not a label
        label = top
    elif kind == "masked":
        top[:, 3] = -1  # no label
    word = label[weight > 0].unique()
    text = torch.randn(len(word), 6, generator=rng)
    own = top if kind == "masked" else None
    return Case(visual, text, log_scale, PatchWords(label, weight, word, own_NJ=own))


MODES = [
    (kind, keep, share)
    for kind in ("pairs", "drawn", "soft", "masked")
    for keep in (True, False)
    for share in (1.0, 0.8, 0.1)
]


def losses(rank, world):
    """A rank's shares of the losses, its gradients and the bytes that it sent, for all modes."""
    sent, all_reduce, found = [], dist.all_reduce, []

    def counted(tensor, *args, **kwargs):
        sent.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    for kind, keep_logits, share in MODES:
        case = make(12, kind, share_valid=share)
        part = {
            name: ids.chunk(world)[rank]
            for name in ("label_NK", "weight_NK", "own_NJ")
            if (ids := getattr(case.words, name)) is not None
        }
        own = case.visual.detach().chunk(world)[rank].clone().requires_grad_()
        mine = case._replace(visual=own, words=case.words._replace(**part))
        loss = mine.loss(group=dist.group.WORLD, chunk=5, keep_logits=keep_logits)
        grads = torch.autograd.grad(loss, [own, case.log_scale])
        found.append(([t.numpy() for t in (loss.detach(), *grads)], sum(sent)))
        sent.clear()
    return found


NUM_WORDS, ROOM, TOP = 8, 12, 3
PAIR_OPTIONS = {
    "paper": PairOptions(),
    "all": PairOptions("all"),
    "soft": PairOptions("all", "soft"),
    "masked": PairOptions("one", mask_own_top_n=True),
    "all masked": PairOptions("all", mask_own_top_n=True),
}


def samples():
    """Two images with different numbers of pairs and of words; word 3 has no tokens."""
    rng = np.random.default_rng(2)
    made = []
    for count, num_words in ((9, 5), (5, NUM_WORDS)):
        top = torch.from_numpy(rng.integers(0, num_words, (count, TOP)))
        made.append(
            {
                "input_ids": torch.arange(3),
                "labels": torch.arange(3),
                "image_mask": torch.zeros(3, dtype=torch.bool),
                "sea_patch": torch.arange(count),
                "sea_label": top[:, 0],
                "sea_key": torch.from_numpy(rng.integers(0, 2**62, count)),
                "sea_top_n": top,
                "sea_scores": torch.from_numpy(rng.random((count, TOP))).float(),
            }
        )
    return made


def loss_of(chosen, options, room, visual_ND, group=None):
    """Loss, gradients and number of pairs of the collator's batch of these samples."""
    ids = np.arange(2 * NUM_WORDS).reshape(NUM_WORDS, 2).astype(np.int32)
    ids[3] = -1
    words = WordTokens(ids, ids[:, 0] < 0)
    batch = Collator(0, (1, 1), ROOM, room, words, options)(chosen)
    table = torch.randn(2 * NUM_WORDS, 6, generator=torch.Generator().manual_seed(1))
    head = AlignmentHead(1.0)
    joined = PatchWords(**batch["sea"]).over_ranks(group)
    text = word_targets(table[joined.words_UT], joined.words_UT >= 0)
    loss = head(visual_ND, text, None, group, joined)
    num_pairs = joined.num_pairs(group)
    grads = torch.autograd.grad(loss, [visual_ND, head.log_scale_delta])
    return loss.detach(), *grads, num_pairs


def visual_of(sample_number):
    return torch.randn(ROOM, 6, generator=torch.Generator().manual_seed(10 + sample_number))


def collated(rank, world):
    """Each kind's `loss_of` for the rank's own sample, with global negatives."""
    return {
        kind: [
            value.numpy()
            for value in loss_of(
                samples()[rank : rank + 1],
                options,
                ROOM,
                visual_of(rank).requires_grad_(),
                dist.group.WORLD,
            )
        ]
        for kind, options in PAIR_OPTIONS.items()
    }


def run_rank(work, rank, world, folder, results):
    """Join the others by a file, work, and send what was found."""
    torch.set_num_threads(1)
    place = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=world)
    results.put((rank, work(rank, world)))
    results.close()
    results.join_thread()
    dist.barrier()
    os._exit(0)
