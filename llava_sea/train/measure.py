"""Build the held-out measurements of a run from its flags."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.preflight import check_conversations, check_tokens
from llava_sea.data.records import load_records
from llava_sea.data.tokenize import padding_id
from llava_sea.data.words import tokenize_words
from llava_sea.errors import UserError
from llava_sea.labels.word_list import read_words
from llava_sea.train.arguments import DataArguments, SeaArguments, TrainingArguments
from llava_sea.train.callbacks import MeasureAlignment
from llava_sea.train.evaluation import AlignmentEvaluator, Truth

logger = logging.getLogger(__name__)


def build_measurements(
    sea: SeaArguments,
    data_args: DataArguments,
    args: TrainingArguments,
    reading: dict[str, Any],
    num_rows: int,
) -> MeasureAlignment | None:
    """Return the callback that measures, or None when there is nothing to measure on.

    Args:
        sea: says which records, words and truth.
        data_args: the image folder, where the held-out records have none of their own.
        args: ranks and batch size.
        reading: how records become tensors; the same as in training.
        num_rows: of the LLM's embedding table.

    Raises:
        UserError: if a file is missing or broken.
    """
    if sea.sea_eval_data is None:
        logger.info("no --sea_eval_data: TACS, gap and nearest words are not measured")
        return None
    word_list = sea.sea_eval_word_list
    if word_list is None and sea.sea_labels is not None:
        word_list = str(Path(sea.sea_labels) / "words.tsv")
    if word_list is None:
        raise UserError("--sea_eval_data needs words: pass --sea_eval_word_list words.tsv")
    everything = load_records(sea.sea_eval_data)
    records = [r for r in everything if r.image is not None][: sea.sea_eval_samples]
    if not records:
        raise UserError(f"--sea_eval_data {sea.sea_eval_data}: no record has a picture")
    check_conversations(records, reading["template"])
    if len(everything) > len(records):
        logger.info("measuring on %d of %d held-out records", len(records), len(everything))
    entries = read_words(word_list)[: sea.sea_eval_words]
    words = np.array([entry.word for entry in entries])
    tokens = tokenize_words(words.tolist(), reading["tokenizer"], num_rows)
    kept_Q = ~tokens.dropped_Q
    truth = Truth(sea.sea_eval_truth) if sea.sea_eval_truth is not None else None
    dataset = LazySupervisedDataset(
        records, sea.sea_eval_image_folder or data_args.image_folder, **reading
    )
    check_tokens(dataset, num_rows)
    evaluator = AlignmentEvaluator(
        dataset,
        Collator(
            padding_id(reading["tokenizer"], num_rows),
            reading["transform"].resolution,
            image_tokens=reading["image_tokens"],
        ),
        reading["tokenizer"],
        words[kept_Q].tolist(),
        tokens.ids_QM[kept_Q],
        truth=truth,
        batch_size=args.per_device_eval_batch_size,
        rank=args.process_index,
        world_size=args.world_size,
    )
    return MeasureAlignment(evaluator, sea.sea_eval_steps)
