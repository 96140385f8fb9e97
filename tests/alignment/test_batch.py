"""Global negatives from the collator's batches."""

import numpy as np
import torch
import torch.distributed as dist

from llava_sea.alignment import AlignmentHead, PatchWords, word_targets
from llava_sea.data.collator import Collator
from llava_sea.data.words import WordTokens

NUM_WORDS, ROOM = 8, 12


def samples():
    """Two images with different numbers of pairs and of words; word 3 has no tokens."""
    rng = np.random.default_rng(2)
    made = []
    for count, num_words in ((9, 5), (5, NUM_WORDS)):
        made.append(
            {
                "input_ids": torch.arange(3),
                "labels": torch.arange(3),
                "image_mask": torch.zeros(3, dtype=torch.bool),
                "sea_patch": torch.arange(count),
                "sea_label": torch.from_numpy(rng.integers(0, num_words, count)),
                "sea_key": torch.from_numpy(rng.integers(0, 2**62, count)),
            }
        )
    return made


def loss_of(chosen, room, visual_ND, group=None):
    """Loss, gradients and number of pairs of the collator's batch of these samples."""
    ids = np.arange(2 * NUM_WORDS).reshape(NUM_WORDS, 2).astype(np.int32)
    ids[3] = -1
    words = WordTokens(ids, ids[:, 0] < 0)
    batch = Collator(0, (1, 1), ROOM, room, words)(chosen)
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
    """`loss_of` for the rank's own sample, with global negatives."""
    visual = visual_of(rank).requires_grad_()
    return loss_of(samples()[rank : rank + 1], ROOM, visual, dist.group.WORLD)


def test_global_negatives_of_the_collators_batches_equal_one_process(in_ranks):
    """Two processes with an image each against one with both."""
    parts = in_ranks(collated, 2)
    counts = [len(sample["sea_label"]) for sample in samples()]
    rows = torch.cat([visual_of(n)[:count] for n, count in enumerate(counts)])
    visual = torch.cat([rows, torch.ones(2 * ROOM - len(rows), 6)]).requires_grad_()
    loss, grad, grad_scale, num_pairs = loss_of(samples(), 2 * ROOM, visual)
    assert int(num_pairs) == int(parts[0][3]) == int(parts[1][3]) > 3
    torch.testing.assert_close(parts[0][0] + parts[1][0], loss)
    found = torch.cat([part[1][:count] for part, count in zip(parts, counts, strict=True)])
    torch.testing.assert_close(found, grad[: sum(counts)])
    torch.testing.assert_close(parts[0][2] + parts[1][2], grad_scale)
    for part, count in zip(parts, counts, strict=True):
        assert part[1][count:].abs().sum() == 0
