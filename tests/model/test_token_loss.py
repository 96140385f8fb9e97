"""L_g takes logits only where there is a label: equal to all logits, forward and backward."""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy

from llava_sea.model.builder import build_llava
from llava_sea.model.stage1 import Stage1Model
from llava_sea.model.stage2 import Stage2Model, choose_trainable


def batch(supervised, records=3, length=23, seed=0):
    """Records of one picture (16 patches) each; `supervised` is the share of labelled tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 300, (records, length), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < supervised, ids, -100)
    image_mask = torch.zeros(ids.shape, dtype=torch.bool)
    image_mask[:, 1:17] = True
    labels[image_mask] = -100
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "image_mask": image_mask,
        "pixel_values": torch.randn(records, 3, 24, 24, generator=generator),
    }


def all_logits_loss(model, inputs):
    """Logits everywhere, then -100 is ignored: as transformers' own models do it."""
    visual = model.project(inputs["pixel_values"])
    embeds = model.embed(inputs["input_ids"])
    embeds = embeds.masked_scatter(inputs["image_mask"][..., None], visual)
    hidden = model.language_model(
        inputs_embeds=embeds, attention_mask=inputs["attention_mask"], use_cache=False
    ).last_hidden_state
    logits = model.llava.lm_head(hidden)[:, :-1]
    return cross_entropy(logits.flatten(0, 1), inputs["labels"][:, 1:].flatten(), reduction="sum")


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(("supervised", "records"), [(0.0, 2), (0.3, 3), (1.0, 1)])
def test_equal_to_all_logits(tiny, stage, supervised, records):
    llava = build_llava(str(tiny.llm), str(tiny.clip))
    model = Stage1Model(llava) if stage == 1 else Stage2Model(llava)
    if stage == 2:
        choose_trainable(llava)
    seen = []
    handle = llava.lm_head.register_forward_hook(lambda *a: seen.append(a[1][0].shape[0]))
    inputs = batch(supervised, records)
    output = model(**inputs)
    handle.remove()
    count = int((inputs["labels"][:, 1:] != -100).sum())
    assert seen == [count] and int(output.num_tokens) == count
    grads = {}
    for name, loss in (("ours", output.lm_loss_sum), ("twin", all_logits_loss(model, inputs))):
        model.zero_grad()
        loss.backward()
        grads[name] = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
        grads[name]["loss"] = loss.detach()
    for key, expected in grads["twin"].items():
        torch.testing.assert_close(grads["ours"][key], expected, rtol=1e-4, atol=1e-5, msg=key)


def test_a_fused_loss_is_used_where_there_are_labels(tiny):
    model = Stage1Model(build_llava(str(tiny.llm), str(tiny.clip)))
    seen = []

    def fused(hidden_KD, target_K):
        seen.append((tuple(hidden_KD.shape), len(target_K)))
        return hidden_KD.sum()

    model.fused_loss = fused
    inputs = batch(0.3)
    model(**inputs)
    count = int((inputs["labels"][:, 1:] != -100).sum())
    assert seen == [((count, 32), count)]
    assert model(**batch(0.0)).lm_loss_sum.item() == 0 and len(seen) == 1


LIGER = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_token_loss import batch
from llava_sea.model.builder import build_llava
from llava_sea.model.stage2 import Stage2Model, choose_trainable
from llava_sea.train.liger import use_liger
found = []
for liger in (False, True):
    llava = build_llava({llm!r}, {clip!r})
    choose_trainable(llava)
    model = Stage2Model(llava)
    if liger:
        print(use_liger(model, dict(rms_norm=False, rope=False, swiglu=False), zero3=False))
    loss = model(**batch(0.3)).lm_loss_sum
    loss.backward()
    found.append([loss.detach()] + [p.grad for p in model.parameters() if p.requires_grad])
for one, other in zip(*found, strict=True):
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
"""


def test_liger_gives_the_same_loss_and_gradients(tiny, repo):
    """Where there is Liger, Triton's interpreter runs its fused loss without a GPU."""
    pytest.importorskip("liger_kernel")
    script = LIGER.format(tests=str(repo / "tests/model"), llm=str(tiny.llm), clip=str(tiny.clip))
    env = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "fused linear cross-entropy"
