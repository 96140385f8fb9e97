"""How the commands that answer questions start and end, alone or as one of several processes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from llava_sea.processes import Processes
from llava_sea.terminal import log_to, say


def run_shared(work: Callable[[Processes], None]) -> None:
    """Run a command's work as one of the launcher's processes.

    Args:
        work: takes the processes that share it.

    Raises:
        UserError: as the work does.
    """
    # The tokenizer's own threads and ours would be in each other's way.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    log_to(sys.stderr)
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger().setLevel(logging.ERROR)  # it would say the same once more

    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    processes = Processes.start()
    try:
        work(processes)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        processes.stop()
