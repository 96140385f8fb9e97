"""The shipped models: they load offline, have the stated sizes, and the EOS trap is shut."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, LlamaForCausalLM

from llava_sea.errors import UserError
from playground.answers import answer_rates
from playground.build import RECIPES
from playground.corpus import all_words, sample_captions
from playground.documents import DocumentEncoder, Segment, describe, document_loss, draw_document
from playground.evaluate import (
    EVALUATORS,
    MODELS,
    Result,
    evaluate_captions,
    evaluate_naming,
    format_results,
    load_llm,
    main,
    scenes_of,
)
from playground.questions import test_questions as fixed_questions
from playground.render import render_scene
from playground.train_clip import contrastive_loss, make_config, make_processor, normalise_pixels
from playground.train_clip import train_tokenizer as train_clip_tokenizer
from playground.train_llm import LLM_SIZES, LLMSize, make_model, train_tokenizer
from playground.training import Schedule, fit

CLIP, LLM = MODELS / "clip", MODELS / "llm-small"
WORDS = [word for word in all_words() if " " not in word and "-" not in word]


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return CLIPModel.from_pretrained(CLIP, local_files_only=True).eval()


@pytest.fixture(scope="module")
def llm() -> LlamaForCausalLM:
    return load_llm(LLM)[0]


def test_folders_are_plain_and_small() -> None:
    for name in RECIPES:
        files = {path.name for path in (MODELS / name).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files
        assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    committed = [path for path in MODELS.rglob("*") if "smollm2" not in path.parts]
    assert sum(path.stat().st_size for path in committed if path.is_file()) < 20e6


def test_appending_a_word_changes_the_text_embedding(clip: CLIPModel) -> None:
    """With EOS id 2 the text would be pooled at its largest id and later words would not count."""
    tokenizer = AutoTokenizer.from_pretrained(CLIP, local_files_only=True)
    assert clip.config.text_config.eos_token_id == tokenizer.eos_token_id != 2
    texts = [f"a violet t-shirt{end}" for end in ("", " on", " on the", " on the sand")]
    with torch.no_grad():
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        embeddings = clip.get_text_features(**tokens).pooler_output
        alone = clip.get_text_features(**tokenizer(texts[0], return_tensors="pt")).pooler_output
    for one, other in itertools.pairwise(embeddings):
        assert (one - other).norm() > 1e-2 * one.norm()
    torch.testing.assert_close(embeddings[:1], alone, atol=1e-4, rtol=1e-4)


def test_every_word_is_one_token_of_both_tokenizers() -> None:
    for folder in (CLIP, LLM):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        assert [word for word in WORDS if len(tokenizer.tokenize(word)) != 1] == []


def test_clip_processor_gives_what_training_saw(tmp_path: Path) -> None:
    make_processor().save_pretrained(tmp_path)
    pixels = render_scene(scenes_of("dev", 1)[0])
    expected = normalise_pixels(pixels[None])
    for folder in (CLIP, tmp_path):
        processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, use_fast=False
        )
        got = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(torch.as_tensor(got), expected, atol=1e-5, rtol=1e-5)


def test_shipped_clip_names_test_scenes(clip: CLIPModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(CLIP, local_files_only=True)
    results = evaluate_naming(clip, tokenizer, scenes_of("test", 100, 1))
    assert all(result.bar and result.value > result.bar - 0.03 for result in results)


def test_llm_has_the_stated_shape(llm: LlamaForCausalLM) -> None:
    tokenizer = AutoTokenizer.from_pretrained(LLM, local_files_only=True)
    assert len(tokenizer) == llm.config.vocab_size
    assert llm.config.max_position_embeddings >= 512
    assert 0.15e6 < sum(p.numel() for p in llm.parameters()) < 0.3e6
    folders = [MODELS / name for name in LLM_SIZES]
    assert len({(folder / "tokenizer.model").read_bytes() for folder in folders}) == 1
    ids = tokenizer("a red ball\n").input_ids
    assert ids[0] == 1 and tokenizer.convert_ids_to_tokens(ids[-1]) == "<0x0A>"
    assert (tokenizer.unk_token_id, tokenizer.eos_token_id) == (0, 2)


def test_llm_tokenizer_is_its_sentencepiece_model() -> None:
    tokenizer = AutoTokenizer.from_pretrained(LLM, local_files_only=True)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(LLM / "tokenizer.model"))
    odd = ["USER: is there a ball? ASSISTANT: yes", "a café, naïve", "12 balls", "A\nB"]
    for text in [*sample_captions(200, 9), *odd]:
        assert tokenizer(text, add_special_tokens=False).input_ids == pieces.encode(text)
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_shipped_llm_reads_scenes_told_by_patches(llm: LlamaForCausalLM) -> None:
    encoder = DocumentEncoder(AutoTokenizer.from_pretrained(LLM, local_files_only=True))
    nothing, patches = evaluate_captions(llm, encoder, scenes_of("test", 60))
    assert patches.value < nothing.value - 0.3


def test_llms_are_apart_in_size_and_in_what_they_read() -> None:
    asked = fixed_questions("test", 25)
    sizes, means = [], []
    for name, size in LLM_SIZES.items():
        model, encoder = load_llm(MODELS / name)
        config = model.config
        assert (config.hidden_size, config.num_hidden_layers) == (size.hidden, size.layers)
        sizes.append(sum(p.numel() for p in model.parameters()))
        means.append(np.mean(list(answer_rates(model, encoder, asked, describe).values())))
    assert sizes[1] > 3 * sizes[0] and sizes[2] > 3 * sizes[1]
    assert means[0] < means[2] - 0.02 and means[2] > 0.85


def test_answer_rates_equal_asking_one_by_one(llm: LlamaForCausalLM) -> None:
    """The naive twin: greedy generation, one question at a time."""
    encoder = DocumentEncoder(AutoTokenizer.from_pretrained(LLM, local_files_only=True))
    asked = [pair for pair in fixed_questions("dev", 3) if pair[1].kind != "place"]
    rates = answer_rates(llm, encoder, asked, describe, batch=4)
    for kind, rate in rates.items():
        right = []
        for number, (scene, question) in enumerate(asked):
            if question.kind != kind:
                continue
            told = describe(random.Random(f"tell/{number}"), scene)
            text = [Segment(told, 0.0), Segment(f"\nUSER: {question.text} ASSISTANT:", 0.0)]
            ids = encoder.encode(text)[0][:-1]
            wanted = encoder.ids(question.answer)
            for _ in wanted:
                ids.append(int(llm(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            right.append(ids[-len(wanted) :] == wanted)
        assert rate == pytest.approx(np.mean(right))


def test_bars_that_are_missed_show() -> None:
    text = format_results([Result("low", 0.5, 0.9), Result("high", 0.95, 0.9), Result("free", 1.0)])
    low, high, free = text.splitlines()
    assert "MISSED" in low and "ok" in high and "0.90" not in free


def test_evaluate_prints_every_model_and_names_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in EVALUATORS:
        monkeypatch.setitem(EVALUATORS, name, lambda *_: [Result("a", 1.0, 0.9)])
    main([])
    printed = capsys.readouterr().out
    assert all(f"{name} on test scenes" in printed for name in EVALUATORS)
    assert f"{len(EVALUATORS)} of {len(EVALUATORS)} bars reached" in printed
    with pytest.raises(UserError, match=r"playground\.build"):
        main(["--models", str(tmp_path)])


def test_documents_carry_the_weights_of_their_segments() -> None:
    encoder = DocumentEncoder(AutoTokenizer.from_pretrained(LLM, local_files_only=True))
    ids, weights = encoder.encode([Segment("snow snow", 0.1), Segment("a ball\n", 1.0)])
    assert len(ids) == 1 + 2 + 3 + 1 and ids[-1] == 2
    assert weights == [0.0, 0.1, 0.1, 1.0, 1.0, 1.0, 1.0]
    closed, _ = encoder.encode([Segment("yes</s>", 1.0)])
    assert closed[-1] == 2 and closed.count(2) == 1


def test_document_loss_equals_the_models_own() -> None:
    """The naive twin: each document alone through the stock forward, token by token."""
    encoder = DocumentEncoder(AutoTokenizer.from_pretrained(LLM, local_files_only=True))
    torch.manual_seed(0)
    model = make_model(LLMSize(32, 64, 1, 2, Schedule(1, 1e-3)), len(encoder.tokenizer))
    documents = [draw_document(random.Random(i)) for i in range(5)]
    total, total_weight = 0.0, 0.0
    for document in documents:
        ids, weights = encoder.encode(document)
        logs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1).tolist()
        for place in range(1, len(ids)):
            total -= weights[place] * logs[place - 1][ids[place]]
            total_weight += weights[place]
    loss = document_loss(model, *encoder.batch(documents))
    assert float(loss.detach()) == pytest.approx(total / total_weight, rel=1e-4)


def test_contrastive_loss_leaves_other_true_pairs_out() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    plain = torch.nn.functional.cross_entropy
    target = torch.arange(4)
    expected = (plain(logits, target) + plain(logits.T, target)) / 2
    torch.testing.assert_close(contrastive_loss(logits, torch.eye(4, dtype=torch.bool)), expected)
    fits = torch.eye(4, dtype=torch.bool)
    fits[0, 1] = True
    changed = logits.clone()
    changed[0, 1] = 50.0
    torch.testing.assert_close(contrastive_loss(changed, fits), contrastive_loss(logits, fits))
    wrong = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))  # texts that fit none
    wider = torch.cat([logits, wrong], dim=1)
    expected = (plain(wider, target) + plain(logits.T, target)) / 2
    torch.testing.assert_close(contrastive_loss(wider, torch.eye(4, dtype=torch.bool)), expected)


def test_fresh_tokenizers_train_and_shut_the_trap(tmp_path: Path) -> None:
    clip_tokenizer = train_clip_tokenizer(sample_captions(500, 1))
    assert make_config(clip_tokenizer).text_config.eos_token_id == clip_tokenizer.eos_token_id != 2
    train_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert tokenizer("a red ball").input_ids[0] == 1
    assert [word for word in WORDS if len(tokenizer.tokenize(word)) != 1] == []


def test_resumed_training_equals_unbroken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("playground.training.SAVE_EVERY_S", 0.0)
    schedule = Schedule(steps=6, learning_rate=1e-2, warmup=2)

    class Toy(torch.nn.Module):
        """A matrix for Muon and one for AdamW."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(3, 4)])
            self.head = torch.nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layers[0](x).tanh())

    def run(folder: Path, stop_at: int | None, resume: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = Toy()

        def loss_of_step(step: int) -> torch.Tensor:
            if step == stop_at:
                raise KeyboardInterrupt
            data = np.random.default_rng(step).standard_normal((4, 3)).astype(np.float32)
            return model(torch.from_numpy(data)).square().mean()

        fit("toy", model, loss_of_step, schedule, resume=resume, state_folder=folder)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", 4, False)
    resumed, unbroken = run(tmp_path / "cut", None, True), run(tmp_path / "whole", None, False)
    assert torch.equal(resumed, unbroken)
    again = run(tmp_path / "cut", 0, True)  # nothing is left to do, so step 0 is never drawn
    assert torch.equal(again, unbroken)
