"""The loss against ten lines of plain torch: value and gradient, one process and several."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from llava_sea.alignment import AlignmentHead, contrast, symmetric_infonce, word_targets
from llava_sea.alignment.loss import length_loss


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


def check(visual, text, log_scale, valid, **options):
    loss = symmetric_infonce(visual, text, log_scale, valid, **options)
    expected = reference(visual, text, log_scale, valid)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    got = torch.autograd.grad(3 * loss, [visual, log_scale])
    want = torch.autograd.grad(3 * expected, [visual, log_scale])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("num_pairs", [0, 1, 2, 7, 33])
@pytest.mark.parametrize("share_valid", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("keep_logits", [True, False])
def test_value_and_gradients_equal_the_reference(num_pairs, share_valid, chunk, keep_logits):
    check(*make(num_pairs, share_valid), chunk=chunk, keep_logits=keep_logits)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 19),
    st.integers(1, 25),
    st.booleans(),
    st.floats(-3.0, 4.5),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**31),
)
def test_any_size_chunk_scale_and_length(num_pairs, chunk, keep_logits, log_scale, length, seed):
    visual, text, _, valid = make(num_pairs, 0.7, seed)
    visual = (length * visual.detach()).requires_grad_()
    scale = torch.tensor(log_scale, requires_grad=True)
    loss = symmetric_infonce(visual, text, scale, valid, chunk=chunk, keep_logits=keep_logits)
    got = torch.autograd.grad(loss, [visual, scale])
    exact = [t.detach().double().requires_grad_() for t in (visual, scale)]
    expected = reference(exact[0], text.double(), exact[1], valid)
    want = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(loss.double(), expected, atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(length * got[0].double(), length * want[0], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(got[1].double(), want[1], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("keep_logits", [True, False])
def test_targets_that_are_alike_and_visual_tokens_of_length_zero(keep_logits):
    visual, text, log_scale, _ = make(9)
    text[[2, 5]] = text[0].clone()
    text[4] = 0.0
    visual = visual.detach()
    visual[3], visual[6] = 0.0, 1e-14
    everything = torch.ones(9, dtype=torch.bool)
    check(visual.requires_grad_(), text, log_scale, everything, keep_logits=keep_logits)


def test_without_flags_all_pairs_are_valid():
    visual, text, log_scale, _ = make(7)
    everything = torch.ones(7, dtype=torch.bool)
    torch.testing.assert_close(
        symmetric_infonce(visual, text, log_scale), reference(visual, text, log_scale, everything)
    )


def test_the_default_goes_by_the_size_of_the_logits(monkeypatch):
    assert contrast.keeps_logits(4608, 4608) and contrast.keeps_logits(4608, 8 * 4608)
    assert contrast.keeps_logits(16384, 16384) and not contrast.keeps_logits(16384, 16385)
    rooms = []
    original = contrast._Blocks.__init__

    def spy(self, *args):
        original(self, *args)
        rooms.append(len(self.room_CM))

    monkeypatch.setattr(contrast._Blocks, "__init__", spy)
    for limit in (4 * 12 * 12, 4 * 12 * 12 - 1):
        monkeypatch.setattr(contrast, "KEEP_AT_MOST", limit)
        symmetric_infonce(*make(12, 1.0), chunk=5)
    assert rooms == [12, 5]


@pytest.mark.parametrize("keep_logits", [True, False])
def test_a_graph_can_be_gone_through_twice_but_not_differentiated_twice(keep_logits):
    visual, text, log_scale, valid = make(9)
    loss = symmetric_infonce(visual, text, log_scale, valid, keep_logits=keep_logits)
    first = torch.autograd.grad(loss, visual, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(loss, visual, retain_graph=True)[0], first)
    (gradient,) = torch.autograd.grad(loss, visual, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


def test_without_gradients():
    visual, text, log_scale, valid = make(9)
    with torch.no_grad():
        found = symmetric_infonce(visual, text, log_scale, valid)
    torch.testing.assert_close(found, reference(visual, text, log_scale, valid).detach())
    frozen = symmetric_infonce(visual.detach(), text, log_scale, valid)
    torch.testing.assert_close(frozen, found)
    (grad,) = torch.autograd.grad(frozen, log_scale)
    (expected,) = torch.autograd.grad(reference(visual, text, log_scale, valid), log_scale)
    torch.testing.assert_close(grad, expected, atol=1e-6, rtol=1e-5)


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


@pytest.mark.parametrize("padding", [0.5, math.nan, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_word_targets_are_the_slow_twin_s_whatever_the_padding_holds(padding, dtype):
    rng = torch.Generator().manual_seed(4)
    embedded = torch.randn(30, 5, 7, generator=rng).to(dtype)
    mask = torch.rand(30, 5, generator=rng) < 0.6
    embedded[~mask] = padding
    before = embedded.clone()
    targets = word_targets(embedded, mask)
    for word, tokens, kept in zip(targets, embedded, mask, strict=True):
        expected = tokens[kept].float().mean(0) if kept.any() else torch.zeros(7)
        torch.testing.assert_close(word, expected)
    torch.testing.assert_close(embedded, before, equal_nan=True)


MODES = [(keep, share) for keep in (True, False) for share in (1.0, 0.8, 0.1)]


def _rank_main(rank, world, path, results):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)
    sent, all_reduce = [], dist.all_reduce

    def counted(tensor, *args, **kwargs):
        sent.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    found = []
    for keep_logits, share in MODES:
        visual, text, log_scale, valid = make(12, share)
        own = visual.detach().chunk(world)[rank].clone().requires_grad_()
        loss = symmetric_infonce(
            own,
            text,
            log_scale,
            None if share == 1.0 else valid,
            group=dist.group.WORLD,
            chunk=5,
            keep_logits=keep_logits,
        )
        grads = torch.autograd.grad(loss, [own, log_scale])
        found.append([t.numpy() for t in (loss.detach(), *grads)])
        assert sum(sent) == 8 + 16 * int(valid.sum()), "two float32 numbers and a float64 a column"
        sent.clear()
    results[rank] = found
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_global_negatives_equal_one_process(world, tmp_path):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_rank_main, (world, tmp_path / "rendezvous", results), nprocs=world)
        ranks = [results[rank] for rank in range(world)]
    for number, (_, share) in enumerate(MODES):
        parts = [[torch.tensor(t) for t in found[number]] for found in ranks]
        visual, text, log_scale, valid = make(12, share)
        expected = reference(visual, text, log_scale, valid)
        want = torch.autograd.grad(expected, [visual, log_scale])
        assert share != 0.1 or valid.sum() < world, "some rank has no pair"
        near = {"atol": 1e-6, "rtol": 1e-5}
        torch.testing.assert_close(sum(p[0] for p in parts), expected.detach(), **near)
        torch.testing.assert_close(torch.cat([p[1] for p in parts]), want[0], **near)
        torch.testing.assert_close(sum(p[2] for p in parts), want[1], **near)


def test_the_length_loss_equals_a_loop_and_pulls_to_the_rows_mean_length():
    rng = torch.Generator().manual_seed(0)
    visual = (5 * torch.randn(7, 6, generator=rng)).requires_grad_()
    rows, mask = torch.randn(4, 3, 6, generator=rng), torch.rand(4, 3, generator=rng) > 0.4
    tokens = [rows[m, t] for m in range(4) for t in range(3) if mask[m, t]]
    mean = sum(math.hypot(*row.tolist()) for row in tokens) / len(tokens)
    expected = sum((math.hypot(*v.tolist()) / mean - 1) ** 2 for v in visual) / 7
    padded = rows.masked_fill(~mask[..., None], math.nan)  # what is not there does not count
    loss = length_loss(visual, padded, mask)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    (grad,) = torch.autograd.grad(loss, visual)
    along = (grad * visual).sum(1)  # positive: too long, and a step makes it shorter
    assert torch.equal(along > 0, visual.norm(dim=1) > mean)
    exact = visual.detach() * (mean / visual.detach().norm(dim=1, keepdim=True))
    assert float(length_loss(exact, rows, mask)) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(("patches", "words"), [(0, 2), (3, 0)])
def test_the_length_loss_of_nothing_is_zero_with_zero_gradients(patches, words):
    visual = torch.ones(patches, 4, requires_grad=True)
    loss = length_loss(visual, torch.ones(words, 2, 4), torch.ones(words, 2, dtype=torch.bool))
    (grad,) = torch.autograd.grad(loss, visual)
    assert float(loss) == 0 and not grad.any()
