r"""From a corpus and its images to labels for every patch: SEA 3.1, the command.

    python -m llava_sea.labels.extract --data_path pretrain.json --image_folder images \
        --vision_tower clip --words words.tsv --output_dir labels

Alone or as ranks of a launcher (`llava_sea.processes`), which share the shards. The first rank
checks, encodes the words (eq. 7), finds the mean patch if it is wanted, and the sign. Then all go
from images to patches (eq. 6) and from patches to words (eq. 8), shard by shard. The same command
resumes where a run was cut off, at any moment, with any number of ranks. The result is read by
`llava_sea.alignment.label_store.LabelStore`.
"""

from __future__ import annotations

import logging
import math
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_sea.errors import UserError, cannot_write, naming, run_command
from llava_sea.labels.options import ExtractOptions, parse_options
from llava_sea.processes import Processes
from llava_sea.progress import Progress
from llava_sea.terminal import log_to

if TYPE_CHECKING:  # --help must not wait for torch
    from llava_sea.labels.mine import Plan
    from llava_sea.labels.patch_features import PatchEncoder

logger = logging.getLogger("llava_sea.labels.extract")


def extract_labels(options: ExtractOptions, ranks: Processes | None = None) -> Path:
    """Mine the labels of a corpus's images, or finish an earlier run.

    The processes of `ranks` share the work; None is this one alone.

    Returns:
        The folder of the finished label store.

    Raises:
        UserError: if the flags, the data, an image or the output folder are wrong.
    """
    from llava_sea.labels.mine import load_encoder, mine_shards, own_device
    from llava_sea.labels.prepare import prepare

    options, ranks = options.resolved(), ranks or Processes()
    output, device = Path(options.output_dir), own_device(options.device, ranks)
    encoder: PatchEncoder | None = None

    def first_rank() -> tuple[Plan, dict[str, Any]] | None:
        nonlocal encoder
        made, encoder = prepare(options, device, held)
        return made

    try:
        with naming(output), ExitStack() as held:  # the folder's lock, in the first rank
            made = ranks.first(first_rank)
            if made is None:
                return output
            plan, fields = made
            pending = ranks.first(plan.pending)  # known to all before any adds a shard
            share = ranks.share(pending)
            count = [sum(len(plan.shard(number)) for number in some) for some in (pending, share)]
            logger.info(
                "%d images, %d to do in %d shards, %d process(es), the first on %s; the labels "
                "take %.2f GiB",
                *(len(plan.images), count[0], len(pending), ranks.count, device),
                len(plan.images) * math.prod(plan.grid) * (options.sea_top_n or 0) * 5 / 2**30,
            )
            encoder = encoder or load_encoder(options, device)
            shown = "images" if ranks.count == 1 else f"rank 0 of {ranks.count}: images"
            with Progress(shown, count[1], shown=ranks.rank == 0) as progress:
                mine_shards(plan, share, encoder, progress.update)
            ranks.raise_if_any_failed(None)
            ranks.first(lambda: _finish(plan, fields))
    except OSError as error:
        raise UserError(cannot_write(error, "Finished shards are whole and kept")) from error
    return output


def _finish(plan: Plan, fields: dict[str, Any]) -> None:
    """Verify all shards and make a store of them; name the skipped images."""
    from llava_sea.alignment.label_store import LabelStore, finalize_store
    from llava_sea.labels import state

    output = Path(plan.options.output_dir)
    finalize_store(output, fields, plan.num_shards)
    skipped = LabelStore(output).skipped
    for image, reason in list(skipped.items())[:10]:
        logger.warning("no labels for %s: %s", image, reason)
    if skipped:
        logger.warning("%d images have no labels; manifest.json lists them all", len(skipped))
    state.clean_up(output)
    logger.info("%d images are labelled: %s", len(plan.images) - len(skipped), output)


def main() -> None:
    """Run the command."""
    options = parse_options()
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    log_to(sys.stdout)
    ranks = Processes.start()
    # All ranks but the first would say the same once more.
    logging.getLogger("llava_sea").setLevel(logging.ERROR if ranks.rank else logging.INFO)
    extract_labels(options, ranks)
    ranks.stop()


if __name__ == "__main__":
    run_command(main)
