"""Before anything else: logging, and the process group, made early and left cleanly."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings

import torch
import torch.distributed as dist
from transformers.utils import logging as hf_logging

from llava_sea.terminal import log_to

SHARED_MEMORY_OP = "deepspeed_shm_comm"

_left = False


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


def start_engine() -> None:
    """Make the process group of a DeepSpeed run before anything asks for the number of ranks.

    Made later, the batch sizes are worked out for one rank, and so is ZeRO-3's partitioning.
    """
    if "WORLD_SIZE" in os.environ and any(a.startswith("--deepspeed") for a in sys.argv):
        init_distributed()


def init_distributed() -> None:
    """Make DeepSpeed's process group, on CPUs with gloo's all-reduce.

    DeepSpeed would compile one of its own in every rank at once: half a minute, a compiler and
    3 GB that a first run has to have, and a lock that an interrupted one leaves behind, on which
    the next would wait for ever.
    """
    import deepspeed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    deepspeed.ops.__compatible_ops__[SHARED_MEMORY_OP] = False
    atexit.register(_skip_destructors)
    deepspeed.init_distributed(verbose=False)


def leave() -> None:
    """Leave the group at a run's end, all ranks together; without a group there is nothing to do.

    What a thread of gloo's may still do while the interpreter is torn down aborts the process now
    and then ("terminate called without an active exception"), with all work done. So nothing is
    torn down: after this a rank ends when its exit handlers have run.
    """
    global _left
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        _left = True


def _skip_destructors() -> None:
    if _left:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
