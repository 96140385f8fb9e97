"""A packed sample learns what it learns alone: loss and gradients, LoRA too."""

import copy
import itertools

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
)

from llava_sea.data.collator import Collator
from llava_sea.data.packing import PackedCollator
from llava_sea.errors import UserError
from llava_sea.model.lora import add_lora
from llava_sea.model.packed import PER_SAMPLE, prepare_attention
from llava_sea.model.stage2 import Stage2Model, choose_trainable

P, VOCABULARY = 4, 50


def make(llm="llama", attention="sdpa", lora=False):
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    vision = CLIPVisionConfig(**shape, image_size=8, patch_size=4, projection_dim=16)
    shape |= dict(vocab_size=VOCABULARY, num_key_value_heads=2, pad_token_id=0)
    text = {
        "llama": lambda: LlamaConfig(**shape),
        "mistral": lambda: MistralConfig(**shape, sliding_window=7, head_dim=8),
    }[llm]()
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=1, image_seq_length=P
    )
    config._attn_implementation = attention
    llava = LlavaForConditionalGeneration(config)
    with torch.no_grad():  # far enough from 0 that a leak shows
        for parameter in llava.model.language_model.parameters():
            parameter.mul_(3) if parameter.ndim > 1 else None
    choose_trainable(llava, vision_tower=True)
    if lora:
        add_lora(llava, rank=4, alpha=8, dropout=0.0, base="x", seed=1)
        for name, parameter in llava.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return Stage2Model(llava)


def samples(shapes, seed=0):
    rng = torch.Generator().manual_seed(seed)
    made = []
    for length, pictures in shapes:
        ids = torch.randint(2, VOCABULARY, (length,), generator=rng)
        mask = torch.zeros(length, dtype=torch.bool)
        for number in range(pictures):
            mask[1 + number * (P + 1) : 1 + number * (P + 1) + P] = True
        # the last token of one sample and the first of the next are supervised
        labels = torch.where(torch.rand(length, generator=rng) < 0.4, ids, -100)
        labels[[0, -1]] = ids[[0, -1]]
        labels[mask] = -100
        sample = {"input_ids": ids, "labels": labels, "image_mask": mask}
        if pictures:
            sample["pixel_values"] = torch.randn(pictures, 3, 8, 8, generator=rng)
        made.append(sample)
    return made


MIXED = samples([(13, 1), (9, 0), (19, 2), (1, 0), (7, 1), (23, 0)])


def step(model, batch):
    """Return the loss's sum, its tokens and every gradient of the mean."""
    model.zero_grad(set_to_none=True)
    output = model(**batch)
    (output.lm_loss_sum / output.num_tokens.clamp(min=1)).backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output.lm_loss_sum.item(), int(output.num_tokens), grads


def assert_same_step(found, expected):
    assert found[1] == expected[1]
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[2].keys() == expected[2].keys()
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def compare(model, data):
    padded = step(model, Collator(0, (8, 8), P)(data))
    other = copy.deepcopy(model)
    prepare_attention(other.language_model)
    packed = step(other, PackedCollator(0, (8, 8), P)(data))
    assert_same_step(packed, padded)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("llm", ["llama", "mistral"])
def test_one_row_equals_padded_rows(llm, lora):
    compare(make(llm, lora=lora), MIXED)


@pytest.mark.parametrize(
    "data",
    [samples([(11, 1)]), samples([(6, 0), (6, 0)]), samples([(1, 0)])],
    ids=["one", "text only", "one token"],
)
def test_small_batches(data):
    compare(make(), data)


def test_each_sample_has_its_loss_alone():
    model = make().eval()
    collate = Collator(0, (8, 8), P)
    alone = [model(**collate([one])).lm_loss_sum.item() for one in MIXED]
    prepare_attention(model.language_model)
    packed = PackedCollator(0, (8, 8), P)
    for number, expected in enumerate(alone):
        found = model(**packed(only(number))).lm_loss_sum.item()
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def only(number):
    """The mixed samples, of which one alone is supervised."""
    silent = [one | {"labels": torch.full_like(one["labels"], -100)} for one in MIXED]
    return [*silent[:number], MIXED[number], *silent[number + 1 :]]


def test_what_one_sample_says_does_not_reach_another():
    model = make().eval()
    prepare_attention(model.language_model)
    collate = PackedCollator(0, (8, 8), P)
    data = only(2)
    expected = model(**collate(data)).lm_loss_sum
    for other in (0, 1, 4, 5):
        changed = [*data]
        changed[other] = data[other] | {"input_ids": data[other]["input_ids"].flip(0)}
        torch.testing.assert_close(model(**collate(changed)).lm_loss_sum, expected, atol=0, rtol=0)


def test_with_activations_computed_again():
    model = make().train()
    prepare_attention(model.language_model)
    batch = PackedCollator(0, (8, 8), P)(MIXED)
    plain = step(model, batch)
    model.activation_checkpointing_enable()
    assert_same_step(step(model, batch), plain)


def test_padded_rows_still_work_after_preparing():
    model = make("mistral")
    batch = Collator(0, (8, 8), P)(MIXED)
    expected = step(model, batch)
    prepare_attention(model.language_model)
    assert_same_step(step(model, batch), expected)
    assert model.config.text_config._attn_implementation == PER_SAMPLE
    assert PER_SAMPLE not in model.config.to_json_string()  # nobody else knows the name


@pytest.mark.parametrize("attention", ["eager", "paged"])
def test_another_attention_is_refused(attention):
    model = make()
    model.language_model.config._attn_implementation_internal = attention
    with pytest.raises(UserError, match=f"--pack_sequences True: attention {attention}"):
        prepare_attention(model.language_model)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mamba2", dict(num_heads=8, head_dim=8, state_size=4, n_groups=1)),
        ("lfm2", dict(layer_types=["conv", "full_attention"])),
        ("qwen3_5_text", dict(layer_types=["linear_attention", "full_attention"])),
        ("minimax", dict(layer_types=["linear_attention", "full_attention"])),
        ("bloom", dict(n_head=4)),
        ("opt", dict(ffn_dim=32, word_embed_proj_dim=32)),
    ],
)
def test_an_llm_that_mixes_a_rows_samples_is_refused(kind, options):
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=50)
    config = AutoConfig.for_model(kind, **shape | options, pad_token_id=0)
    with torch.device("meta"):
        llm = AutoModel.from_config(config, attn_implementation="eager")
    with pytest.raises(UserError, match=f"--pack_sequences True: the LLM's kind, {kind}"):
        prepare_attention(llm)


def test_flash_attentions_path_through_the_layers(monkeypatch):
    """transformers' own dispatch to a varlen kernel, with a plain one in its place."""
    from transformers import modeling_flash_attention_utils as utils

    calls = []

    def varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **options):
        calls.append((cu_seqlens_q.tolist(), int(max_seqlen_q), options["causal"]))
        outputs = []
        for first, end in itertools.pairwise(cu_seqlens_q):
            one = [x[first:end].transpose(0, 1)[None] for x in (q, k, v)]
            outputs.append(
                torch.nn.functional.scaled_dot_product_attention(
                    *one, is_causal=True, enable_gqa=True, scale=options["softmax_scale"]
                )[0].transpose(0, 1)
            )
        return torch.cat(outputs)

    process = lambda **options: {  # noqa: E731
        "causal": options["is_causal"],
        "softmax_scale": options["softmax_scale"],
        "max_seqlen_q": options["max_seqlen_q"],
        "max_seqlen_k": options["max_seqlen_k"],
    }
    functions = ((None, varlen, None, None, None), (process, None))
    monkeypatch.setattr(utils, "lazy_import_flash_attention", lambda *_: functions)
    model = make()
    padded = step(model, Collator(0, (8, 8), P)(MIXED))
    model.language_model.config._attn_implementation_internal = "flash_attention_2"
    prepare_attention(model.language_model)
    packed = step(model, PackedCollator(0, (8, 8), P)(MIXED))
    assert calls == 2 * [([0, 13, 22, 41, 42, 49, 72], 23, True)]
    assert_same_step(packed, padded)
