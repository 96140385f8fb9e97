"""Which rank sees which records: steps of one modality, packed micro-batches of like length."""

from itertools import chain

import numpy as np
import pytest

from llava_sea.data.packing import PackedBatchSampler
from llava_sea.data.sampler import EpochBatchSampler, ModalityBatchSampler

RNG = np.random.default_rng(0)
LENGTHS = (RNG.integers(5, 400, 203) * np.where(RNG.random(203) < 0.3, -1, 1)).tolist()


def batches(
    rank=0,
    world=2,
    batch=3,
    accumulation=2,
    *,
    grouped=True,
    packed=False,
    epoch=0,
    drop_last=False,
    lengths=LENGTHS,
):
    """A rank's micro-batches of an epoch, as records' indices."""
    options = dict(rank=rank, world_size=world, seed=1, epoch_of=lambda: epoch, drop_last=drop_last)
    if grouped:
        sampler = ModalityBatchSampler(lengths, batch, accumulation=accumulation, **options)
    else:
        sampler = EpochBatchSampler(len(lengths), batch, **options)
    if packed:
        sampler = PackedBatchSampler(sampler, lengths, accumulation=accumulation)
    found = list(sampler)
    assert len(found) == len(sampler) and all(found)
    assert all(e == epoch for micro in found for _, e in micro)
    return [[index for index, _ in micro] for micro in found]


def flatten(lists):
    return list(chain.from_iterable(lists))


def steps(world=2, batch=3, accumulation=2, **options):
    """The records of all ranks that each optimizer step sees."""
    ranks = [batches(rank, world, batch, accumulation, **options) for rank in range(world)]
    micro = [flatten(parts) for parts in zip(*ranks, strict=True)]
    return [flatten(micro[i : i + accumulation]) for i in range(0, len(micro), accumulation)]


def test_all_steps_but_the_last_are_of_one_modality():
    found = steps()
    signs = [{LENGTHS[i] > 0 for i in step} for step in found]
    mixed = [number for number, step in enumerate(signs) if len(step) == 2]
    assert all(number >= len(found) - 2 for number in mixed)
    assert {True} in signs and {False} in signs


def test_every_record_once_and_only_the_end_is_filled_up():
    flat = flatten(steps())
    assert sorted(flat[:203]) == list(range(203))
    assert len(flat) - 203 < 6 and set(flat[203:]) <= set(flat[:203])


@pytest.mark.parametrize(("world", "batch", "accumulation"), [(1, 12, 1), (4, 3, 1), (1, 3, 4)])
def test_a_step_does_not_depend_on_how_it_is_cut_up(world, batch, accumulation):
    expected = [sorted(step) for step in steps()]
    found = [sorted(step) for step in steps(world, batch, accumulation)]
    assert found[: len(expected) - 1] == expected[:-1]


def test_lengths_in_a_step_are_alike():
    spread = [max(x) - min(x) for x in ([abs(LENGTHS[i]) for i in step] for step in steps()[:-2])]
    assert np.mean(spread) < 60  # of 395; in random order it is about 330


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_epochs_differ_and_repeat(grouped, packed):
    first, again, second = (batches(grouped=grouped, packed=packed, epoch=n) for n in (0, 0, 1))
    assert first == again != second


@pytest.mark.parametrize("sign", [1, -1])
def test_one_modality_alone(sign):
    flat = flatten(batches(world=1, lengths=[sign * 9] * 20))
    assert sorted(flat[:20]) == list(range(20))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("world", "batch", "accumulation"), [(1, 1, 1), (1, 4, 1), (2, 3, 2)])
def test_a_step_sees_packed_what_it_sees_unpacked(grouped, drop_last, world, batch, accumulation):
    options = {"grouped": grouped, "drop_last": drop_last}
    plain, found = (
        [sorted(step) for step in steps(world, batch, accumulation, packed=packed, **options)]
        for packed in (False, True)
    )
    assert found == plain


def test_ranks_get_like_token_counts_of_packed_rows():
    def widest(packed):
        options = dict(grouped=False, drop_last=True, packed=packed)
        ranks = [batches(rank, 4, 8, 1, **options) for rank in range(4)]
        tokens = [[sum(abs(LENGTHS[i]) for i in micro) for micro in found] for found in ranks]
        return max(max(step) / min(step) for step in zip(*tokens, strict=True))

    assert widest(True) < 1.1 < 1.5 < widest(False)
