"""DESIGN: lambda and L_g mean the same at any accumulation and any number of ranks.

The engine is played by hand: gradients of `compute_loss` are added up over micro-batches and
averaged over ranks, which is what DDP and ZeRO do.
"""

from types import SimpleNamespace

import pytest
import torch

from llava_sea.model.wrapped import StepLosses
from llava_sea.train.arguments import SeaArguments
from llava_sea.train.trainer import LLaVATrainer, own_part, sea_weight


class Linear(torch.nn.Module):
    """Gives known losses: the sum of w * a over the tokens, and w * b as the mean of L_a."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, token_values, sea_value, **_):
        return StepLosses(
            (self.w * token_values).sum(),
            torch.tensor(len(token_values)),
            self.w * sea_value,
            torch.tensor(3),
            torch.zeros(1),
        )


def gradient(micro_batches_by_rank, weight=0.7, negatives="local"):
    """Average over ranks of the sum over micro-batches of the gradient of compute_loss."""
    world, accumulation = len(micro_batches_by_rank), len(micro_batches_by_rank[0])
    tokens = sum(len(t) for rank in micro_batches_by_rank for t, _ in rank)
    grads = []
    for rank in micro_batches_by_rank:
        model = Linear()
        trainer = SimpleNamespace(
            args=SimpleNamespace(world_size=world, average_tokens_across_devices=True),
            current_gradient_accumulation_steps=accumulation,
            sea=SeaArguments(sea_labels="x", sea_weight=weight, sea_negatives=negatives),
            state=SimpleNamespace(global_step=0, max_steps=10),
            _add=lambda *_: None,
        )
        trainer.lambda_now = lambda t=trainer: LLaVATrainer.lambda_now(t)
        for token_values, sea_value in rank:
            inputs = {
                "token_values": token_values,
                "sea_value": sea_value,
                "sea": {
                    "label_N": torch.tensor([1]),
                    "valid_N": torch.tensor([True]),
                    "word_U": torch.tensor([1]),
                },
            }
            LLaVATrainer.compute_loss(trainer, model, inputs, num_items_in_batch=tokens).backward()
        grads.append(model.w.grad)
    return float(torch.stack(grads).mean())


def samples(count):
    rng = torch.Generator().manual_seed(0)
    return [
        (torch.rand(n + 1, generator=rng), float(torch.rand(1, generator=rng)))
        for n in range(count)
    ]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_gradient_is_that_of_the_plain_means(world, accumulation):
    micro = samples(world * accumulation)
    by_rank = [micro[r::world] for r in range(world)]
    lm = torch.cat([t for t, _ in micro]).mean()  # over all tokens of the step
    sea = sum(s for _, s in micro) / len(micro)  # over all micro-batches of the step
    assert gradient(by_rank) == pytest.approx(float(lm) + 0.7 * sea, rel=1e-5)


def test_global_shares_add_up_to_the_loss_over_all_ranks():
    micro = samples(2)
    lm = torch.cat([t for t, _ in micro]).mean()
    expected = float(lm) + 0.7 * sum(s for _, s in micro)  # shares: a sum over ranks
    assert gradient([[m] for m in micro], negatives="global") == pytest.approx(expected, rel=1e-5)


def test_schedules():
    constant = SeaArguments(sea_weight=0.5)
    assert [sea_weight(constant, p) for p in (0.0, 0.5, 1.0)] == [0.5, 0.5, 0.5]
    decay = SeaArguments(sea_weight=0.5, sea_weight_schedule="decay")
    assert [sea_weight(decay, p) for p in (0.0, 0.25, 0.5, 1.0)] == [0.5, 0.25, 0.0, 0.0]


def test_the_padding_of_zero3s_partitions_is_nobodys_weight():
    nan = torch.nan
    for rank, (share, own) in enumerate([([1.0, 2.0], [1, 2]), ([3, nan], [3]), ([nan, nan], [])]):
        parameter = SimpleNamespace(ds_tensor=torch.tensor(share), ds_numel=3)
        assert own_part(parameter, rank).tolist() == own
