"""Steps of one modality: pure, of like length, complete, the same on every rank."""

from itertools import chain

import numpy as np
import pytest

from llava_sea.data.sampler import ModalityBatchSampler

RNG = np.random.default_rng(0)
LENGTHS = (RNG.integers(5, 400, 203) * np.where(RNG.random(203) < 0.3, -1, 1)).tolist()


def flatten(lists):
    return list(chain.from_iterable(lists))


def batches(rank=0, world=2, batch=3, accumulation=2, epoch=0, lengths=LENGTHS):
    sampler = ModalityBatchSampler(
        lengths,
        batch,
        accumulation=accumulation,
        rank=rank,
        world_size=world,
        seed=1,
        epoch_of=lambda: epoch,
    )
    found = list(sampler)
    assert len(found) == len(sampler) and all(e == epoch for b in found for _, e in b)
    return [[index for index, _ in batch] for batch in found]


def steps(world, batch, accumulation, epoch=0):
    """Global steps: the micro-batches of all ranks that one optimizer step sees."""
    ranks = [batches(r, world, batch, accumulation, epoch) for r in range(world)]
    micro = [flatten(parts) for parts in zip(*ranks, strict=True)]
    return [flatten(micro[i : i + accumulation]) for i in range(0, len(micro), accumulation)]


def test_all_steps_but_the_last_are_of_one_modality():
    found = steps(2, 3, 2)
    signs = [{LENGTHS[i] > 0 for i in step} for step in found]
    mixed = [number for number, step in enumerate(signs) if len(step) == 2]
    assert all(number >= len(found) - 2 for number in mixed)
    assert {True} in signs and {False} in signs


def test_every_record_once_and_only_the_end_is_filled_up():
    flat = flatten(steps(2, 3, 2))
    assert sorted(flat[:203]) == list(range(203))
    assert len(flat) - 203 < 6 and set(flat[203:]) <= set(flat[:203])


@pytest.mark.parametrize(("world", "batch", "accumulation"), [(1, 12, 1), (4, 3, 1), (1, 3, 4)])
def test_a_step_does_not_depend_on_how_it_is_cut_up(world, batch, accumulation):
    expected = [sorted(step) for step in steps(2, 3, 2)]
    found = [sorted(step) for step in steps(world, batch, accumulation)]
    assert found[: len(expected) - 1] == expected[:-1]


def test_lengths_in_a_step_are_alike():
    spread = [max(x) - min(x) for x in ([abs(LENGTHS[i]) for i in s] for s in steps(2, 3, 2)[:-2])]
    assert np.mean(spread) < 60  # of 395; in random order it is about 330


def test_epochs_differ_and_repeat():
    assert batches(epoch=0) == batches(epoch=0) != batches(epoch=1)


@pytest.mark.parametrize("sign", [1, -1])
def test_one_modality_alone(sign):
    flat = flatten(batches(world=1, lengths=[sign * 9] * 20))
    assert sorted(flat[:20]) == list(range(20))
