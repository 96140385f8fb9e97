"""The loss against loops over patches and words: value and gradient, one process and several."""

import math
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from llava_sea.alignment import (
    AlignmentHead,
    PatchWords,
    contrast,
    infonce,
    symmetric_infonce,
    word_targets,
)
from llava_sea.alignment.loss import length_loss


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
        rows = labels.valid_N.nonzero()[:, 0].tolist()
        if not rows:
            return 0 * (visual.sum() + log_scale)
        logits = log_scale.exp() * normalize(visual, dim=-1) @ normalize(text, dim=-1).T
        column = {n: words.index(int(labels.label_N[n])) for n in rows}
        to_word = [logits[n].logsumexp(0) - logits[n, u] for n, u in column.items()]
        to_patch = []
        for u in sorted(set(column.values())):
            own = [n for n in rows if column[n] == u]
            to_patch.append(logits[rows, u].logsumexp(0) - logits[own, u].mean())
        return (sum(to_word) / len(to_word) + sum(to_patch) / len(to_patch)) / 2


def make(num_patches, kind, seed=0, share_valid=0.8):
    """A case of a kind; there are so few words that patches share them, but for ``pairs``."""
    rng = torch.Generator().manual_seed(seed)
    visual = torch.randn(num_patches, 6, generator=rng).requires_grad_()
    valid = torch.rand(num_patches, generator=rng) < share_valid
    log_scale = torch.tensor(1.3, requires_grad=True)
    if kind == "pairs":
        pair, text = torch.arange(num_patches), torch.randn(num_patches, 6, generator=rng)
        words = PatchWords(pair, valid, pair[valid])
        return Case(visual, text, log_scale, words, valid)
    vocabulary = torch.arange(9) * 3 + 2
    label = vocabulary[torch.randint(9, (num_patches,), generator=rng)]
    word = label[valid].unique()
    text = torch.randn(len(word), 6, generator=rng)
    return Case(visual, text, log_scale, PatchWords(label, valid, word))


KINDS = ["pairs", "drawn"]
keeping_or_not = pytest.mark.parametrize("keep_logits", [True, False])


def check(case, **options):
    loss, expected = case.loss(**options), case.reference()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    got = torch.autograd.grad(3 * loss, [case.visual, case.log_scale])
    want = torch.autograd.grad(3 * expected, [case.visual, case.log_scale])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_patches", [0, 1, 2, 7, 23])
@pytest.mark.parametrize("share_valid", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_value_and_gradients_equal_the_reference(kind, num_patches, share_valid, chunk):
    case = make(num_patches, kind, share_valid=share_valid)
    for keep_logits in (True, False):
        check(case, chunk=chunk, keep_logits=keep_logits)


@settings(max_examples=40)
@given(
    st.integers(1, 19),
    st.integers(1, 25),
    st.booleans(),
    st.floats(-3.0, 4.5),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**31),
)
def test_any_size_chunk_scale_and_length(num_pairs, chunk, keep_logits, log_scale, length, seed):
    case = make(num_pairs, "pairs", seed, 0.7)
    visual = (length * case.visual.detach()).requires_grad_()
    case = case._replace(visual=visual, log_scale=torch.tensor(log_scale, requires_grad=True))
    loss = case.loss(chunk=chunk, keep_logits=keep_logits)
    got = torch.autograd.grad(loss, [case.visual, case.log_scale])
    visual, scale = (t.detach().double().requires_grad_() for t in (visual, case.log_scale))
    exact = case._replace(visual=visual, log_scale=scale, text=case.text.double())
    expected = exact.reference()
    want = torch.autograd.grad(expected, [visual, scale])
    torch.testing.assert_close(loss.double(), expected, atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(length * got[0].double(), length * want[0], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(got[1].double(), want[1], atol=2e-4, rtol=1e-4)


@keeping_or_not
def test_targets_that_are_alike_and_visual_tokens_of_length_zero(keep_logits):
    case = make(9, "pairs", share_valid=1.0)
    visual, text = case.visual.detach(), case.text
    text[[2, 5]] = text[0].clone()
    text[4] = 0.0
    visual[3], visual[6] = 0.0, 1e-14
    check(case._replace(visual=visual.requires_grad_()), keep_logits=keep_logits)


def test_words_that_nobody_has_are_negatives_only():
    case = make(7, "drawn")
    word = torch.cat([case.words.word_U, torch.tensor([100, 200])])
    text = torch.randn(len(word), 6, generator=torch.Generator().manual_seed(1))
    check(case._replace(text=text, words=case.words._replace(word_U=word)))


@pytest.mark.parametrize("num_words", [0, 3])
def test_no_patches_at_all(num_words):
    visual, log_scale = (torch.zeros(size, requires_grad=True) for size in ((0, 6), ()))
    none = torch.zeros(0, dtype=torch.long)
    labels = PatchWords(none, none.bool(), torch.arange(num_words))
    loss = infonce(visual, torch.ones(num_words, 6), log_scale, labels)
    loss.backward()
    assert loss.item() == 0 and visual.grad.shape == (0, 6) and log_scale.grad == 0


def test_all_patches_with_one_word_have_nothing_to_tell_apart_but_each_other():
    # By hand: no other word, so patch -> word is 0; word -> patch is ln 3 where all are alike.
    visual, text = torch.ones(3, 4), torch.ones(1, 4)
    labels = PatchWords(torch.full((3,), 7), torch.ones(3, dtype=torch.bool), torch.tensor([7]))
    loss = AlignmentHead(1.0)(visual, text, words=labels)
    torch.testing.assert_close(loss, torch.tensor(3.0).log() / 2)


def test_the_default_goes_by_the_size_of_the_logits(monkeypatch):
    assert contrast.keeps_logits(16384, 16384) and not contrast.keeps_logits(16384, 16385)
    rooms = []
    original = contrast._Blocks.__init__

    def spy(self, *args):
        original(self, *args)
        rooms.append(len(self.room_CM))

    monkeypatch.setattr(contrast._Blocks, "__init__", spy)
    for limit in (4 * 12 * 12, 4 * 12 * 12 - 1):
        monkeypatch.setattr(contrast, "KEEP_AT_MOST", limit)
        make(12, "pairs", share_valid=1.0).loss(chunk=5)
    assert rooms == [12, 5]


@keeping_or_not
def test_a_graph_can_be_gone_through_twice_but_not_differentiated_twice(keep_logits):
    case = make(9, "pairs")
    loss = case.loss(keep_logits=keep_logits)
    first = torch.autograd.grad(loss, case.visual, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(loss, case.visual, retain_graph=True)[0], first)
    (gradient,) = torch.autograd.grad(loss, case.visual, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


def test_without_gradients():
    case = make(9, "pairs")
    with torch.no_grad():
        found = case.loss()
    torch.testing.assert_close(found, case.reference().detach())
    frozen = case._replace(visual=case.visual.detach())
    (grad,) = torch.autograd.grad(frozen.loss(), case.log_scale)
    (expected,) = torch.autograd.grad(case.reference(), case.log_scale)
    torch.testing.assert_close(grad, expected, atol=1e-6, rtol=1e-5)


def test_starts_at_ln_n_and_the_scale_is_capped():
    visual, text = torch.randn(2, 4096, 64, generator=torch.Generator().manual_seed(0))
    assert abs(AlignmentHead()(visual, text).item() - math.log(4096)) < 0.1
    huge = make(12, "pairs")._replace(log_scale=torch.tensor(50.0, requires_grad=True))
    limit = huge._replace(log_scale=torch.tensor(100.0).log().requires_grad_())
    torch.testing.assert_close(huge.loss(), limit.reference())
    # beyond the limit the gradient is that at the limit, so that it can come back
    expected = torch.autograd.grad(limit.reference(), limit.log_scale)[0]
    found = torch.autograd.grad(huge.loss(), huge.log_scale)[0]
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_visual_tokens_get_bfloat16_gradients_and_the_text_none(kind):
    case = make(9, kind)
    low = case._replace(visual=case.visual.detach().bfloat16().requires_grad_())
    low.text.requires_grad_()
    loss = low.loss()
    loss.backward()
    torch.testing.assert_close(loss, low._replace(visual=low.visual.float()).reference())
    assert low.visual.grad.dtype == torch.bfloat16 and low.text.grad is None


def test_what_does_not_fit_is_refused():
    visual, text, log_scale, labels, _ = make(5, "drawn", share_valid=1.0)
    with pytest.raises(ValueError, match="5 visual tokens and"):
        infonce(visual, text[1:], log_scale, labels)
    for word in (labels.word_U.flip(0), labels.word_U + 1):
        with pytest.raises(ValueError, match="distinct, ascending"):
            infonce(visual, text, log_scale, labels._replace(word_U=word))
    with pytest.raises(ValueError, match="5 visual tokens on 1"):
        symmetric_infonce(visual, torch.ones(4, 6), log_scale)


@pytest.mark.parametrize("padding", [0.5, math.nan, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_word_targets_are_the_slow_twin_s_whatever_the_padding_holds(padding, dtype):
    rng = torch.Generator().manual_seed(4)
    embedded = torch.randn(30, 5, 7, generator=rng).to(dtype)
    mask = torch.rand(30, 5, generator=rng) < 0.6
    mask[3] = False
    embedded[~mask] = padding
    before = embedded.clone()
    targets = word_targets(embedded, mask)
    for word, tokens, kept in zip(targets, embedded, mask, strict=True):
        expected = tokens[kept].float().mean(0) if kept.any() else torch.zeros(7)
        torch.testing.assert_close(word, expected)
    torch.testing.assert_close(embedded, before, equal_nan=True)


MODES = [
    (kind, keep, share) for kind in KINDS for keep in (True, False) for share in (1.0, 0.8, 0.1)
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
            name: getattr(case.words, name).chunk(world)[rank] for name in ("label_N", "valid_N")
        }
        own = case.visual.detach().chunk(world)[rank].clone().requires_grad_()
        mine = case._replace(visual=own, words=case.words._replace(**part))
        loss = mine.loss(group=dist.group.WORLD, chunk=5, keep_logits=keep_logits)
        grads = torch.autograd.grad(loss, [own, case.log_scale])
        found.append(([loss.detach(), *grads], sum(sent)))
        sent.clear()
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_global_negatives_equal_one_process(world, in_ranks):
    ranks = in_ranks(losses, world)
    for number, (kind, _, share) in enumerate(MODES):
        parts = [found[number][0] for found in ranks]
        case = make(12, kind, share_valid=share)
        expected = case.reference()
        want = torch.autograd.grad(expected, [case.visual, case.log_scale])
        near = {"atol": 1e-6, "rtol": 1e-5}
        torch.testing.assert_close(sum(p[0] for p in parts), expected.detach(), **near)
        torch.testing.assert_close(torch.cat([p[1] for p in parts]), want[0], **near)
        torch.testing.assert_close(sum(p[2] for p in parts), want[1], **near)
        # Two float32 numbers and an int64 a column.
        assert {found[number][1] for found in ranks} == {16 * len(case.words.word_U)}
    assert make(12, "pairs", share_valid=0.1).valid.sum() < world, "some rank has no pair"


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
