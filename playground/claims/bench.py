"""What all runs with one LLM share: stage 1's bench, the LLM to tune, questions made ready.

The LLM of stage 2 is a second copy in float32; each run starts from its stored weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from llava_sea.conversation import get_template
from llava_sea.data.records import load_records
from llava_sea.data.tokenize import check_template
from llava_sea.model.builder import build_llava
from llava_sea.model.stage2 import Stage2Model, choose_trainable
from playground.claims.eight import Eight
from playground.claims.exam import Exam
from playground.claims.language import Language
from playground.claims.recipe import ClaimsRecipe
from playground.claims.tuning import TuningCollator, TuningData
from playground.study.bench import MAX_LENGTH, Bench
from playground.study.features import read_features, use_features
from playground.study.prepare import World


class ClaimsBench:
    """Loads an LLM once, for any number of runs in this process."""

    def __init__(
        self,
        world: World,
        exams: Sequence[Exam],
        llm: Path,
        recipe: ClaimsRecipe,
        precision: str,
    ) -> None:
        """Load.

        Args:
            world: pictures, labels and held-out scenes.
            exams: the miniature eight, once for each of their seeds.
            llm: the LLM's folder.
            recipe: sizes.
            precision: of the frozen LLM and of stage 2's forward pass, "bfloat16" or "float32".

        Raises:
            UserError: if a model or the data cannot be read.
        """
        self.recipe = recipe
        self.stage1 = Bench(world, llm, recipe.stage1, precision)
        self.learning_rate = recipe.learning_rate_of(llm.name)
        llava: Any = build_llava(str(llm), str(world.clip), dtype=torch.float32)
        use_features(llava)
        wide = int(llava.config.text_config.hidden_size) >= recipe.bfloat16_from_width
        self.dtype: torch.dtype = getattr(torch, precision) if wide else torch.float32
        if self.dtype == torch.bfloat16:
            llava.model.language_model.set_attn_implementation("eager")
        choose_trainable(llava)
        self.tuned = Stage2Model(llava)
        self._start: dict[str, Tensor] = {
            name: tensor.clone() for name, tensor in self.tuned.state_dict().items()
        }
        self.template = get_template("v1")
        if not recipe.system_prompt:
            self.template = dataclasses.replace(self.template, system="")
        tokenizer = self.stage1.tokenizer
        check_template(self.template, tokenizer)
        image_tokens = self.stage1.image_tokens
        features_IPD = read_features(world.features)
        mini = world.data.parent
        pictures = load_records(world.data)
        self.data = TuningData(
            load_records(mini / "finetune.json")[: recipe.records],
            {str(record.image): row for row, record in enumerate(pictures)},
            features_IPD,
            template=self.template,
            tokenizer=tokenizer,
            image_tokens=image_tokens,
            model_max_length=MAX_LENGTH,
        )
        self.collate = TuningCollator(self.stage1.collator(), features_IPD[0])
        self.eights = [
            Eight(
                exam,
                tokenizer,
                self.template,
                image_tokens=image_tokens,
                batch_size=recipe.answer_batch,
                max_new_tokens=recipe.max_new_tokens,
            )
            for exam in exams
        ]
        self.languages = [
            Language(
                exam.folder / "text_only.jsonl",
                tokenizer,
                self.template,
                batch_size=recipe.answer_batch,
            )
            for exam in exams
        ]
        self._before: dict[str, float] | None = None

    def scores(self, llava: Any) -> dict[str, float]:
        """Return a model's scores of the eight, means over the exams, 0 to 100."""
        return _means([eight.measure(llava) for eight in self.eights])

    def language(self, llava: Any) -> dict[str, float]:
        """Return what a model answers without pictures by form, means over the exams, 0 to 100."""
        return _means([language.measure(llava) for language in self.languages])

    def fresh(self, projector: nn.Module) -> Stage2Model:
        """Return the model that stage 2 starts from: the stored LLM and stage 1's projector."""
        self.tuned.load_state_dict(self._start)
        self.tuned.projector.load_state_dict(projector.state_dict())
        return self.tuned

    def language_before(self) -> dict[str, float]:
        """Return what the LLM answers without a picture before stage 2; the same in all runs."""
        if self._before is None:
            self.tuned.load_state_dict(self._start)
            with self.answering():
                self._before = self.language(self.tuned.eval().llava)
        return self._before

    def answering(self) -> torch.autocast:
        """Return the context in which questions are answered."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean([each[name] for each in found]) for name in found[0]}
