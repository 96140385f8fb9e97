"""Stage 1: train the projector (and the temperature) on captions, with SEA if there are labels.

Reads as the run goes: flags, model, data, labels, measurements, training, what came out.
Started by ``deepspeed llava_sea/train/train_mem.py ...`` or, on one device, by ``python``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from llava_sea.alignment import AlignmentHead
from llava_sea.conversation import get_template
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.images import ImageTransform, patch_grid
from llava_sea.data.records import Record, load_records
from llava_sea.data.tokenize import padding_id
from llava_sea.data.words import tokenize_words
from llava_sea.errors import UserError, run_command
from llava_sea.model.builder import build_llava, load_tokenizer, load_tower
from llava_sea.model.stage1 import Stage1Model
from llava_sea.train import run
from llava_sea.train.arguments import (
    DataArguments,
    ModelArguments,
    SeaArguments,
    TrainingArguments,
)
from llava_sea.train.callbacks import MetricsFile, ProgressLine
from llava_sea.train.checkpoint import claim_output_dir
from llava_sea.train.labels import open_labels
from llava_sea.train.measure import build_measurements
from llava_sea.train.parse import parse_args
from llava_sea.train.stop import EXIT_STATUS, StopOnSignal
from llava_sea.train.trainer import LLaVATrainer

logger = logging.getLogger(__name__)


def train(pick_attention: Callable[[torch.dtype], str] | None = None) -> None:
    """Run stage 1 with the flags of the command line.

    Args:
        pick_attention: names the attention for weights of a dtype; None leaves it to transformers.

    Raises:
        UserError: if a flag, a file or the output folder is wrong.
    """
    run.set_up_logging()
    run.start_engine()
    model_args, data_args, sea, args = parse_args()
    if not model_args.tune_mm_mlp_adapter:
        raise UserError(
            "--tune_mm_mlp_adapter True is missing: this version trains stage 1, the projector"
        )
    transformers.set_seed(args.seed)
    # Whatever can be refused is refused before anything large is loaded.
    output_dir = Path(args.output_dir or ".")
    records = load_records(data_args.data_path)
    transform = ImageTransform.from_pretrained(
        str(model_args.vision_tower), data_args.image_aspect_ratio
    )
    identity = run.identity(model_args, data_args, sea, args)
    claim_output_dir(output_dir, identity, write=args.process_index == 0)
    resume_from = run.find_checkpoint(output_dir, args.resume_from_checkpoint)
    if resume_from and run.is_finished(resume_from):
        if args.process_index == 0:
            run.finish_from(Path(resume_from), output_dir)
        return

    model = build_model(model_args, sea, args, pick_attention)
    reading, dataset, collator = build_data(
        records, transform, model, model_args, data_args, sea, args
    )
    measure = build_measurements(sea, data_args, args, reading)

    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output_dir / "runs"))
    trainer = LLaVATrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[MetricsFile(), ProgressLine(), *([measure] if measure else [])],
        sea=sea,
        stage1_config=run.stage1_config(model.llava, model_args, data_args, args),
    )
    for default in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(default)
    if measure:
        measure.trainer = trainer
    if resume_from is None:
        run.save_initial_projector(trainer, output_dir)
    stop = StopOnSignal()
    trainer.add_callback(stop)
    try:
        trainer.train(resume_from_checkpoint=resume_from)
    finally:
        stop.close()
    if stop.stopped and trainer.state.global_step < trainer.state.max_steps:
        logger.warning("stopped after step %d; start again to go on", trainer.state.global_step)
        sys.exit(EXIT_STATUS)

    # What came out: LLaVA's files, and the numbers before and after.
    trainer.save_state()
    trainer.save_model(args.output_dir)
    if trainer.is_world_process_zero():
        print(run.summary(output_dir))
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def build_model(
    model_args: ModelArguments,
    sea: SeaArguments,
    args: TrainingArguments,
    pick_attention: Callable[[torch.dtype], str] | None,
) -> Stage1Model:
    """Build a stock Llava, its projector trainable, and the alignment head beside it."""
    dtype = run.weights_dtype(args)
    attention = args.attn_implementation or (pick_attention(dtype) if pick_attention else None)
    logger.info("weights in %s, attention %s", dtype, attention or "as transformers chooses")
    llava = build_llava(
        model_args.model_name_or_path,
        str(model_args.vision_tower),
        dtype=dtype,
        attention=attention,
        select_layer=model_args.mm_vision_select_layer,
        projector_path=model_args.pretrain_mm_mlp_adapter,
        seed=args.seed,
        cache_dir=args.cache_dir,
    )
    head = AlignmentHead(sea.sea_log_scale_init or 0.0).to(dtype) if sea.enabled else None
    model = Stage1Model(llava, head, sea.sea_negatives)
    if not args.deepspeed:
        model.trainable_to_float32()
    run.log_trainable(model)
    return model


def build_data(
    records: list[Record],
    transform: ImageTransform,
    model: Stage1Model,
    model_args: ModelArguments,
    data_args: DataArguments,
    sea: SeaArguments,
    args: TrainingArguments,
) -> tuple[dict[str, Any], LazySupervisedDataset, Collator]:
    """Build captions and pictures, with SEA their labels; also how records become tensors."""
    config = model.llava.config
    tokenizer = load_tokenizer(
        model_args.model_name_or_path,
        model_max_length=args.model_max_length,
        cache_dir=args.cache_dir,
    )
    reading: dict[str, Any] = {
        "transform": transform,
        "template": get_template(model_args.version),
        "tokenizer": tokenizer,
        "image_tokens": config.image_seq_length,
        "model_max_length": args.model_max_length,
    }
    store, words, grid = None, None, patch_grid(config.vision_config)
    if sea.enabled:
        # Rounded to float16 a tower does not show whose labels fit it; then it is read once more.
        rounded = run.weights_dtype(args) == torch.float16
        tower = (
            load_tower(str(model_args.vision_tower)) if rounded else model.llava.model.vision_tower
        )
        store = open_labels(sea, tower, transform, grid)
        words = tokenize_words(store.words(), tokenizer)
    dataset = LazySupervisedDataset(
        records,
        data_args.image_folder,
        **reading,
        label_store=store,
        grid=grid,
        window=sea.sea_window,
        seed=args.seed,
    )
    collator = Collator(
        padding_id(tokenizer),
        transform.resolution,
        image_tokens=config.image_seq_length,
        pairs_per_batch=dataset.pairs_per_record * args.per_device_train_batch_size,
        words=words,
    )
    run.check_size(len(dataset), args)
    run.log_losses_of_labels(dataset.num_without_labels, words)
    return reading, dataset, collator


if __name__ == "__main__":
    run_command(train)
