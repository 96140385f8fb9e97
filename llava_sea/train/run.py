"""The frame of a run: logging, engine, identity, what is trainable, where to resume, summary."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from transformers.utils import logging as hf_logging

from llava_sea.data.words import WordTokens
from llava_sea.errors import UserError, cannot_write, failed_write
from llava_sea.files import open_atomically, remove, sha256_file
from llava_sea.model.projector_io import projector_state, save_projector
from llava_sea.model.wrapped import WrappedLlava
from llava_sea.terminal import log_to
from llava_sea.train.arguments import (
    DataArguments,
    ModelArguments,
    SeaArguments,
    TrainingArguments,
)
from llava_sea.train.checkpoint import DRY_SAVE, complete_checkpoints, read_checksums, verify
from llava_sea.train.trainer import LLaVATrainer

logger = logging.getLogger(__name__)

INITIAL_PROJECTOR = "mm_projector_initial.bin"

ADAM_BYTES = 12
"""Of a trained parameter in a checkpoint: its float32 value and Adam's two moments."""

TRAINER_FILES = (
    "checksums.json",
    "latest",
    "optimizer*",
    "rng_state*",
    "scheduler.pt",
    "training_args.bin",
    "zero_to_fp32.py",
)
"""Files of a checkpoint that are for going on, not for using the model."""

IDENTITY_FLAGS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "seed",
    "data_seed",
    "bf16",
    "fp16",
    "model_max_length",
    "mm_projector_lr",
    "mm_vision_tower_lr",
    "freeze_mm_mlp_adapter",
    "group_by_modality_length",
    "lora_enable",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_bias",
    "bits",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "lr_scheduler_kwargs",
    "dataloader_drop_last",
    "average_tokens_across_devices",
)


def set_up_logging() -> None:
    """Log plainly to stdout, from rank 0: the others have nothing else to say but errors."""
    rank = os.environ.get("RANK", "0")
    log_to(sys.stdout, force=True)
    logging.getLogger("llava_sea").setLevel(logging.INFO if rank == "0" else logging.ERROR)
    hf_logging.set_verbosity_warning()
    hf_logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # data workers are forked
    # DeepSpeed calls torch.distributed by names that torch 2.13 calls old, in every rank.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    for chatty in ("DeepSpeed", "deepspeed", "torch.distributed"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def identity(
    model_args: ModelArguments, data_args: DataArguments, sea: SeaArguments, args: TrainingArguments
) -> dict[str, Any]:
    """Return everything that must agree for a checkpoint to be gone on from."""
    values: dict[str, Any] = {
        **dataclasses.asdict(model_args),
        "data_sha256": sha256_file(Path(data_args.data_path)),
        "image_folder": data_args.image_folder,
        "image_aspect_ratio": data_args.image_aspect_ratio,
        "sea": sea.enabled and _pair_flags(sea),
    }
    if sea.enabled:
        for name in ("weight", "weight_schedule", "window", "negatives", "log_scale_init"):
            values[f"sea_{name}"] = getattr(sea, f"sea_{name}")
        manifest = Path(str(sea.sea_labels)) / "manifest.json"
        if manifest.is_file():
            values["sea_labels_sha256"] = sha256_file(manifest)
    for name in IDENTITY_FLAGS:
        values[name] = getattr(args, name)
    if args.pack_sequences:
        # No key of its own: it would be missing from the run.json of runs begun before the flag.
        values["per_device_train_batch_size"] = (
            f"{args.per_device_train_batch_size}, packed (--pack_sequences True)"
        )
    engine = getattr(args, "hf_deepspeed_config", None)
    values["zero_stage"] = engine.get_value("zero_optimization.stage") if engine else None
    return {name: str(value) for name, value in values.items()}


def _pair_flags(sea: SeaArguments) -> str | bool:
    """Return the flags of pairs that are not the defaults, else True.

    Keys of their own would be missing from the run.json of runs begun before these flags were.
    """
    given = {
        "--sea_positives": (sea.sea_positives, "one"),
        "--sea_targets": (sea.sea_targets, "drawn"),
        "--sea_mask_own_top_n": (sea.sea_mask_own_top_n, False),
    }
    flags = [f"{flag} {value}" for flag, (value, usual) in given.items() if value != usual]
    return " ".join(flags) or True


def find_checkpoint(output_dir: Path, requested: str | bool | None) -> str | None:
    """Return the checkpoint to go on from: the one asked for, else the latest complete one.

    What is returned here is loaded, DeepSpeed's pickles too: only this run's own folder is taken.

    Raises:
        UserError: if the one asked for is not there, or the checkpoint is damaged.
    """
    wanted = str(requested) if requested is not None else "true"
    if wanted.lower() in ("false", "0", "no"):
        if complete_checkpoints(output_dir):
            raise UserError(
                f"--resume_from_checkpoint {requested}: {output_dir} holds checkpoints, which a "
                "fresh run would overwrite; choose another --output_dir"
            )
        return None
    if wanted.lower() in ("true", "1", "yes"):
        complete = complete_checkpoints(output_dir)
        if not complete:
            return None
        path = complete[-1]
    else:
        path = Path(wanted)
        if not path.is_dir():
            raise UserError(f"--resume_from_checkpoint {path}: no such folder")
        if path.resolve().parent != output_dir.resolve():
            raise UserError(
                f"--resume_from_checkpoint {path}: not a checkpoint of --output_dir {output_dir}. "
                "A run goes on in its own folder; to start from another one's weights pass its "
                "mm_projector.bin as --pretrain_mm_mlp_adapter"
            )
    verify(path)
    logger.info("going on from %s", path)
    return str(path)


def log_trainable(model: WrappedLlava) -> None:
    """Log what is trained and what is frozen, with counts."""
    logger.info("%-16s %14s %14s", "part", "trainable", "frozen")
    for name, modules in model.parts().items():
        counts = {True: 0, False: 0}
        for parameter in {p for module in modules for p in module.parameters()}:
            counts[parameter.requires_grad] += getattr(parameter, "ds_numel", parameter.numel())
        logger.info("%-16s %14s %14s", name, f"{counts[True]:,}", f"{counts[False]:,}")


def save_initial_projector(trainer: LLaVATrainer, output_dir: Path) -> None:
    """Keep the projector as it was before the first step, for the report's "before"."""
    state = projector_state(trainer.wrapped.projector)
    if trainer.args.process_index == 0:
        save_projector(output_dir / INITIAL_PROJECTOR, state)


def dry_save(trainer: LLaVATrainer, output_dir: Path) -> None:
    """Save the untrained model and delete it again: what would fail at the end fails now.

    Raises:
        UserError: if it cannot be saved, or a checkpoint would not fit on the disk.
    """
    folder = output_dir / DRY_SAVE
    writes = trainer.args.process_index == 0
    if writes:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        trainer.saver.save(trainer.wrapped, folder, write=writes)
        if not writes or trainer.args.save_strategy == "no":
            return
        model_bytes = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        trained = (p for p in trainer.wrapped.parameters() if p.requires_grad)
        optimizer_bytes = ADAM_BYTES * sum(getattr(p, "ds_numel", p.numel()) for p in trained)
        free = shutil.disk_usage(output_dir).free + model_bytes
        # The model twice: in the checkpoint and at the end.
        needed = 2 * model_bytes + optimizer_bytes
        if free < needed:
            raise UserError(
                f"--output_dir {output_dir}: {free / 1e9:.1f} GB are free and a checkpoint needs "
                f"{needed / 1e9:.1f}; make room, choose another folder, or pass --save_strategy no"
            )
    except Exception as error:
        failed = failed_write(error, output_dir)
        if failed is None:
            raise
        raise UserError(cannot_write(failed, "Nothing has been trained yet")) from error
    finally:
        if writes:
            shutil.rmtree(folder, ignore_errors=True)


def is_finished(checkpoint: str) -> bool:
    """Say whether a checkpoint is its run's last: Trainer would go one past --max_steps."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text())
    return int(state["global_step"]) >= int(state["max_steps"])


def finish_from(checkpoint: Path, output_dir: Path) -> None:
    """Put a last checkpoint's results into the output folder, those that are not there or damaged.

    Args:
        checkpoint: verified; its checksums are those of the results too.
        output_dir: the run's folder.
    """
    sums = read_checksums(checkpoint)
    for path in checkpoint.iterdir():
        target = output_dir / path.name
        of_the_trainer = any(path.match(pattern) for pattern in TRAINER_FILES)
        if not path.is_file() or of_the_trainer or _is_whole(target, sums[path.name]):
            continue
        if target.exists():
            logger.warning("%s is not as the run left it; copied from %s", target, checkpoint.name)
        with path.open("rb") as source, open_atomically(target) as copy:
            shutil.copyfileobj(source, copy)
    for left in output_dir.glob(".saving-*"):  # of a run killed while it wrote the results
        remove(left)
    logger.info("%s: this run has finished; nothing is left to train", output_dir)


def _is_whole(path: Path, sha256: str) -> bool:
    """Compare a result with its checksum; the trainer's state goes on after the checkpoint."""
    try:
        if path.name == "trainer_state.json":
            return isinstance(json.loads(path.read_bytes()), dict)
        return sha256_file(path) == sha256
    except (OSError, ValueError):
        return False


def check_size(num_records: int, args: TrainingArguments) -> None:
    """Refuse data of which --dataloader_drop_last leaves nothing."""
    whole = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and num_records < whole:
        raise UserError(
            f"--data_path: {num_records} records are fewer than a batch over all devices ({whole}),"
            " and --dataloader_drop_last True leaves none; drop the flag or lower the batch size"
        )


def log_losses_of_labels(num_without_labels: int, words: WordTokens | None) -> None:
    """Say what of the labels cannot be used."""
    if num_without_labels:
        logger.warning("%d records have pictures without labels", num_without_labels)
    if words is not None and words.num_dropped:
        logger.warning(
            "%d words of the list have more than 16 tokens, or ones that are unknown or beyond the "
            "embedding table, and can be no target",
            words.num_dropped,
        )


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the log; it may be gone, or a line of it half written, and the results are whole."""
    rows = []
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise TypeError("no JSON object")
            rows.append(row)
        except (ValueError, TypeError) as error:
            logger.warning("%s, line %d: cannot be read (%s); left out", path, number, error)
    return rows


def summary(output_dir: Path) -> str:
    """Return the numbers before and after, read back from metrics.jsonl."""
    rows = _read_metrics(output_dir / "metrics.jsonl")
    names = {
        "lm_loss": "L_g (training)",
        "sea_loss": "L_a",
        "temperature": "tau",
        "eval_lm_loss": "L_g (held out)",
        "eval_tacs": "TACS",
        "eval_gap": "modality gap",
        "eval_gap_unit": "  between unit vectors",
        "eval_visual_length": "visual tokens' length",
        "eval_embedding_length": "embedding rows' length",
        "eval_nearest_word_precision": "nearest word right",
        "eval_nearest_word_precision_objects": "  on objects",
        "eval_nearest_word_in_caption": "nearest word in caption",
    }
    lines = [f"{'':24s}{'first':>10s}{'last':>10s}"]
    for key, name in names.items():
        values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        if values:
            lines.append(f"{name:24s}{values[0]:10.4f}{values[-1]:10.4f}")
    projector = output_dir / "mm_projector.bin"
    result = f"projector: {projector}" if projector.exists() else f"model: {output_dir}"
    return "\n".join([*lines, result])
