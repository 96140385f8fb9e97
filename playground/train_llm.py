"""The world's LLM: a small `LlamaForCausalLM` with a SentencePiece tokenizer, from scratch.

The tokenizer is trained like Llama's: BPE, byte fallback, identity normalisation, blanks kept,
``<unk> <s> </s>`` as ids 0, 1, 2. The model reads documents of `playground.documents`; the loss is
the mean next-token loss, weighted by segment. Limits: one document per row, no packing, so no
document sees another.
"""

# Shape letters: B documents, L tokens.

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llava_sea.pretrained import load_pretrained
from playground.corpus import all_words, sample_captions
from playground.distractors import distractors
from playground.documents import BOS, END, EOS, DocumentEncoder, document_loss, draw_document
from playground.training import STATE_FOLDER, Schedule, fit, training_device

BATCH = 48
PART = 8
"""Documents of similar length that are padded together; less padding, the same gradient."""

VOCAB_SIZE = 1400
UNK = 0


@dataclass(frozen=True)
class LLMSize:
    """The widths of one LLM and its training."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    schedule: Schedule


LLM_SIZES = {
    "llm-small": LLMSize(48, 128, 2, 4, Schedule(3200, 4e-3, weight_decay=0.01, stop=1700)),
    "llm-medium": LLMSize(128, 352, 4, 4, Schedule(2200, 3e-3, weight_decay=0.01)),
    "llm-large": LLMSize(256, 640, 5, 8, Schedule(1800, 2.5e-3, weight_decay=0.01)),
}
"""LLMs by the name of their folder: 0.19, 1.2 and 4.5 M parameters.

Looking things up is learned all at once: with 40 channels the smallest never learns some kinds of
questions, with 48 it learns them all between steps 1,500 and 1,900. It must have something to lose,
so it is stopped on the way, when it reads clearly worse than the largest and far above chance.
"""


def train_tokenizer(folder: Path, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> None:
    """Train the SentencePiece model and write it with its transformers files."""
    rng = random.Random(f"tokenizer/{seed}")
    documents = [draw_document(rng) for _ in range(4000)]
    pieces = [segment.text.removesuffix(END) for document in documents for segment in document]
    texts = [line for piece in pieces for line in piece.splitlines()]
    texts += sample_captions(10_000, seed) + 5 * [*all_words(), *distractors()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        character_coverage=1.0,
        unk_id=UNK,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(TOKENIZER_CONFIG, "utf-8")
    load_pretrained(AutoTokenizer, folder).save_pretrained(folder)


TOKENIZER_CONFIG = """{
  "tokenizer_class": "LlamaTokenizer",
  "add_bos_token": true,
  "add_eos_token": false,
  "bos_token": "<s>",
  "eos_token": "</s>",
  "unk_token": "<unk>",
  "legacy": false,
  "model_max_length": 1024
}
"""


def make_model(size: LLMSize, vocab_size: int) -> LlamaForCausalLM:
    """Build a Llama with fresh weights.

    Keys start equal to queries, so every head first attends to tokens like its own (mimetic
    initialization, arXiv 2305.09828), and attention is "eager": in bfloat16 on a CPU its backward
    pass is 1.6 x as fast as SDPA's.
    """
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=1024,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=None,
        tie_word_embeddings=False,
        # At 0.02 look-up is learned far later; so a token meets its like at 4-5 logits (head 32).
        initializer_range=0.9 / math.sqrt(size.hidden),
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")
    for layer in model.model.layers:
        layer.self_attn.k_proj.weight.data.copy_(layer.self_attn.q_proj.weight)
    return model


def train_llm(
    name: str,
    folder: Path,
    *,
    schedule: Schedule | None = None,
    batch: int = BATCH,
    seed: int = 0,
    resume: bool = False,
    state_folder: Path = STATE_FOLDER,
) -> float:
    """Train the tokenizer and one LLM (a key of `LLM_SIZES`), write their folder.

    The weights are stored in bfloat16, half the size, as those of real LLMs are.

    Returns:
        Seconds that training took.
    """
    torch.manual_seed(seed)
    train_tokenizer(folder, seed)
    tokenizer = load_pretrained(AutoTokenizer, folder)
    size = LLM_SIZES[name]
    schedule = schedule or size.schedule
    model = make_model(size, len(tokenizer))
    encoder = DocumentEncoder(tokenizer)
    device = training_device()

    def loss_of_step(step: int) -> torch.Tensor:
        rng = random.Random(f"{name}/{seed}/{step}")
        documents = [draw_document(rng, step / schedule.steps) for _ in range(batch)]
        documents.sort(key=lambda document: len(encoder.encode(document)[0]))
        parts = [encoder.batch(documents[i : i + PART]) for i in range(0, batch, PART)]
        shares = [float(weights_BL[:, 1:].sum()) for _, weights_BL in parts]
        losses = [
            share / sum(shares) * document_loss(model, *(tensor.to(device) for tensor in part))
            for part, share in zip(parts, shares, strict=True)
        ]
        return torch.stack(losses).sum()

    seconds = fit(name, model, loss_of_step, schedule, resume=resume, state_folder=state_folder)
    model.bfloat16().save_pretrained(folder)
    return seconds
