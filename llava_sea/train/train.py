"""Training, both stages: the projector on captions (SEA), then the model on instructions.

Reads as the run goes: flags, what can be refused, model and data, training, what came out.
Started by ``deepspeed llava_sea/train/train_mem.py ...`` or, on one device, by ``python``.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging as hf_logging

from llava_sea.data.image_source import open_images
from llava_sea.data.images import ImageTransform, look_for_images
from llava_sea.data.records import open_records
from llava_sea.errors import EXIT_STATUS, UserError, naming, run_command
from llava_sea.model.load import is_llava
from llava_sea.model.towers import tower_config
from llava_sea.terminal import log_to, say
from llava_sea.train import stage1, stage2
from llava_sea.train.arguments import Arguments, SeaArguments
from llava_sea.train.checkpoint import clean_up, find_checkpoint, finish_from, is_finished
from llava_sea.train.metrics import MetricsFile, ProgressLine, summary
from llava_sea.train.output_dir import check_room, check_size, identity, only_run
from llava_sea.train.parse import check_stage, parse_args
from llava_sea.train.precision import weights_dtype
from llava_sea.train.stop import StopOnSignal
from llava_sea.train.trainer import LLaVATrainer

logger = logging.getLogger(__name__)


def train(pick_attention: Callable[[torch.dtype], str | None] = lambda dtype: None) -> None:
    """Run the stage that the flags of the command line name.

    Where they name no attention, `pick_attention` does for weights of a dtype; None leaves it to
    transformers.
    """
    with ExitStack() as held:
        set_up_logging()
        # Made later, batch sizes and ZeRO-3's partitions would be worked out for one rank.
        if "WORLD_SIZE" in os.environ and any(a.startswith("--deepspeed") for a in sys.argv):
            init_distributed()
        arguments = parse_args()
        args = arguments.training
        args.attn_implementation = args.attn_implementation or pick_attention(weights_dtype(args))
        _train(arguments, held)


def _train(arguments: Arguments, held: ExitStack) -> None:
    """Run the stage; what must be let go at the end is entered into `held`."""
    model_args, data_args, sea, args = arguments
    check_stage(arguments)
    stage = stage1 if model_args.tune_mm_mlp_adapter else stage2
    transformers.set_seed(args.seed)
    # Whatever can be refused is refused before anything large is loaded.
    output_dir = Path(args.output_dir or ".")
    records = open_records(data_args.data_path)
    source = open_images(data_args.image_folder, records)
    images = ((record.image, record.id) for record in records if record.image is not None)
    look_for_images(source, images)
    transform = image_transform(arguments)
    run, asked = identity(arguments, records), args.resume_from_checkpoint
    alone = held.enter_context(
        only_run(output_dir, run, resume_from=asked, write=args.process_index == 0)
    )
    resume_from = find_checkpoint(output_dir, asked)
    if alone:
        clean_up(output_dir)
    if resume_from and is_finished(resume_from):
        if args.process_index == 0:
            finish_from(resume_from, output_dir)
            tell_results(output_dir, sea)
        leave()
        return

    parts = stage.prepare(records, source, transform, arguments)
    check_size(len(parts.dataset), args)

    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output_dir / "runs"))
    measure = [parts.measure] if parts.measure else []
    progress = held.enter_context(closing(ProgressLine()))  # its clock starts after measuring
    trainer = make_trainer(parts, arguments, [MetricsFile(), *measure, progress])
    for default in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(default)
    for callback in measure:
        callback.trainer = trainer
    if resume_from is None:
        check_room(parts.model, parts.saver, args, output_dir)
        if stage is stage1:
            stage1.save_initial_projector(trainer.wrapped, arguments)
    stop = StopOnSignal()
    trainer.add_callback(stop)
    try:
        with naming(Path(os.environ["TENSORBOARD_LOGGING_DIR"])):  # all else names itself
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    finally:
        stop.close()
    if stop.stopped and trainer.state.global_step < trainer.state.max_steps:
        logger.warning("stopped after step %d; the same command resumes", trainer.state.global_step)
        sys.exit(EXIT_STATUS)

    # What came out: LLaVA's files, and the numbers before and after.
    with naming(output_dir / "trainer_state.json"):
        trainer.save_state()
    trainer.save_model(args.output_dir)
    if trainer.is_world_process_zero():
        tell_results(output_dir, sea)
    leave()


def make_trainer(parts: Any, arguments: Arguments, callbacks: list[Any]) -> LLaVATrainer:
    """Make the trainer; transformers looks at some flags here alone, and refuses them so."""
    try:
        return LLaVATrainer(
            model=parts.model,
            args=arguments.training,
            train_dataset=parts.dataset,
            data_collator=parts.collator,
            callbacks=callbacks,
            sea=arguments.sea,
            saver=parts.saver,
        )
    except (ImportError, ValueError) as error:
        raise UserError(f"transformers refuses a training flag: {error}") from error


def image_transform(arguments: Arguments) -> ImageTransform:
    """Return the tower's transform; in stage 2 a LLaVA brings its own where no tower is named."""
    model_args = arguments.model
    tower, llm = model_args.vision_tower, model_args.model_name_or_path
    if tower is not None:
        tower_config(tower, arguments.training.cache_dir)  # refuses a kind that is not known
    if tower is None and not model_args.tune_mm_mlp_adapter and is_llava(llm):
        tower = llm
    if tower is None:
        raise UserError(
            "--vision_tower is missing: pass the CLIP, SigLIP or other one to use, in stage 2 that "
            "which stage 1 was trained on"
        )
    return ImageTransform.from_pretrained(tower, arguments.data.image_aspect_ratio)


def tell_results(output_dir: Path, sea: SeaArguments) -> None:
    """Print the numbers before and after; after a warm start also the flags for stage 1."""
    say(summary(output_dir))
    if sea.sea_align_only:
        say(stage1.write_next_flags(output_dir))


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


def init_distributed() -> None:
    """Make DeepSpeed's process group, on CPUs with gloo's all-reduce.

    DeepSpeed would compile one of its own in every rank at once: half a minute, a compiler and
    3 GB that a first run has to have, and a lock that an interrupted one leaves behind, on which
    the next would wait for ever.
    """
    import deepspeed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)


def leave() -> None:
    """Leave the process group, if there is one, all ranks together."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    run_command(train)
