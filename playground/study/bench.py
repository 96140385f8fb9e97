"""An LLM loaded once for any number of runs: the Llava, tokens, features, and its measures.

Runs take float32 throughout: on most CPUs bfloat16 is no faster, on some 30 times slower.

Shape letters: I images, P patches, L tokens, D hidden size.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llava_sea.alignment import LabelStore, modality_integration_rate
from llava_sea.conversation import Template, get_template
from llava_sea.data.collator import Collator
from llava_sea.data.images import ImageTransform, patch_grid
from llava_sea.data.records import load_records
from llava_sea.data.tokenize import padding_id
from llava_sea.data.words import WordTokens, tokenize_words
from llava_sea.labels.occurrence import Truth
from llava_sea.labels.words_file import read_words
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.stage1 import Stage1Model
from llava_sea.train.arguments import SeaArguments
from llava_sea.train.evaluation import AlignmentEvaluator
from playground.study.cached_data import CachedDataset, TokenCache
from playground.study.features import read_features, use_features
from playground.study.learned import Learned, make_exam
from playground.study.prepare import World
from playground.study.recipe import Recipe

MAX_LENGTH = 512
CURVE_SCENES, CURVE_PER_KIND = 100, 28
"""The exam within a run: a quarter of the one at its end, of the same scenes."""


class Bench:
    """What all runs with one LLM share."""

    def __init__(self, world: World, llm: Path, recipe: Recipe) -> None:
        """Load.

        Raises:
            UserError: if a model or the data cannot be read.
        """
        self.world, self.recipe, self.llm = world, recipe, llm
        self.llava = build_llava(str(llm), str(world.clip), dtype=torch.float32)
        use_features(self.llava)
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
        # The system prompts are dropped: of v1's words the world's LLMs have met none.
        self.template = replace(
            get_template("smollm2" if llm.name == "smollm2" else "v1"), system=""
        )
        self.words_list = [entry.word for entry in read_words(world.words)]
        self.words: WordTokens = tokenize_words(self.words_list, self.tokenizer, self.num_rows)
        self._tokens: TokenCache = {}
        self._records = load_records(world.data)
        self._features_IPD = read_features(world.features)
        self._crc32_I = np.load(world.crc32).tolist()
        self.aligned = self._aligned()
        self.learned = self._learned(recipe.scenes, recipe.per_kind)
        self.on_curve = self._learned(
            min(CURVE_SCENES, recipe.scenes), min(CURVE_PER_KIND, recipe.per_kind)
        )

    def reading_of(self, template: Template) -> tuple[Template, Any, int, int]:
        """Return what `tokenize_record` takes after the record."""
        return template, self.tokenizer, self.image_tokens, MAX_LENGTH

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
        )
        pairs = dataset.pairs_per_record * self.recipe.of(self.llm.name)[0].batch
        words = self.words if store is not None else None
        return dataset, self.collator(pairs, words)

    def collator(self, pairs: int = 0, words: WordTokens | None = None) -> Collator:
        """Return the package's collator."""
        return Collator(
            padding_id(self.tokenizer, self.num_rows),
            self.transform.resolution,
            num_patches=self.image_tokens,
            pairs_per_batch=pairs,
            words=words,
        )

    def measure(self, stage1: Stage1Model) -> dict[str, float]:
        """Return all measures of a projector after stage 1."""
        found = self.aligned.measure(stage1, stage1, torch.device("cpu"))
        return self.learned.measure(stage1) | {
            "nearest": found["eval_nearest_word_precision"],
            "nearest_objects": found["eval_nearest_word_precision_objects"],
            "tacs": found["eval_tacs"],
            "gap": found["eval_gap"],
            "length": found["eval_visual_length"] / found["eval_embedding_length"],
            "mir": self._mir(stage1),
        }

    def _learned(self, scenes: int, per_kind: int) -> Learned:
        exam = make_exam(self.world.split, scenes, per_kind, self.recipe.others)
        sample = CachedDataset(self._records[:1], self._features_IPD[:1], [0], {}, **self.reading)[
            0
        ]
        first = int(sample["image_mask"].nonzero()[0])
        return Learned(
            exam,
            read_features(self.world.exam_features)[:scenes],
            self.tokenizer,
            sample["input_ids"][:first].tolist(),
            self.reading["template"].answer_end,
            batch_size=self.recipe.exam_batch,
        )

    def _aligned(self) -> AlignmentEvaluator:
        records = load_records(self.world.heldout)
        dataset = CachedDataset(
            records, read_features(self.world.exam_features), [0] * len(records), {}, **self.reading
        )
        kept_Q = ~self.words.dropped_Q
        return AlignmentEvaluator(
            dataset,
            self.collator(),
            self.tokenizer,
            [word for word, kept in zip(self.words_list, kept_Q, strict=True) if kept],
            self.words.ids_QM[kept_Q],
            truth=Truth(self.world.heldout_truth),
            batch_size=self.recipe.exam_batch,
        )

    @torch.no_grad()
    def _mir(self, stage1: Stage1Model) -> float:
        """Return MIR over held-out scenes and their own captions."""
        dataset, collate = self.aligned.dataset, self.collator()
        visual: list[list[Tensor]] = []
        text: list[list[Tensor]] = []
        for scene in range(self.recipe.mir_scenes):
            batch = collate([dataset[scene]])
            visual_IPD = stage1.project(batch["pixel_values"])
            embeds_BLD = stage1.place(visual_IPD, batch["input_ids"], batch["image_mask"])
            layers = stage1.language_model(
                inputs_embeds=embeds_BLD, output_hidden_states=True, use_cache=False
            ).hidden_states[1:]
            image_L = batch["image_mask"][0]
            visual.append([layer[0, image_L] for layer in layers])
            text.append([layer[0, ~image_L] for layer in layers])
        return modality_integration_rate(
            (torch.cat(v), torch.cat(t))
            for v, t in zip(zip(*visual, strict=True), zip(*text, strict=True), strict=True)
        )
