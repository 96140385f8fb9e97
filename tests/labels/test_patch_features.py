import math

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from llava_sea.errors import UserError
from llava_sea.labels.patch_features import PatchEncoder, vision_fingerprint
from tests.towers import tipsv2_model

TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4)


def make_clip(seed=0, **changes):
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(**TOWER | changes, image_size=24, patch_size=8)
    text = CLIPTextConfig(**TOWER, vocab_size=50, max_position_embeddings=16, eos_token_id=3)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20))
    return shake(model)


def make_siglip(seed=0):
    torch.manual_seed(seed)
    vision = SiglipVisionConfig(**TOWER, image_size=24, patch_size=8)
    text = SiglipTextConfig(**TOWER, vocab_size=50, max_position_embeddings=16)
    return shake(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)))


def shake(model):
    """Give biases and layer norms values that matter: fresh ones are zeros and ones."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def images(batch=2, height=24, width=24, dtype=torch.float32):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1)).to(
        dtype
    )


def last_input(model, pixels):
    """The last block's input, by hidden states (the fast path walks the blocks itself)."""
    states = model.vision_model(
        pixels, output_hidden_states=True, interpolate_pos_encoding=True
    ).hidden_states
    return states[-2]


def naive_attention(block, x, features):
    """The last attention alone, head by head, with explicit matrices."""
    h, attn = block.layer_norm1(x), block.self_attn
    q, k, v = attn.q_proj(h), attn.k_proj(h), attn.v_proj(h)
    out, d = [], q.shape[-1] // attn.num_heads
    for s in (slice(i * d, i * d + d) for i in range(attn.num_heads)):
        qq = torch.softmax(q[..., s] @ q[..., s].mT / d**0.5, -1)
        kk = torch.softmax(k[..., s] @ k[..., s].mT / d**0.5, -1)
        weights = {"value": torch.eye(x.shape[1]).to(x), "qq": qq, "qq+kk": (qq + kk) / 2}[features]
        out.append(weights @ v[..., s])
    return attn.out_proj(torch.cat(out, -1))


def naive_head(head, z):
    """The pooling head with all its attention on one patch, one patch at a time."""
    alone = [head(z[:, i : i + 1]) for i in range(z.shape[1])]
    return torch.stack(alone, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", ["value", "qq", "qq+kk"])
@pytest.mark.parametrize("size", [(24, 24), (16, 40)])
def test_clip_surgery_equals_naive(features, size, dtype):
    model = make_clip().to(dtype)
    pixels = images(2, *size, dtype=dtype)
    block = model.vision_model.encoder.layers[-1]
    z = naive_attention(block, last_input(model, pixels), features)
    joint = model.visual_projection(model.vision_model.post_layernorm(z))[:, 1:]
    encoder = PatchEncoder(model)
    found = encoder.encode_images(pixels, features)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert found.shape == (2, math.prod(encoder.grid_of(*size)), 20) and found.dtype == dtype
    assert (found - F.normalize(joint, dim=-1)).abs().max() < tolerance


@pytest.mark.parametrize("make", [make_clip, make_siglip])
def test_value2_is_the_sum_of_two_blocks_value_paths(make):
    model = make().double()
    vision, pixels = model.vision_model, images(dtype=torch.float64)
    states = vision(pixels, output_hidden_states=True).hidden_states
    first, second = vision.encoder.layers[-2:]
    z = naive_attention(first, states[-3], "value") + naive_attention(second, states[-2], "value")
    z = vision.post_layernorm(z)
    clip = make is make_clip
    joint = model.visual_projection(z)[:, 1:] if clip else naive_head(vision.head, z)
    found = PatchEncoder(model).encode_images(pixels, "value2")
    assert (found - F.normalize(joint, dim=-1)).abs().max() < 1e-12


@pytest.mark.parametrize("size", [(24, 24), (16, 40)])
def test_clip_vanilla_is_the_stock_models_own_path(size):
    model = make_clip()
    stock = model.vision_model(images(2, *size), interpolate_pos_encoding=True).last_hidden_state
    joint = model.visual_projection(model.vision_model.post_layernorm(stock))[:, 1:]
    found = PatchEncoder(model).encode_images(images(2, *size), "vanilla")
    assert (found - F.normalize(joint, dim=-1)).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(24, 24), (18, 30)])
@pytest.mark.parametrize("features", ["vanilla", "value"])
def test_tipsv2_is_the_stock_models_own_path_without_its_two_class_tokens(features, size):
    model = tipsv2_model().double()
    pixels = images(2, *size, dtype=torch.float64)
    stock = model.vision_model(pixels).last_hidden_state
    encoder = PatchEncoder(model)
    found = encoder.encode_images(pixels, features)
    assert stock.shape[1] - 2 == found.shape[1] == math.prod(encoder.grid_of(*size))
    assert (found - F.normalize(stock[:, 2:], dim=-1)).abs().max() < 1e-12


@pytest.mark.parametrize("size", [(24, 24), (16, 40)])
@pytest.mark.parametrize("features", ["vanilla", "value", "qq", "qq+kk"])
def test_siglip_equals_the_head_on_one_patch(features, size):
    model = make_siglip().double()
    vision, pixels = model.vision_model, images(2, *size, dtype=torch.float64)
    if features in ("vanilla", "value"):
        z = vision(pixels, interpolate_pos_encoding=True).last_hidden_state  # after post_layernorm
    else:
        z = naive_attention(vision.encoder.layers[-1], last_input(model, pixels), features)
        z = vision.post_layernorm(z)
    found = PatchEncoder(model).encode_images(pixels, features)
    assert (found - F.normalize(naive_head(vision.head, z), dim=-1)).abs().max() < 1e-12


def test_bfloat16_comes_back_as_float32_and_close():
    exact = PatchEncoder(make_clip()).encode_images(images(), "value")
    rough = PatchEncoder(make_clip().bfloat16()).encode_images(images(), "value")
    assert rough.dtype == torch.float32
    assert (rough * exact).sum(-1).min() > 0.99


def test_from_pretrained_loads_the_same_encoder_with_its_fingerprint(tmp_path):
    model = make_clip()
    model.save_pretrained(tmp_path)
    loaded, direct = PatchEncoder.from_pretrained(tmp_path), PatchEncoder(model)
    assert torch.equal(loaded.encode_images(images(), "qq"), direct.encode_images(images(), "qq"))
    short = PatchEncoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    tower = CLIPVisionModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    alone = vision_fingerprint(tower.get_input_embeddings().weight, tower.config)
    assert loaded.fingerprint == short.fingerprint == alone == direct.fingerprint
    assert PatchEncoder(make_clip(seed=5)).fingerprint != direct.fingerprint


def test_towers_without_text_are_refused(tmp_path):
    dino = Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    dino.save_pretrained(tmp_path / "dino")
    make_clip().vision_model.save_pretrained(tmp_path / "vision")
    for name in ("dino", "vision"):
        with pytest.raises(UserError, match="paired text encoder"):
            PatchEncoder.from_pretrained(tmp_path / name)


def test_missing_text_weights_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    make_clip().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    kept = {k: v for k, v in load_file(path).items() if not k.startswith("text_")}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="holds no weights for text_"):
        PatchEncoder.from_pretrained(tmp_path)


def test_missing_folder_unknown_features_and_too_few_blocks(tmp_path):
    with pytest.raises(UserError, match="no vision tower at"):
        PatchEncoder.from_pretrained(tmp_path / "nothing")
    with pytest.raises(UserError, match="unknown features 'keys'"):
        PatchEncoder(make_clip()).encode_images(images(), "keys")
    with pytest.raises(UserError, match="value2 need two blocks"):
        PatchEncoder(make_clip(num_hidden_layers=1)).encode_images(images(), "value2")
