"""The loss against ten lines of plain torch: value and gradient, one process and several."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import cross_entropy, normalize

from llava_sea.alignment import AlignmentHead, symmetric_infonce, word_targets


def reference(visual_ND, text_ND, log_scale, valid_N):
    """Eq. 11 over the valid pairs."""
    if not valid_N.any():
        return 0 * (visual_ND.sum() + log_scale)
    visual = normalize(visual_ND[valid_N], dim=-1)
    text = normalize(text_ND[valid_N], dim=-1)
    logits = log_scale.exp() * visual @ text.T
    target = torch.arange(len(logits))
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def make(num_pairs, share_valid=0.8, seed=0):
    rng = torch.Generator().manual_seed(seed)
    visual = torch.randn(num_pairs, 6, generator=rng, dtype=torch.float32, requires_grad=True)
    text = torch.randn(num_pairs, 6, generator=rng)
    valid = torch.rand(num_pairs, generator=rng) < share_valid
    log_scale = torch.tensor(1.3, requires_grad=True)
    return visual, text, log_scale, valid


@pytest.mark.parametrize("num_pairs", [1, 2, 7, 33])
@pytest.mark.parametrize("share_valid", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_value_and_gradients_equal_the_reference(num_pairs, share_valid, chunk):
    visual, text, log_scale, valid = make(num_pairs, share_valid)
    loss = symmetric_infonce(visual, text, log_scale, valid, chunk=chunk)
    expected = reference(visual, text, log_scale, valid)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    got = torch.autograd.grad(3 * loss, [visual, log_scale])
    want = torch.autograd.grad(3 * expected, [visual, log_scale])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_starts_at_ln_n_and_the_scale_is_capped():
    head = AlignmentHead()
    rng = torch.Generator().manual_seed(0)
    visual, text = torch.randn(2, 4096, 64, generator=rng)
    assert abs(head(visual, text).item() - torch.log(torch.tensor(4096.0))) < 0.1
    visual, text, _, valid = make(12)
    huge = torch.tensor(50.0, requires_grad=True)
    limit = torch.log(torch.tensor(100.0))
    loss = symmetric_infonce(visual, text, huge, valid)
    torch.testing.assert_close(loss, reference(visual, text, limit, valid))
    # beyond the limit the gradient is that at the limit, so that it can come back
    at_limit = limit.clone().requires_grad_()
    expected = torch.autograd.grad(reference(visual, text, at_limit, valid), at_limit)[0]
    found = torch.autograd.grad(loss, huge)[0]
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-5)


def test_bfloat16_visual_tokens_get_bfloat16_gradients():
    visual, text, log_scale, valid = make(9)
    low = visual.detach().bfloat16().requires_grad_()
    loss = symmetric_infonce(low, text, log_scale, valid)
    loss.backward()
    torch.testing.assert_close(loss, reference(low.float(), text, log_scale, valid))
    assert low.grad.dtype == torch.bfloat16


def test_no_gradient_reaches_the_text_side():
    visual, text, log_scale, valid = make(9)
    text.requires_grad_()
    symmetric_infonce(visual, text, log_scale, valid).backward()
    assert text.grad is None


def test_shapes_that_do_not_fit_are_refused():
    visual, text, log_scale, _ = make(4)
    with pytest.raises(ValueError, match="4 visual tokens"):
        symmetric_infonce(visual, text[:3], log_scale)


def test_word_targets_are_means_over_the_tokens():
    embedded = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert word_targets(embedded, mask).tolist() == [[1.0, 2.0], [0.0, 0.0]]


def _rank_main(rank, world, path, results):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)
    visual, text, log_scale, valid = make(12)
    own = visual.detach().chunk(world)[rank].clone().requires_grad_()
    loss = symmetric_infonce(own, text, log_scale, valid, group=dist.group.WORLD, chunk=5)
    grads = torch.autograd.grad(loss, [own, log_scale])
    results[rank] = (loss.detach().numpy(), grads[0].numpy(), grads[1].numpy())
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_global_negatives_equal_one_process(world, tmp_path):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_rank_main, (world, tmp_path / "rendezvous", results), nprocs=world)
        parts = [results[rank] for rank in range(world)]
    visual, text, log_scale, valid = make(12)
    expected = reference(visual, text, log_scale, valid)
    want = torch.autograd.grad(expected, [visual, log_scale])
    torch.testing.assert_close(sum(torch.tensor(p[0]) for p in parts), expected.detach())
    torch.testing.assert_close(torch.cat([torch.tensor(p[1]) for p in parts]), want[0])
    torch.testing.assert_close(sum(torch.tensor(p[2]) for p in parts), want[1])
