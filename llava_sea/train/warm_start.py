"""A warm start of the projector: L_a alone, without running the LLM, before stage 1.

``python -m llava_sea.train.warm_start`` takes stage 1's flags (``--max_steps``, or epochs), of
which it needs ``--sea_labels``. It writes an ``mm_projector.bin`` for stage 1's
``--pretrain_mm_mlp_adapter`` and the temperature, and ends with the flags that go on from both,
which are also in ``stage1_flags``, a word a line (``scripts/pretrain_sea.sh`` reads it). Of
the LLM only the embedding table is read, so it fits where stage 1 does not; data, draws and loss
are those of stage 1.

Limits: one process, one device, no DeepSpeed. It writes at its end alone: cut off, it starts anew
(a step costs the vision tower and the projector). lambda and its schedule play no part, and nothing
is measured on held-out records: that needs the LLM.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
from pathlib import Path

import transformers
from torch import nn
from transformers.training_args import OptimizerNames

from llava_sea.alignment import AlignmentHead
from llava_sea.data.records import load_records
from llava_sea.errors import UserError, run_command
from llava_sea.files import sha256_file, write_atomically
from llava_sea.model.embedding import build_llava_without_llm
from llava_sea.model.stage1 import Stage1Model
from llava_sea.terminal import say
from llava_sea.train import arithmetic, run, stage1
from llava_sea.train.arguments import ModelArguments, SeaArguments, TrainingArguments
from llava_sea.train.checkpoint import clean_up, only_run
from llava_sea.train.llava_config import llava_config, llava_parts
from llava_sea.train.parse import parse_args
from llava_sea.train.saving import STAGE1_FILES, Stage1Saver
from llava_sea.train.stage_flags import check_stage
from llava_sea.train.warm_start_loop import train

logger = logging.getLogger(__name__)

FLAGS_FILE = "stage1_flags"
"""Written last: where it is, the warm start has finished."""

SUMS_FILE = "results.sha256"


def main() -> None:
    """Run the command line.

    Raises:
        UserError: if a flag, a file or the output folder is wrong.
    """
    run.set_up_logging()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("the warm start runs in one process: start it with python, on one device")
    model_args, data_args, sea, args = parse_args()
    model_args.tune_mm_mlp_adapter = True  # whether given or not: the projector is all there is
    check_flags(sea, args)
    check_stage(model_args, sea, args)
    transformers.set_seed(args.seed)
    output_dir = Path(args.output_dir or ".")
    records = load_records(data_args.data_path)
    transform = stage1.image_transform(model_args, data_args)
    identity = run.identity(model_args, data_args, sea, args) | {"command": "warm_start"}
    with only_run(output_dir, identity) as alone:
        if alone:
            clean_up(output_dir)
        if is_finished(output_dir):
            say(f"{output_dir}: this warm start has finished\n{how_to_go_on(output_dir)}")
            return
        model = build_model(model_args, sea, args)
        _, dataset, collator = stage1.build_data(
            records, transform, model, model_args, data_args, sea, args
        )
        run.check_size(len(dataset), args)
        train(model, dataset, collator, args, output_dir / "metrics.jsonl")
        saver = Stage1Saver(llava_config(model.llava, model_args, data_args, args))
        saver.save(model, output_dir, write=True)
        write_atomically(output_dir / SUMS_FILE, _sums(output_dir).encode())
        words = "\n".join(stage1_flags(output_dir))
        write_atomically(output_dir / FLAGS_FILE, f"{words}\n".encode())
    say(how_to_go_on(output_dir))


def is_finished(output_dir: Path) -> bool:
    """Say whether a warm start has finished and its results are as it wrote them."""
    if not (output_dir / FLAGS_FILE).exists():
        return False
    sums = output_dir / SUMS_FILE
    if not sums.exists() or sums.read_text(errors="replace") == _sums(output_dir):
        return True
    logger.warning(
        "%s: the results do not match %s; the warm start runs again", output_dir, SUMS_FILE
    )
    return False


def _sums(output_dir: Path) -> str:
    """Return the results' checksums, as sha256sum prints them."""
    files = (output_dir / name for name in (*STAGE1_FILES, "metrics.jsonl"))
    return "".join(f"{sha256_file(path)}  {path.name}\n" for path in files if path.is_file())


def check_flags(sea: SeaArguments, args: TrainingArguments) -> None:
    """Refuse what the warm start cannot do, and say what it leaves out.

    Raises:
        UserError: naming the flag and the way out.
    """
    if not sea.enabled:
        raise UserError("--sea_labels is missing (or --sea_weight is 0): there is nothing to learn")
    if args.deepspeed:
        raise UserError("--deepspeed: leave it out, the warm start runs in one process without it")
    optimizer = OptimizerNames(args.optim).value
    if optimizer not in ("adamw_torch", "adamw_torch_fused"):
        raise UserError(f"--optim {optimizer}: leave it out, the warm start has AdamW alone")
    if str(args.resume_from_checkpoint).lower() not in ("none", "", "false", "0", "no"):
        raise UserError(
            "--resume_from_checkpoint: leave it out, a warm start writes at its end alone"
        )
    if args.fp16:
        raise UserError("--fp16 True: use --bf16 True, or neither")
    if args.use_liger_kernel:
        raise UserError(
            "--use_liger_kernel True: leave it out, the warm start does not run the LLM"
        )
    if sea.sea_eval_data is not None:
        logger.warning("--sea_eval_data is left out: its measures need the LLM")


def build_model(
    model_args: ModelArguments, sea: SeaArguments, args: TrainingArguments
) -> Stage1Model:
    """Build stage 1's model with an embedding table for an LLM, on its device."""
    dtype, attention = arithmetic.dtype_and_attention(args, None)
    llava = build_llava_without_llm(
        **llava_parts(model_args, args), dtype=dtype, attention=attention
    )
    head = AlignmentHead(sea.sea_log_scale_init or 0.0)
    model = Stage1Model(llava, head)
    model.trainable_to_float32()
    embeddings: nn.Module = llava.get_input_embeddings()
    for part in (model.vision_tower, model.projector, head, embeddings):
        part.to(args.device)
    run.log_trainable(model)
    return model


def stage1_flags(output_dir: Path) -> list[str]:
    """Return the flags with which stage 1 goes on from here, flags and values in turn."""
    last = json.loads((output_dir / "metrics.jsonl").read_text().splitlines()[-1])
    log_scale = min(-math.log(last["temperature"]), 4.605)  # rounded up, ln 100 would be refused
    projector = str(output_dir / "mm_projector.bin")
    return ["--pretrain_mm_mlp_adapter", projector, "--sea_log_scale_init", f"{log_scale:.4f}"]


def how_to_go_on(output_dir: Path) -> str:
    """Return the line that is printed at the end."""
    return f"stage 1 goes on from it with\n  {shlex.join(stage1_flags(output_dir))}"


if __name__ == "__main__":
    run_command(main)
