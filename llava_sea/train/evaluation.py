"""Held-out measurements of stage 1 while it runs: where its visual tokens lie in the LLM.

Always together: caption loss, TACS (eq. 14), modality gap (eq. 5), and how often a patch's nearest
word (eq. 4) is right: one of its true words where these are known, else at least a word of the
caption. Tokens that grow longer move away from every word, so the gap between unit vectors and the
mean lengths of visual tokens and embedding rows stand beside the gap. The words are the most
frequent of the list, embedded in blocks by all ranks at the same time: under ZeRO-3 a rank that
looks up embeddings alone waits for ever.

Shape letters: I images, P patches, Q words, T tokens of a word or caption, D hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerCallback, TrainerState

from llava_sea.alignment import tacs
from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.first_pass import check_conversations, check_table, check_tokens
from llava_sea.data.image_source import open_images
from llava_sea.data.records import open_records
from llava_sea.data.words import tokenize_words
from llava_sea.errors import UserError
from llava_sea.labels.occurrence import Truth, find_occurrences
from llava_sea.labels.words_file import read_words
from llava_sea.model.stage1 import Stage1Model
from llava_sea.train.arguments import Arguments

logger = logging.getLogger(__name__)

MEANS = ("tacs", "gap", "gap_unit", "visual_length")
"""Measures of an image."""
SUMS = ("tokens", "lm_loss", "images", *MEANS, "patches", "right", "objects", "right_objects")


@dataclass
class AlignmentEvaluator:
    """Measures a `Stage1Model` on held-out records; every rank calls `measure` at the same time.

    `words` are those the nearest are sought among, `word_ids` their token ids ``(Q, T)``, padded
    with -1; `truth` has the true words of the patches, if they are known.
    """

    dataset: Any
    collator: Any
    tokenizer: Any
    words: Sequence[str]
    word_ids: NDArray[np.int32]
    _: KW_ONLY
    truth: Truth | None = None
    batch_size: int = 16
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Tokenise the captions and look for words in them."""
        self.word_ids_QT = torch.from_numpy(np.asarray(self.word_ids, dtype=np.int64))
        if self.truth is not None:
            for record in self.dataset.records:
                self.truth.check(record.image, self.dataset.num_patches)
        captions = [record.turns[-1].text.strip() for record in self.dataset.records]
        encoded = self.tokenizer(captions, add_special_tokens=False)["input_ids"]
        self.caption_ids = [torch.tensor(ids, dtype=torch.long) for ids in encoded]
        self.caption_words = [set(ids.tolist()) for ids in find_occurrences(captions, self.words)]

    @torch.no_grad()
    def measure(self, model: Any, stage1: Stage1Model, device: torch.device) -> dict[str, float]:
        """Return ``eval_*`` values over all held-out records, the same on every rank.

        `model` is called for the losses: the engine around `stage1`, or `stage1` itself.
        """
        was_training = stage1.training
        model.eval()
        sums = dict.fromkeys(SUMS, 0.0)
        for indices, is_real in self._batches():
            batch = self.collator([self.dataset[index] for index in indices])
            batch["labels"][~torch.tensor(is_real)] = IGNORE_INDEX
            output = model(**{key: value.to(device) for key, value in batch.items()})
            sums["lm_loss"] += float(output.lm_loss_sum)
            sums["tokens"] += float(output.num_tokens)
            visual_IPD = output.visual_IPD
            found, means = stage1.near_words(visual_IPD, self.word_ids_QT)
            nearest_IP = found.ids_N.view(len(indices), -1).tolist()
            captions = [self.caption_ids[index] for index in indices]
            padded = pad_sequence(captions, batch_first=True).to(device)
            caption_ITD = stage1.embed(padded)
            for i, index in enumerate(indices):
                if not is_real[i]:
                    continue
                sums["images"] += 1
                sums["tacs"] += float(tacs(visual_IPD[i], caption_ITD[i, : len(captions[i])]))
                sums["patches"] += visual_IPD.shape[1]
                for name, mean_I in means.items():
                    sums[name] += float(mean_I[i])
                self._count_right(sums, index, nearest_IP[i])
        result = self._averages(sums, device)
        result["eval_embedding_length"] = stage1.embedding_length(self.word_ids_QT, device)
        model.train(was_training)
        return result

    def _batches(self) -> Iterator[tuple[list[int], list[bool]]]:
        """Yield this rank's records and which are real; ranks have equally many."""
        whole = self.batch_size * self.world_size
        count = -(-len(self.dataset) // whole) * whole
        for start in range(self.rank * self.batch_size, count, whole):
            positions = range(start, start + self.batch_size)
            size = len(self.dataset)
            yield [p % size for p in positions], [p < size for p in positions]

    def _count_right(self, sums: dict[str, float], index: int, nearest_P: list[int]) -> None:
        image = self.dataset.records[index].image
        for patch, word_id in enumerate(nearest_P):
            if self.truth is None:
                sums["right"] += word_id in self.caption_words[index]
                continue
            right = self.words[word_id] in self.truth.words(image, patch)
            sums["right"] += right
            if self.truth.is_object(image, patch):
                sums["objects"] += 1
                sums["right_objects"] += right

    def _averages(self, sums: dict[str, float], device: torch.device) -> dict[str, float]:
        """Join the ranks' sums and divide."""
        if self.world_size > 1:
            total = torch.tensor(list(sums.values()), dtype=torch.float32, device=device)
            dist.all_reduce(total)
            sums = dict(zip(sums, total.tolist(), strict=True))
        patches, objects = sums["patches"], max(1.0, sums["objects"])
        nearest = (
            {"nearest_word_in_caption": sums["right"] / patches}
            if self.truth is None
            else {
                "nearest_word_precision": sums["right"] / patches,
                "nearest_word_precision_objects": sums["right_objects"] / objects,
            }
        )
        found = {"lm_loss": sums["lm_loss"] / max(1.0, sums["tokens"])}
        found |= {name: sums[name] / sums["images"] for name in MEANS}
        return {f"eval_{name}": value for name, value in (found | nearest).items()}


class MeasureAlignment(TrainerCallback):
    """Runs the evaluator before the first step, every `every` steps, and after the last."""

    def __init__(self, evaluator: AlignmentEvaluator, every: int) -> None:
        self.evaluator = evaluator
        self.every = every
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Measure the projector before the first step; a resumed run has done so before."""
        if state.global_step == 0:
            logger.info("measuring the projector before the first step")
            self._measure(args.device)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Measure every so many steps and after the last."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            should_log = control.should_log
            self._measure(args.device)
            control.should_log = should_log  # logging a measurement takes the step's own log back

    def _measure(self, device: torch.device) -> None:
        trainer = self.trainer
        trainer.log(self.evaluator.measure(trainer.model_wrapped, trainer.wrapped, device))


def build_measurements(
    arguments: Arguments, training: LazySupervisedDataset, num_rows: int
) -> MeasureAlignment | None:
    """Return the callback that measures, or None when there is nothing to measure on.

    Held-out records are read as those of `training` are.
    """
    _, data_args, sea, args = arguments
    if sea.sea_eval_data is None:
        logger.info("no --sea_eval_data: TACS, gap and nearest words are not measured")
        return None
    word_list = sea.sea_eval_word_list
    if word_list is None and sea.sea_labels is not None:
        word_list = str(Path(sea.sea_labels) / "words.tsv")
    if word_list is None:
        raise UserError("--sea_eval_data needs words: pass --sea_eval_word_list words.tsv")
    everything = open_records(sea.sea_eval_data)
    with_image = np.flatnonzero(everything.num_images)[: sea.sea_eval_samples]
    records = [everything[int(index)] for index in with_image]
    if not records:
        raise UserError(f"--sea_eval_data {sea.sea_eval_data}: no record has an image")
    check_conversations(records, training.template)
    if len(everything) > len(records):
        logger.info("measuring on %d of %d held-out records", len(records), len(everything))
    words = np.array([entry.word for entry in read_words(word_list)[: sea.sea_eval_words]])
    tokens = tokenize_words(words.tolist(), training.tokenizer, num_rows)
    truth = Truth(sea.sea_eval_truth) if sea.sea_eval_truth is not None else None
    folder = sea.sea_eval_image_folder or data_args.image_folder
    dataset = training.like(records, open_images(folder, everything))
    check_tokens(dataset, num_rows)
    evaluator = AlignmentEvaluator(
        dataset,
        Collator.of(dataset, num_rows),
        dataset.tokenizer,
        words[~tokens.dropped_Q].tolist(),
        tokens.ids_QM[~tokens.dropped_Q],
        truth=truth,
        batch_size=args.per_device_eval_batch_size,
        rank=args.process_index,
        world_size=args.world_size,
    )
    for record, ids_T in zip(records, evaluator.caption_ids, strict=True):  # they are not cut
        check_table(record, ids_T.tolist(), dataset.tokenizer, num_rows)
    return MeasureAlignment(evaluator, sea.sea_eval_steps)
