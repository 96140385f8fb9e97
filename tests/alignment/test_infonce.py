"""The loss with shared, soft and masked words against loops over patches and words."""

import itertools

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import normalize

from llava_sea.alignment import (
    AlignmentHead,
    PairOptions,
    PatchWords,
    infonce,
    symmetric_infonce,
)


def reference(visual, text, log_scale, labels):
    """The two means of the module's docstring, one logarithm at a time."""
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
        to_word.append(-sum(t * (logits[n, u] - seen.logsumexp(0)) for u, t in targets[n].items()))
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


def make(num_patches, kind, seed=0, num_words=9, share_valid=0.8):
    """Labels of a kind; with so few words, patches share them."""
    rng = torch.Generator().manual_seed(seed)
    vocabulary = torch.arange(num_words) * 3 + 2
    top = vocabulary[torch.randint(num_words, (num_patches, 4), generator=rng)]
    valid = torch.rand(num_patches, generator=rng) < share_valid
    if kind == "soft":
        weight = torch.rand(num_patches, 4, generator=rng)
        weight[:, 2] = 0  # not a label
        weight[~valid] = 0
        label = top
    else:
        label, weight = top[:, :1], valid[:, None]
    word = label[weight > 0].unique()
    if kind == "masked":
        top[:, 3] = -1  # no label
    visual = torch.randn(num_patches, 6, generator=rng).requires_grad_()
    text = torch.randn(len(word), 6, generator=rng)
    log_scale = torch.tensor(1.3, requires_grad=True)
    own = top if kind == "masked" else None
    return visual, text, log_scale, PatchWords(label, weight, word, own_NJ=own)


def check(visual, text, log_scale, labels, **options):
    loss = infonce(visual, text, log_scale, labels, **options)
    expected = reference(visual, text, log_scale, labels)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    got = torch.autograd.grad(3 * loss, [visual, log_scale])
    want = torch.autograd.grad(3 * expected, [visual, log_scale])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["drawn", "soft", "masked"])
@pytest.mark.parametrize("num_patches", [1, 2, 7, 23])
@pytest.mark.parametrize("share_valid", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_value_and_gradients_equal_the_reference(kind, num_patches, share_valid, chunk):
    made = make(num_patches, kind, share_valid=share_valid)
    for keep_logits in (True, False):
        check(*made, chunk=chunk, keep_logits=keep_logits)


@pytest.mark.parametrize("kind", ["drawn", "soft", "masked"])
def test_words_that_nobody_has_are_negatives_only(kind):
    visual, _, log_scale, labels = make(7, kind)
    word = torch.cat([labels.word_U, torch.tensor([100, 200])])
    text = torch.randn(len(word), 6, generator=torch.Generator().manual_seed(1))
    check(visual, text, log_scale, labels._replace(word_U=word))


def test_nothing_at_all():
    visual = torch.zeros(0, 6, requires_grad=True)
    none = torch.zeros(0, 2, dtype=torch.long)
    log_scale = torch.tensor(1.0, requires_grad=True)
    for num_words in (0, 3):
        labels = PatchWords(none, torch.zeros(0, 2), torch.arange(num_words), own_NJ=none)
        loss = infonce(visual, torch.ones(num_words, 6), log_scale, labels)
        loss.backward()
        assert loss.item() == 0 and visual.grad.shape == (0, 6) and log_scale.grad == 0
    check(torch.ones(4, 6, requires_grad=True), torch.ones(0, 6), log_scale, none_of(4))


def none_of(num_patches):
    ids = torch.full((num_patches, 2), -1)
    return PatchWords(ids, torch.zeros(num_patches, 2), torch.arange(0), own_NJ=ids)


def test_all_patches_with_one_word_have_nothing_to_tell_apart_but_each_other():
    # By hand: no other word, so patch -> word is 0; word -> patch is ln 3 where all are alike.
    visual, text = torch.ones(3, 4), torch.ones(1, 4)
    labels = PatchWords(torch.full((3, 1), 7), torch.ones(3, 1), torch.tensor([7]))
    loss = AlignmentHead(1.0)(visual, text, words=labels)
    torch.testing.assert_close(loss, torch.tensor(3.0).log() / 2)


def test_a_masked_word_gets_no_gradient():
    # Two patches, two words; each has the other's word in its own top n: nothing is left to learn.
    visual = torch.eye(2, requires_grad=True)
    ids = torch.tensor([[3], [5]])
    own = torch.tensor([[3, 5], [5, 3]])
    for mask, moves in ((None, True), (own, False)):
        labels = PatchWords(ids, torch.ones(2, 1), torch.tensor([3, 5]), own_NJ=mask)
        loss = AlignmentHead(1.0)(visual, torch.eye(2) + 0.1, words=labels)
        (grad,) = torch.autograd.grad(loss, visual)
        assert bool(grad.abs().max() > 1e-3) is moves and bool(loss > 1e-3) is moves


def test_distinct_labels_give_the_papers_loss():
    visual, _, log_scale, _ = make(11, "drawn")
    rng = torch.Generator().manual_seed(4)
    text, valid = torch.randn(11, 6, generator=rng), torch.rand(11, generator=rng) < 0.7
    label = torch.randperm(11, generator=rng)
    word, order = label[valid].sort()
    labels = PatchWords(label[:, None], valid[:, None], word)
    found = infonce(visual, text[valid][order], log_scale, labels)
    expected = symmetric_infonce(visual, text, log_scale, valid)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, [visual, log_scale]),
        torch.autograd.grad(expected, [visual, log_scale]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


def test_soft_targets_of_one_word_are_drawn_labels_at_any_scale():
    visual, text, log_scale, labels = make(13, "drawn")
    certain = labels._replace(
        label_NK=torch.cat([labels.label_NK, torch.full((13, 2), -1)], 1),
        weight_NK=torch.cat([0.3 * labels.weight_NK, torch.zeros(13, 2)], 1),
    )
    torch.testing.assert_close(
        infonce(visual, text, log_scale, certain),
        infonce(visual, text, log_scale, labels),
    )


def test_soft_patch_to_word_is_the_mean_over_draws():
    # One patch: word -> patch is 0 whatever is drawn, and all candidates stay in the softmax.
    visual, text, log_scale, labels = make(1, "soft", share_valid=1.0)
    weight = labels.weight_NK[0] / labels.weight_NK.sum()
    drawn = [
        infonce(
            visual,
            text,
            log_scale,
            PatchWords(labels.label_NK[:, k : k + 1], torch.ones(1, 1), labels.word_U),
        )
        for k in (0, 1, 3)
    ]
    expected = sum(weight[k] * loss for k, loss in zip((0, 1, 3), drawn, strict=True))
    torch.testing.assert_close(
        infonce(visual, text, log_scale, labels), expected, atol=1e-6, rtol=1e-5
    )


def test_bfloat16_visual_tokens_get_bfloat16_gradients_and_the_text_none():
    visual, text, log_scale, labels = make(9, "soft")
    low = visual.detach().bfloat16().requires_grad_()
    text.requires_grad_()
    loss = infonce(low, text, log_scale, labels)
    loss.backward()
    torch.testing.assert_close(loss, reference(low.float(), text, log_scale, labels))
    assert low.grad.dtype == torch.bfloat16 and text.grad is None


def test_what_does_not_fit_is_refused():
    visual, text, log_scale, labels = make(5, "drawn", share_valid=1.0)
    with pytest.raises(ValueError, match="5 visual tokens and"):
        infonce(visual, text[1:], log_scale, labels)
    for word in (labels.word_U.flip(0), labels.word_U + 1):
        with pytest.raises(ValueError, match="distinct, ascending"):
            infonce(visual, text, log_scale, labels._replace(word_U=word))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"positives": "two"}, "one, all"),
        ({"targets": "hard"}, "drawn, soft"),
        ({"targets": "soft"}, "needs positives all"),
        ({"targets": "soft", "positives": "all", "mask_own_top_n": True}, "none is a negative"),
    ],
)
def test_options_that_mean_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PairOptions(**values)


KINDS = ("drawn", "soft", "masked")


def _rank_main(rank, world, path, results):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)
    found = []
    for kind, keep_logits in itertools.product(KINDS, (True, False)):
        visual, text, log_scale, labels = make(12, kind)
        own = visual.detach().chunk(world)[rank].clone().requires_grad_()
        part = {
            name: ids.chunk(world)[rank]
            for name in ("label_NK", "weight_NK", "own_NJ")
            if (ids := getattr(labels, name)) is not None
        }
        loss = infonce(
            own,
            text,
            log_scale,
            labels._replace(**part),
            group=dist.group.WORLD,
            chunk=5,
            keep_logits=keep_logits,
        )
        grads = torch.autograd.grad(loss, [own, log_scale])
        found.append((loss.detach().numpy(), grads[0].numpy(), grads[1].numpy()))
    results[rank] = found
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2])
def test_global_negatives_equal_one_process(world, tmp_path):
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(_rank_main, (world, tmp_path / "rendezvous", results), nprocs=world)
        ranks = [results[rank] for rank in range(world)]
    for number, (kind, _) in enumerate(itertools.product(KINDS, (True, False))):
        parts = [found[number] for found in ranks]
        visual, text, log_scale, labels = make(12, kind)
        expected = reference(visual, text, log_scale, labels)
        want = torch.autograd.grad(expected, [visual, log_scale])
        torch.testing.assert_close(sum(torch.tensor(p[0]) for p in parts), expected.detach())
        torch.testing.assert_close(torch.cat([torch.tensor(p[1]) for p in parts]), want[0])
        torch.testing.assert_close(sum(torch.tensor(p[2]) for p in parts), want[1])
