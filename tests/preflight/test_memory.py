"""Memory by part, computed from configurations, against torch's own count on small models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    Gemma3TextConfig,
    LlamaConfig,
    LlavaForConditionalGeneration,
    Qwen3Config,
)

from llava_sea.alignment import AlignmentHead
from llava_sea.data.collator import Collator
from llava_sea.model.builder import llava_config
from llava_sea.model.lora import add_lora
from llava_sea.model.stage1 import Stage1Model
from llava_sea.model.stage2 import Stage2Model, choose_trainable
from llava_sea.preflight.memory import KeptTensors, Step, fits, memory_of, ways_to_fit
from llava_sea.preflight.random_batches import Sizes, random_sample, random_words

SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4}
TEXT = SHAPE | {"num_hidden_layers": 3, "num_key_value_heads": 2, "vocab_size": 500}
LLMS = {
    "llama": lambda: LlamaConfig(**TEXT),
    "qwen3, tied": lambda: Qwen3Config(**TEXT, head_dim=16, tie_word_embeddings=True),
    "gemma3": lambda: Gemma3TextConfig(**TEXT, head_dim=16, sliding_window=64),
}
STEP = Step(stage=2, batch=3, length=60, supervised=20, dtype="float32", pairs=0)
STEPS = {
    "stage 1": replace(STEP, stage=1, pairs=12),
    "stage 2": STEP,
    "tuned tower": replace(STEP, train_tower=True),
    "frozen LLM": replace(STEP, train_llm=False),
    "LoRA": replace(STEP, lora_rank=8),
}


def make_config(llm="llama"):
    vision = CLIPVisionConfig(**SHAPE, num_hidden_layers=3, image_size=56, patch_size=14)
    return llava_config(vision, LLMS[llm](), select_layer=-2)


def make_model(config, step):
    """The model as training makes it, with values."""
    torch.manual_seed(0)
    llava = LlavaForConditionalGeneration(config)
    if config.text_config.tie_word_embeddings:
        llava.lm_head.weight = llava.get_input_embeddings().weight
    if step.stage == 1:
        return Stage1Model(llava, AlignmentHead())
    parts = {"vision_tower": step.train_tower}
    if step.lora_rank:
        add_lora(llava, rank=step.lora_rank, alpha=8, dropout=0.05, base="x", **parts)
    else:
        choose_trainable(llava, language_model=step.train_llm, **parts)
    return Stage2Model(llava)


def make_batch(step):
    rng = np.random.default_rng(0)
    words = random_words(500) if step.stage == 1 else None
    collator = Collator(0, (56, 56), 16, 4 * step.batch if words else 0, words)
    sizes = Sizes(step.length, step.supervised, 1)
    return collator(
        [random_sample(rng, sizes, collator, 500, (4, 4), 2) for _ in range(step.batch)]
    )


def size(tensors):
    return sum({t.untyped_storage()._cdata: t.nbytes for t in tensors}.values())


@pytest.mark.parametrize("llm", LLMS)
@pytest.mark.parametrize("name", STEPS)
def test_weights_gradients_and_optimizer_are_torchs_and_activations_of_their_order(llm, name):
    step, config = STEPS[name], make_config(llm)
    parts = memory_of(config, step)
    model = make_model(config, step).train()
    kept = KeptTensors(model)
    with kept:
        losses = model(**make_batch(step))
        loss = losses.lm_loss_sum
        if losses.sea_loss is not None:
            loss = loss + losses.sea_loss
    loss.backward()
    learned = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(learned)
    adam.step()
    state = [t for one in adam.state.values() for t in one.values()]
    assert parts.weights == pytest.approx(size(model.parameters()), rel=0.02)
    # What gets no gradient at this step (a text's unused expert, say) is counted as if it did.
    assert parts.gradients == pytest.approx(size(p.grad for p in learned), rel=0.1)
    assert parts.optimizer == pytest.approx(size(state), rel=0.1)
    found = parts.activations + parts.logits
    assert found / 2 < kept.total < found * 2, (parts, kept.total)


def test_what_an_engine_splits_offloads_recomputes_and_rounds():
    config, step = make_config(), replace(STEP, dtype="bfloat16")
    whole = memory_of(config, STEP)
    params = whole.weights // 4
    zero2 = memory_of(config, replace(step, zero=2, world=8))
    assert zero2.weights == 2 * params
    # Of the trained: Adam's moments and the float32 copy, an eighth on each.
    assert zero2.optimizer == pytest.approx(12 * whole.gradients / 4 / 8, rel=1e-3)
    one = memory_of(config, replace(step, zero=2))
    assert zero2.gradients < one.gradients
    offloaded = replace(step, zero=3, offload_optimizer=True, offload_weights=True, world=8)
    assert memory_of(config, offloaded).optimizer == 0 < memory_of(config, offloaded).host
    recomputed = memory_of(config, replace(STEP, recompute=True))
    assert recomputed.activations < 0.7 * whole.activations
    assert memory_of(config, replace(STEP, fused_loss=True)).logits == 0 < whole.logits
    assert memory_of(config, replace(STEP, batch=6)).activations == 2 * whole.activations
    eager = memory_of(config, replace(STEP, attention="eager", length=400))
    assert eager.activations > 2 * memory_of(config, replace(STEP, length=400)).activations
    adafactor = memory_of(config, replace(STEP, optimizer="adafactor"))
    assert adafactor.optimizer < whole.optimizer / 10


def test_a_7b_of_the_paper_by_its_configuration_alone():
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    config = llava_config(vision, LlamaConfig(), select_layer=-2)  # the defaults are Llama 7B's
    step = Step(stage=2, batch=16, length=1000, supervised=300, zero=3, world=8, recompute=True)
    parts = memory_of(config, step)
    # 7.06e9 parameters: 12 bytes each over 8 GPUs.
    assert parts.optimizer == pytest.approx(12 * 6.76e9 / 8, rel=0.01)
    assert fits(parts, 80e9) and not fits(parts, 24e9)
    stage1 = replace(step, stage=1, zero=2, batch=32, length=620, pairs=32 * 144)
    assert 14e9 < memory_of(config, stage1).weights < 14.3e9
    assert fits(memory_of(config, stage1), 80e9)


@pytest.mark.parametrize("gigabytes", [1.72, 1.9, 3.0, 9.0])
@pytest.mark.parametrize("stage", [1, 2])
def test_the_flags_that_are_named_make_it_fit(gigabytes, stage):
    config = make_config()
    step = Step(
        stage=stage, batch=256, length=2000, supervised=1000, zero=2, world=2, pairs=4 * 256
    )
    memory = gigabytes * 1e9
    flags = ways_to_fit(config, step, 1, memory)
    if fits(memory_of(config, step), memory):
        return
    assert flags, "the smallest batch of a tiny model fits"
    changed = step
    for words in map(str.split, flags):
        for name, value in zip(words[::2], words[1::2], strict=True):
            if name == "--gradient_checkpointing":
                changed = replace(changed, recompute=True)
            elif name == "--per_device_train_batch_size":
                changed = replace(changed, batch=int(value), pairs=4 * int(value))
            elif name == "--gradient_accumulation_steps":
                assert int(value) * changed.batch == 256, "the same batch for the optimizer"
            elif name == "--deepspeed":
                changed = replace(changed, zero=3)
    assert fits(memory_of(config, changed), memory)
    assert ways_to_fit(config, step, 1, 1e6) == []
