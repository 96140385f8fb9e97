"""The world's LLM: a small `LlamaForCausalLM` with a SentencePiece tokenizer, from scratch.

The tokenizer is trained like Llama's: BPE, byte fallback, identity normalisation, blanks kept,
``<unk> <s> </s>`` as ids 0, 1, 2. The model reads documents of `playground.documents`; the loss is
the mean next-token loss, weighted by segment. Limits: one document per row, no packing, so no
document sees another.
"""

# Shape letters: B documents, L tokens.

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from playground.corpus import all_words, sample_captions
from playground.documents import END, Segment, draw_document
from playground.training import STATE_FOLDER, Schedule, fit

MODEL_FOLDER = Path(__file__).parent / "models" / "llm"

BATCH = 32
PART = 8
"""Documents of similar length that are padded together; less padding, the same gradient."""

LESSONS = (
    Schedule(steps=1800, learning_rate=2e-3, weight_decay=0.02),
    Schedule(steps=2600, learning_rate=2e-3, weight_decay=0.02),
)
"""The first lesson runs the curriculum of `playground.documents`, later ones stay at its end."""
VOCAB_SIZE = 900
UNK, BOS, EOS = 0, 1, 2


@dataclass(frozen=True)
class LLMSize:
    """The widths of one LLM."""

    hidden: int
    intermediate: int
    layers: int
    heads: int


LLM_SIZES = {"llm": LLMSize(hidden=128, intermediate=320, layers=3, heads=4)}
"""LLMs by the name of their folder."""


def train_tokenizer(folder: Path, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> None:
    """Train the SentencePiece model and write it with its transformers files."""
    rng = random.Random(f"tokenizer/{seed}")
    documents = [draw_document(rng) for _ in range(4000)]
    pieces = [segment.text.removesuffix(END) for document in documents for segment in document]
    texts = [line for piece in pieces for line in piece.splitlines()]
    texts += sample_captions(10_000, seed) + 20 * all_words()
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
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)


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
    """Build a Llama with fresh weights."""
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
        initializer_range=0.08,  # about 1/sqrt(hidden): at 0.02 look-up is learned far later
    )
    return LlamaForCausalLM(config)


class DocumentEncoder:
    """Turns documents into ids and weights; each segment is tokenised on its own."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text without BOS and EOS."""
        if text not in self._cache:
            if len(self._cache) > 50_000:
                self._cache.clear()
            encoded = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            self._cache[text] = list(encoded)
        return self._cache[text]

    def encode(self, document: list[Segment]) -> tuple[list[int], list[float]]:
        """Return ids (BOS, the segments, EOS) and each id's weight in the loss."""
        ids, weights = [BOS], [0.0]
        for segment in document:
            piece = self.ids(segment.text)
            ids += piece
            weights += [segment.weight] * len(piece)
        if ids[-1] != EOS:
            ids, weights = [*ids, EOS], [*weights, 1.0]
        return ids, weights

    def batch(self, documents: list[list[Segment]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode documents and pad them on the right: ``ids_BL`` and ``weights_BL``."""
        encoded = [self.encode(document) for document in documents]
        length = max(len(ids) for ids, _ in encoded)
        ids_BL = torch.full((len(encoded), length), EOS)
        weights_BL = torch.zeros((len(encoded), length))
        for row, (ids, weights) in enumerate(encoded):
            ids_BL[row, : len(ids)] = torch.tensor(ids)
            weights_BL[row, : len(ids)] = torch.tensor(weights)
        return ids_BL, weights_BL


def document_loss(model: nn.Module, ids_BL: torch.Tensor, weights_BL: torch.Tensor) -> torch.Tensor:
    """Weighted mean of the next-token losses.

    Rows are padded on the right and attention is causal, so no real token sees padding and no
    attention mask is needed. Logits are taken only where the weight is not 0.
    """
    core: Any = model
    hidden_BLD = core.model(input_ids=ids_BL).last_hidden_state
    wanted_BL = weights_BL[:, 1:] > 0
    logits = core.lm_head(hidden_BLD[:, :-1][wanted_BL])
    losses = nn.functional.cross_entropy(logits, ids_BL[:, 1:][wanted_BL], reduction="none")
    weights = weights_BL[:, 1:][wanted_BL]
    return (losses * weights).sum() / weights.sum()


def train_llm(
    folder: Path = MODEL_FOLDER,
    *,
    name: str = "llm",
    lessons: tuple[Schedule, ...] = LESSONS,
    batch: int = BATCH,
    seed: int = 0,
    resume: bool = False,
    state_folder: Path = STATE_FOLDER,
) -> float:
    """Train the tokenizer and one LLM (a key of `LLM_SIZES`), write their folder.

    Returns:
        Seconds that training took.
    """
    torch.manual_seed(seed)
    train_tokenizer(folder, seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = make_model(LLM_SIZES[name], len(tokenizer))
    encoder = DocumentEncoder(tokenizer)
    seconds, first = 0.0, 0
    for number, schedule in enumerate(lessons):

        def loss_of_step(step: int, first: int = first) -> torch.Tensor:
            rng = random.Random(f"{name}/{seed}/{first + step}")
            progress = min(1.0, (first + step) / lessons[0].steps)
            documents = [draw_document(rng, progress) for _ in range(batch)]
            documents.sort(key=lambda document: len(encoder.encode(document)[0]))
            parts = [encoder.batch(documents[i : i + PART]) for i in range(0, batch, PART)]
            shares = [float(weights_BL[:, 1:].sum()) for _, weights_BL in parts]
            losses = [
                share / sum(shares) * document_loss(model, *part)
                for part, share in zip(parts, shares, strict=True)
            ]
            return torch.stack(losses).sum()

        seconds += fit(
            f"{name}-{number + 1}",
            model,
            loss_of_step,
            schedule,
            resume=resume,
            state_folder=state_folder,
        )
        first += schedule.steps
    model.save_pretrained(folder)
    return seconds
