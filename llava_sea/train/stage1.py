"""Stage 1: a frozen Llava with its projector trained, the alignment head, captions, labels."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from llava_sea.alignment import AlignmentHead
from llava_sea.conversation import get_template
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.images import ImageTransform, patch_grid
from llava_sea.data.preflight import check_conversations, check_tokens
from llava_sea.data.records import Record
from llava_sea.data.tokenize import padding_id
from llava_sea.data.words import WordTokens, tokenize_words
from llava_sea.errors import UserError
from llava_sea.files import write_atomically
from llava_sea.model.builder import build_llava, build_llava_without_llm, load_tokenizer, load_tower
from llava_sea.model.projector_io import projector_state, save_projector
from llava_sea.model.stage1 import Stage1Model
from llava_sea.model.wrapped import WrappedLlava
from llava_sea.train.arguments import (
    DataArguments,
    ModelArguments,
    SeaArguments,
    TrainingArguments,
)
from llava_sea.train.evaluation import build_measurements
from llava_sea.train.labels import open_labels
from llava_sea.train.precision import PickAttention, build_options, log_trainable, weights_dtype
from llava_sea.train.saving import HEAD_FILE, Stage1Saver, llava_config
from llava_sea.train.trainer import Prepared

logger = logging.getLogger(__name__)

INITIAL_PROJECTOR = "mm_projector_initial.bin"


def image_transform(model_args: ModelArguments, data_args: DataArguments) -> ImageTransform:
    """Return the tower's transform.

    Raises:
        UserError: if there is no tower, or none with a processor.
    """
    if model_args.vision_tower is None:
        raise UserError("--vision_tower is missing: pass the CLIP, SigLIP or DINOv2 to use")
    return ImageTransform.from_pretrained(model_args.vision_tower, data_args.image_aspect_ratio)


def prepare(
    records: list[Record],
    transform: ImageTransform,
    model_args: ModelArguments,
    data_args: DataArguments,
    sea: SeaArguments,
    args: TrainingArguments,
    pick_attention: PickAttention | None,
) -> Prepared:
    """Build the model, the captions with their labels, and the held-out measurements.

    Raises:
        UserError: if a record cannot be trained on, before anything large is loaded.
    """
    check_conversations(records, get_template(model_args.version))
    model = build_model(model_args, sea, args, pick_attention)
    reading, dataset, collator = build_data(
        records, transform, model, model_args, data_args, sea, args
    )
    return Prepared(
        model,
        dataset,
        collator,
        saver=Stage1Saver(llava_config(model.llava, model_args, data_args, args)),
        measure=build_measurements(sea, data_args, args, reading, model.num_rows),
    )


def save_initial_projector(model: WrappedLlava, args: TrainingArguments) -> None:
    """Keep the projector as it was before the first step, for the report's "before"."""
    state = projector_state(model.projector)
    if args.process_index == 0:
        save_projector(Path(args.output_dir or ".") / INITIAL_PROJECTOR, state)


def write_next_flags(output_dir: Path) -> str:
    """Write the flags with which stage 1 starts from a warm start's results; return them as a line.

    They go into ``stage1_flags``, a word a line, for scripts.
    """
    log_scale = float(load_file(output_dir / HEAD_FILE)["log_scale"])
    flags = {
        "--pretrain_mm_mlp_adapter": str(output_dir / "mm_projector.bin"),
        "--sea_log_scale_init": f"{min(log_scale, 4.605):.4f}",  # ln 100 rounded up is refused
    }
    words = [word for flag in flags.items() for word in flag]
    write_atomically(output_dir / "stage1_flags", "".join(f"{w}\n" for w in words).encode())
    return f"stage 1 starts from it with\n  {shlex.join(words)}"


def build_model(
    model_args: ModelArguments,
    sea: SeaArguments,
    args: TrainingArguments,
    pick_attention: PickAttention | None,
) -> Stage1Model:
    """Build a stock Llava, its projector trainable, and the alignment head beside it."""
    options = build_options(model_args, args, pick_attention)
    build = build_llava_without_llm if sea.sea_align_only else build_llava
    llava = build(**options)
    start = sea.sea_log_scale_init or 0.0
    head = AlignmentHead(start).to(options["dtype"]) if sea.enabled else None
    model = Stage1Model(
        llava,
        head,
        sea.sea_negatives,
        align_only=sea.sea_align_only,
        length_weight=sea.sea_length_weight,
    )
    if not args.deepspeed:
        model.trainable_to_float32()
    log_trainable(model)
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
    """Build captions and images, with SEA their labels; also how records become tensors."""
    config = model.llava.config
    transform.check_fits(config.vision_config)
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
    rows = model.num_rows
    if sea.enabled:
        # Rounded to float16 a tower does not show whose labels fit it; then it is read once more.
        rounded = weights_dtype(args) == torch.float16
        tower = (
            load_tower(str(model_args.vision_tower)) if rounded else model.llava.model.vision_tower
        )
        store = open_labels(sea, tower, transform, grid)
        words = tokenize_words(store.words(), tokenizer, rows)
    dataset = LazySupervisedDataset(
        records,
        data_args.image_folder,
        **reading,
        label_store=store,
        grid=grid,
        window=sea.sea_window,
        seed=args.seed,
        keep_top_n=sea.pair_options.need_top_n,
    )
    check_tokens(dataset, rows)
    collator = Collator(
        padding_id(tokenizer, rows),
        transform.resolution,
        image_tokens=config.image_seq_length,
        pairs_per_batch=dataset.pairs_per_record * args.per_device_train_batch_size,
        words=words,
        options=sea.pair_options,
    )
    _log_losses_of_labels(dataset.num_without_labels, words)
    return reading, dataset, collator


def _log_losses_of_labels(num_without_labels: int, words: WordTokens | None) -> None:
    """Say what of the labels cannot be used."""
    if num_without_labels:
        logger.warning("%d records have images without labels", num_without_labels)
    if words is not None and words.num_dropped:
        logger.warning(
            "%d words of the list have more than 16 tokens, or ones that are unknown or beyond the "
            "embedding table, and can be no target",
            words.num_dropped,
        )
