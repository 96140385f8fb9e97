"""What all runs with one LLM share: the Llava, tokens, features, and what they are measured with.

The frozen LLM may be in bfloat16: that is the package's ``--bf16 True`` without DeepSpeed, weights
and activations in bfloat16, projector, temperature and losses in float32. On a CPU that multiplies
bfloat16 a step then takes half the time or less, provided attention is transformers' "eager": the
backward pass of torch's fused one is slow in bfloat16 (44 ms against 4 ms a layer, 32 x 90 tokens).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llava_sea.alignment import LabelStore
from llava_sea.alignment.batch import PAPER, PairOptions
from llava_sea.conversation import get_template
from llava_sea.data.collator import Collator
from llava_sea.data.images import ImageTransform, patch_grid
from llava_sea.data.records import load_records
from llava_sea.data.tokenize import padding_id
from llava_sea.data.words import WordTokens, tokenize_words
from llava_sea.labels.words_file import read_words
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.stage1 import Stage1Model
from llava_sea.model.wrapped import StepLosses
from llava_sea.train.arguments import SeaArguments
from llava_sea.train.evaluation import AlignmentEvaluator, Truth
from playground.study.answers import Answers
from playground.study.cached_data import CachedDataset, TokenCache
from playground.study.features import read_features, use_features
from playground.study.prepare import World
from playground.study.recipe import Recipe

MAX_LENGTH = 512
EVAL_WORDS = SeaArguments().sea_eval_words


def choose_precision(wanted: str) -> str:
    """Return what `auto` means on this machine."""
    if wanted != "auto":
        return wanted
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if fast else "float32"


class Mixed(nn.Module):
    """Calls a `Stage1Model` under autocast where its LLM is in bfloat16."""

    def __init__(self, stage1: Stage1Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.stage1, self.dtype = stage1, dtype

    def forward(self, **batch: Tensor) -> StepLosses:
        """Return the losses of a batch."""
        with self.autocast():
            output: StepLosses = self.stage1(**batch)
        return output

    def autocast(self) -> torch.autocast:
        """Return the context in which the model is to be called."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16)


class Bench:
    """Loads an LLM once, for any number of runs in this process."""

    def __init__(self, world: World, llm: Path, recipe: Recipe, precision: str) -> None:
        """Load.

        Args:
            world: pictures, labels and held-out scenes.
            llm: the LLM's folder.
            recipe: sizes.
            precision: of the frozen LLM, "bfloat16" or "float32".

        Raises:
            UserError: if a model or the data cannot be read.
        """
        self.world, self.recipe = world, recipe
        self.dtype: torch.dtype = getattr(torch, precision)
        self.llava = build_llava(str(llm), str(world.clip), dtype=self.dtype)
        use_features(self.llava)
        if self.dtype == torch.bfloat16:
            self.llava.model.language_model.set_attn_implementation("eager")
        self.tokenizer = load_tokenizer(str(llm), model_max_length=MAX_LENGTH)
        self.transform = ImageTransform.from_pretrained(str(world.clip), "square")
        text_config: Any = self.llava.config.text_config
        self.num_rows = int(text_config.vocab_size)
        self.image_tokens = int(self.llava.config.image_seq_length)
        self.reading: dict[str, Any] = {
            "transform": self.transform,
            "template": get_template("plain"),
            "tokenizer": self.tokenizer,
            "image_tokens": self.image_tokens,
            "model_max_length": MAX_LENGTH,
        }
        self._tokens: TokenCache = {}
        self._words: WordTokens | None = None
        self._records = load_records(world.data)
        self._features_IPD = read_features(world.features)
        self._crc32_I = np.load(world.crc32).tolist()
        self._measures: tuple[Measures, Measures] | None = None

    @property
    def words(self) -> WordTokens:
        """Token ids of the word list: of the labels and of the nearest words."""
        if self._words is None:
            entries = read_words(self.world.words)
            self._words = tokenize_words([e.word for e in entries], self.tokenizer, self.num_rows)
        return self._words

    def training_data(self, sea: SeaArguments, seed: int) -> tuple[CachedDataset, Collator]:
        """Return a run's data set and collator, with pairs if there are labels."""
        store = LabelStore(sea.sea_labels) if sea.enabled and sea.sea_labels else None
        dataset = CachedDataset(
            self._records,
            self._features_IPD,
            self._crc32_I,
            self._tokens,
            **self.reading,
            label_store=store,
            grid=patch_grid(self.llava.config.vision_config),
            window=sea.sea_window,
            seed=seed,
            keep_top_n=sea.pair_options.need_top_n,
        )
        pairs = dataset.pairs_per_record * self.recipe.batch
        words = self.words if store is not None else None
        return dataset, self.collator(pairs, words, sea.pair_options)

    def collator(
        self, pairs: int = 0, words: WordTokens | None = None, options: PairOptions = PAPER
    ) -> Collator:
        """Return the package's collator."""
        return Collator(
            padding_id(self.tokenizer, self.num_rows),
            self.transform.resolution,
            image_tokens=self.image_tokens,
            pairs_per_batch=pairs,
            words=words,
            options=options,
        )

    def measures(self) -> tuple[Measures, Measures]:
        """Return what measures a curve's points and the end."""
        if self._measures is None:
            recipe = self.recipe
            self._measures = (
                Measures(self, recipe.curve_pictures, recipe.curve_per_kind),
                Measures(self, recipe.final_pictures, recipe.final_per_kind),
            )
        return self._measures


class Measures:
    """The package's held-out measures and the zero-shot answers, on so many scenes."""

    def __init__(self, bench: Bench, num_pictures: int, per_kind: int) -> None:
        """Read the held-out set.

        Args:
            bench: the LLM.
            num_pictures: captions and pictures that are used, the first ones.
            per_kind: questions of each kind that are used, the first ones.
        """
        heldout = bench.world.heldout
        records = load_records(heldout.records)[:num_pictures]
        entries = read_words(bench.world.words)[:EVAL_WORDS]
        kept_Q = ~bench.words.dropped_Q[: len(entries)]
        dataset = CachedDataset(
            records, read_features(heldout.features), [0] * len(records), {}, **bench.reading
        )
        self._evaluator = AlignmentEvaluator(
            dataset,
            bench.collator(),
            bench.tokenizer,
            [entry.word for entry, kept in zip(entries, kept_Q, strict=True) if kept],
            bench.words.ids_QM[: len(entries)][kept_Q],
            truth=Truth(heldout.truth),
            batch_size=bench.recipe.eval_batch,
        )
        questions = json.loads(heldout.questions.read_text())
        num_kinds = len({question["kind"] for question in questions})
        used = slice(num_kinds * per_kind)
        self._answers = Answers(
            questions[used],
            read_features(heldout.question_features)[used],
            bench.tokenizer,
            bench.collator(),
            batch_size=bench.recipe.eval_batch,
        )

    def measure(self, model: Mixed) -> tuple[dict[str, float], dict[str, float]]:
        """Return the measures, and the answers by kind of question."""
        found = self._evaluator.measure(model, model.stage1, torch.device("cpu"))
        with model.autocast():
            by_kind = self._answers.measure(model.stage1)
        named = {
            "caption_loss": found["eval_lm_loss"],
            "tacs": found["eval_tacs"],
            "nearest": found["eval_nearest_word_precision"],
            "nearest_objects": found["eval_nearest_word_precision_objects"],
            "gap": found["eval_gap"],
            "answers": sum(by_kind.values()) / len(by_kind),
        }
        return named, by_kind
