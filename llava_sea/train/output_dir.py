"""A run's output folder: whose it is, that nobody else writes there, that a checkpoint fits.

``run.json`` says which run the folder belongs to: every flag that is not the default, but for those
that change nothing in what is trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psutil
import torch

from llava_sea.data.records import Records
from llava_sea.errors import UserError
from llava_sea.files import (
    only_writer,
    read_object,
    refuse_other_things,
    sha256_file,
    write_atomically,
)
from llava_sea.model.load import find_template
from llava_sea.model.wrapped import WrappedLlava
from llava_sea.templates import AUTO
from llava_sea.train.arguments import Arguments, TrainingArguments
from llava_sea.train.checkpoint import complete_checkpoints
from llava_sea.train.saving import Saver, count, trained

logger = logging.getLogger(__name__)

RUN = "run.json"

WAIT_S = 60.0
"""Seconds to wait for the former run's processes: told to end, they first save a checkpoint."""

ADAM_BYTES = 12
"""Of a trained parameter in a checkpoint: its float32 value and Adam's two moments."""

RESULTS = (
    "checkpoint-*",
    "config.json",
    "mm_projector.bin",
    "non_lora_trainables.bin",
    "model*.safetensors*",
    "pytorch_model*.bin*",
    "adapter_*",
    "tokenizer*",
)
"""Files and folders that a run, or another software's checkpoint, consists of."""

FIRST = ("metrics.jsonl", "mm_projector_initial.bin", "runs")
"""Left by a run that ended before its first checkpoint, beside its `RUN`."""

PATHS = ("model_name_or_path", "vision_tower", "pretrain_mm_mlp_adapter", "image_folder")
"""Of a run's identity, those that may be spelled in several ways."""

NOT_IDENTITY = (
    *("output_dir", "resume_from_checkpoint", "cache_dir", "do_*"),
    *("save_*", "enable_jit_checkpoint", "hub_*", "push_to_hub*", "restore_callback_states*"),
    *("logging_*", "log_*", "report_to", "run_name", "disable_tqdm", "project", "trackio_*"),
    *("include_*", "skip_memory_metrics", "debug", "eval_*", "per_device_eval_batch_size"),
    *("prediction_loss_only", "batch_eval_metrics", "sea_eval_*", "sea_preset"),
    *("dataloader_num_workers", "dataloader_p*", "ignore_data_skip", "local_rank", "ddp_*"),
    # where and how fast it is computed
    *("deepspeed", "use_cpu", "tf32", "torch_*", "attn_implementation", "auto_find_batch_size"),
    *("gradient_checkpointing*", "activation_checkpointing*", "use_liger_kernel", "liger_*"),
    *("data_path", "sea_labels"),  # their contents count
)
"""Patterns of the flags that may differ when a run is resumed; all others, new ones too, may not.

What the preset decides is in flags of its own; of DeepSpeed's file the stage counts.
"""


def identity(arguments: Arguments, records: Records) -> dict[str, str]:
    """Return everything that must agree for a run to be resumed, by flag.

    A flag that has its default is left out, so that one that is new tomorrow says nothing today.
    """
    model_args, data_args, sea, args = arguments
    values: dict[str, Any] = {}
    groups: list[Any] = [model_args, data_args, args, *([sea] if sea.enabled else [])]
    for group in groups:
        for field in dataclasses.fields(group):
            name, value = field.name, getattr(group, field.name)
            counts = field.init and not any(fnmatch(name, pattern) for pattern in NOT_IDENTITY)
            if counts and value != field.default:
                values[name] = value
    if model_args.version == AUTO:
        llm = model_args.model_name_or_path
        jinja = find_template(AUTO, llm, args.cache_dir).jinja
        values["chat_template_sha256"] = hashlib.sha256(jinja.encode()).hexdigest()
    values["data_sha256"] = records.sha256
    with_image = int((records.num_images > 0).sum())
    values["records"] = f"{len(records)} ({with_image} with an image)"
    if sea.enabled:
        manifest = Path(str(sea.sea_labels)) / "manifest.json"
        values["sea_labels_sha256"] = sha256_file(manifest) if manifest.is_file() else ""
    engine = getattr(args, "hf_deepspeed_config", None)
    values["zero_stage"] = engine.get_value("zero_optimization.stage") if engine else None
    values["world_size"] = args.world_size
    return {name: str(value) for name, value in values.items()}


@contextmanager
def only_run(
    output_dir: Path, run: Mapping[str, Any], *, resume_from: object = None, write: bool = True
) -> Iterator[bool]:
    """Claim an output folder, as `claim_output_dir`, and hold it against a second run.

    Yields:
        Whether it is held; not without `write`, nor on a file system without locks.

    Raises:
        UserError: as `claim_output_dir`, or if another process writes into the folder.
    """
    claim_output_dir(output_dir, run, resume_from=resume_from, write=False)
    if not write:
        yield False
        return
    busy = (
        f"--output_dir {output_dir}: another process is writing there; a run that was just ended "
        "may need a minute to save. Wait for its end, or choose another folder"
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    with only_writer(output_dir / ".lock", busy, patience=WAIT_S) as held:
        claim_output_dir(output_dir, run, resume_from=resume_from)
        yield held


def claim_output_dir(
    output_dir: Path, run: Mapping[str, Any], *, resume_from: object = None, write: bool = True
) -> None:
    """Tie an output folder to a run, or check that it is the same run's.

    A folder that holds other things is refused. A data file that was fixed is accepted: where
    nothing else differs, the number of records with and without an image (``records``) is the
    same, and a checkpoint of the folder is named as ``--resume_from_checkpoint``. Without `write`
    this only checks, as all ranks but the first do.

    Raises:
        UserError: if checkpoints of another run are there; names what differs.
    """
    path = output_dir / RUN
    if not path.is_file():
        refuse_other_things(output_dir, "--output_dir", (RUN,))  # another rank may just write it
    elif not any(True for pattern in RESULTS for _ in output_dir.glob(pattern)):
        refuse_other_things(output_dir, "--output_dir", (RUN, *FIRST))
    else:
        former = read_object(
            path,
            "so nothing says which run the results beside it belong to. Nothing was changed; put a "
            "copy of the file there, or choose another --output_dir",
        )
        fixed = _check_same(output_dir, former, run, resume_from)
        if fixed and write:
            logger.warning(
                "%s: resuming with a data file that has changed since the run began, as named by "
                "--resume_from_checkpoint; with --group_by_modality_length a changed record may "
                "come twice or not at all in this epoch",
                output_dir,
            )
    if write:
        write_atomically(path, json.dumps(dict(run), indent=1).encode())


def _check_same(
    output_dir: Path, former: Mapping[str, Any], run: Mapping[str, Any], resume_from: object
) -> bool:
    """Refuse another run's folder; say whether the data file alone has changed, as is allowed."""
    differing = [
        key
        for key in dict.fromkeys([*run, *former])
        if key != "records"  # the data's checksum says more
        and former.get(key) != run.get(key)
        and not (key in PATHS and _same_place(former.get(key), run.get(key)))
    ]
    if not differing:
        return False
    complete = complete_checkpoints(output_dir)
    if differing == ["data_sha256"] and complete:
        if former.get("records") != run.get("records"):
            then = former.get("records", "an unknown number")
            raise UserError(
                f"--output_dir {output_dir}: the data file has changed since this run began, and "
                f"holds {run.get('records')} records now, {then} then: its order "
                "is another, so it cannot be resumed. Nothing was changed; choose another folder"
            )
        named = Path(str(resume_from)).resolve()
        if resume_from is None or named not in [path.resolve() for path in complete]:
            raise UserError(
                f"--output_dir {output_dir}: the data file has changed since this run began. To "
                "resume with it as it is now (the same records, fixed), name the checkpoint: "
                f"--resume_from_checkpoint {complete[-1]}; else choose another folder. Nothing was "
                "changed"
            )
        return True

    def told(values: Mapping[str, Any], key: str) -> str:
        return repr(values[key]) if key in values else "the default"

    details = "; ".join(f"{k}: {told(former, k)} there, {told(run, k)} now" for k in differing)
    raise UserError(
        f"--output_dir {output_dir}: holds the results of another run ({details}). "
        "Nothing was changed; choose another folder, or that run's flags to resume it"
    )


def _same_place(one: Any, other: Any) -> bool:
    """Say whether two spellings of a path (relative, absolute, through a link) are one place."""
    try:
        return os.path.samefile(str(one), str(other))
    except OSError:
        return False


def check_room(
    model: WrappedLlava, saver: Saver, args: TrainingArguments, output_dir: Path
) -> None:
    """Tell what the run needs, and see that it is there: what would fail later fails now.

    The memory is that of gradients and optimizer, which come on top of the model that is loaded;
    activations are not counted.

    Raises:
        UserError: if the disk or the memory is too small.
    """
    learned = count(trained(model))
    needed = saver.num_bytes(model)
    if args.save_strategy != "no":  # the model twice: in the checkpoint and at the end
        needed = 2 * needed + ADAM_BYTES * learned
    free = shutil.disk_usage(output_dir).free
    if free < needed:
        raise UserError(
            f"--output_dir {output_dir}: {free / 1e9:.1f} GB are free and the results need "
            f"{needed / 1e9:.1f}; make room, choose another folder, or pass --save_strategy no"
        )
    engine = getattr(args, "hf_deepspeed_config", None)
    split = engine is not None and (engine.is_zero2() or engine.is_zero3())
    partitions = args.world_size if split else 1
    # At least: an engine keeps float32 copies of 16-bit weights, others train float32 ones.
    each = (4 + 2) if engine else 4
    each += 8 if args.optim in ("adamw_torch", "adamw_torch_fused") else 0
    state = each * learned // partitions
    offloaded = engine is not None and engine.is_offload()
    on_gpu = args.device.type == "cuda" and not offloaded
    if on_gpu:
        memory = torch.cuda.mem_get_info(args.device)[0]
    else:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        memory = psutil.virtual_memory().available // max(1, here)
    logger.info(
        "the results take up to %.2f GB on disk (%.1f are free); gradients and optimizer %.2f GB "
        "of %s memory in each process (%.1f are free)",
        needed / 1e9,
        free / 1e9,
        state / 1e9,
        "GPU" if on_gpu else "main",
        memory / 1e9,
    )
    if memory < state:
        raise UserError(
            f"{learned / 1e6:.1f} million parameters are trained: gradients and optimizer need "
            f"{state / 1e9:.1f} GB of memory in each process, {memory / 1e9:.1f} are free. Pass "
            "--lora_enable True, --deepspeed zero_configs/zero3.json with more devices, or "
            "zero3_offload.json"
        )


def check_size(num_records: int, args: TrainingArguments) -> None:
    """Refuse data of which --dataloader_drop_last leaves nothing."""
    whole = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and num_records < whole:
        raise UserError(
            f"--data_path: {num_records} records are fewer than a batch over all devices ({whole}),"
            " and --dataloader_drop_last True leaves none; drop the flag or lower the batch size"
        )
