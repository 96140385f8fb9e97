import json

import numpy as np
import pytest
import torch
from extract_world import TOWER, word_tokenizer
from sentencepiece import SentencePieceProcessor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from llava_sea.errors import UserError
from llava_sea.labels.text_features import TextEncoder, tokenizer_of
from tests.towers import tipsv2_model
from tests.worlds import sentencepiece_model

WORDS = ["a", "b c d", "c", "d e", "e f g a b", "g g"]


def make_tokenizer(end=True):
    return word_tokenizer([*"abcdefg", "photo", "of"], end)


def make_clip():
    torch.manual_seed(0)
    text = CLIPTextConfig(**TOWER, vocab_size=20, max_position_embeddings=9, eos_token_id=3)
    vision = CLIPVisionConfig(**TOWER, image_size=16, patch_size=8)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)).eval()


def make_siglip():
    torch.manual_seed(0)
    text = SiglipTextConfig(**TOWER, vocab_size=20, max_position_embeddings=9)
    vision = SiglipVisionConfig(**TOWER, image_size=16, patch_size=8)
    return SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()


def make_tipsv2():
    torch.manual_seed(0)
    return tipsv2_model(vocab_size=20)


def one_by_one_padded(model, words):
    """Each word alone, padded to the model's full length; TIPSv2 is told what is padding."""
    tokenizer = make_tokenizer()
    rows = []
    for word in words:
        inputs = dict(tokenizer(word, padding="max_length", max_length=9, return_tensors="pt"))
        if model.config.model_type != "tipsv2":
            del inputs["attention_mask"]
        rows.append(model.get_text_features(**inputs).pooler_output[0].detach().numpy())
    return np.stack([row / np.linalg.norm(row) for row in rows])


@pytest.mark.parametrize("batch", [1, 2, 4, 100])
@pytest.mark.parametrize("make", [make_clip, make_siglip, make_tipsv2])
def test_equals_one_word_at_a_time_padded_to_the_full_length(make, batch):
    model = make()
    for names in (["input_ids", "attention_mask"], ["input_ids"]):  # SigLIP's tokenizers
        tokenizer = make_tokenizer()
        tokenizer.model_input_names = names
        found, too_long = TextEncoder(model, tokenizer).encode_words(WORDS, batch)
        assert too_long == [] and found.dtype == np.float32
        np.testing.assert_allclose(found, one_by_one_padded(model, WORDS), atol=1e-6)


def test_template_surrounds_the_word():
    encoder = TextEncoder(make_clip(), make_tokenizer())
    prompted, _ = encoder.encode_words(["a", "b c"], template="a photo of {}")
    written, _ = encoder.encode_words(["a photo of a", "a photo of b c"])
    np.testing.assert_allclose(prompted, written, atol=1e-6)
    with pytest.raises(UserError, match="exactly one"):
        encoder.encode_words(["a"], template="a photo")


@pytest.mark.parametrize("make", [make_clip, make_siglip])
def test_words_beyond_the_context_are_named_and_have_no_direction(make):
    words = ["a", "a b c d e f g a", "b", "b b b b b b b b b"]
    found, too_long = TextEncoder(make(), make_tokenizer()).encode_words(words)
    assert too_long == [words[1], words[3]]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1, 0], atol=1e-6)


def test_writes_into_a_given_array_and_counts():
    encoder = TextEncoder(make_clip(), make_tokenizer())
    out, counted = np.full((len(WORDS), encoder.joint_size), 7.0, np.float32), []
    encoder.encode_words(WORDS, 4, out_QD=out, progress=counted.append)
    np.testing.assert_array_equal(out, encoder.encode_words(WORDS, 4).features_QD)
    assert sum(counted) == len(WORDS)


def test_tokenizer_without_end_token_is_refused():
    with pytest.raises(UserError, match="do not belong together"):
        TextEncoder(make_clip(), make_tokenizer(end=False)).encode_words(["a"])


def test_a_tipsv2_reads_its_tokenizer_model_in_lower_case(tmp_path):
    ids = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
    lines = ["a red ball beside a blue house", "the tall tree and a black kite"] * 3
    model = sentencepiece_model(lines, 330, remove_extra_whitespaces=True, **ids)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "tipsv2"}))
    (tmp_path / "tokenizer.model").write_bytes(model)
    tokenizer = tokenizer_of(str(tmp_path), "tipsv2")
    package = SentencePieceProcessor(model_proto=model)
    for text in ("a Red ball", "BLUE house", "zebra", "Tall  tree-house", "kites"):
        assert tokenizer(text).input_ids == package.encode(text.lower())
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.model or tokenizer\.json is missing"):
        tokenizer_of(str(tmp_path), "tipsv2")
