r"""From a corpus and its images to labels for every patch: SEA 3.1, the command.

    python -m llava_sea.labels.extract --data_path pretrain.json --image_folder images \
        --vision_tower clip --words words.tsv --output_dir labels

Alone, or as ranks of a launcher, or started by hand on several machines: processes that share a
file system and claim what is to be done (`llava_sea.labels.claims`). One encodes the words (eq. 7),
one finds the mean patch if it is wanted, one the sign. Then all go from images to patches (eq. 6)
and from patches to words (eq. 8), shard by shard, and the last makes the store. Those that are
killed hold nobody up: the others, or the same command, resume where they were cut off. The result
is read by `llava_sea.alignment.label_store.LabelStore`.
"""

from __future__ import annotations

import logging
import math
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llava_sea.errors import UserError, cannot_write, naming, run_command
from llava_sea.labels.options import ExtractOptions, parse_options
from llava_sea.processes import Processes
from llava_sea.progress import Progress
from llava_sea.terminal import log_to

if TYPE_CHECKING:  # --help must not wait for torch
    from llava_sea.labels.claims import Claims

logger = logging.getLogger("llava_sea.labels.extract")


def extract_labels(options: ExtractOptions, ranks: Processes | None = None) -> Path:
    """Mine the labels of a corpus's images, or finish an earlier run.

    This process is one of `ranks`, or alone; with any others that work in the folder it shares.

    Raises:
        UserError: if the flags, the data, an image or the output folder are wrong.
        FailedElsewhereError: if they were in another process, and the first here says so.
    """
    from llava_sea.labels import state
    from llava_sea.labels.claims import Claims, is_there

    options, ranks = options.resolved(), ranks or Processes()
    output = Path(options.output_dir)
    claims = Claims(state.work_folder(output) / "claims", speaks=ranks.local_rank == 0)
    try:
        with naming(output):
            _extract(options, ranks, claims)
    except (UserError, OSError) as error:
        if claims.joined and is_there(output / "manifest.json"):
            state.clean_up(output)
            return output  # the others were done, and cleaned up, before this one had seen it
        told = error
        if isinstance(error, OSError):
            told = UserError(cannot_write(error, "Finished shards are whole and kept"))
        claims.fail(str(told))
        raise told from (None if told is error else error)
    finally:
        claims.close()
    return output


def _extract(options: ExtractOptions, ranks: Processes, claims: Claims) -> None:
    from llava_sea.alignment.label_store import finalize_store
    from llava_sea.labels import state
    from llava_sea.labels.claims import is_there
    from llava_sea.labels.mine import claim_shards, mine_shards, own_device
    from llava_sea.labels.prepare import prepare

    output, device = Path(options.output_dir), own_device(options.device, ranks)
    made = prepare(options, device, claims)
    if made is None:
        return
    plan, fields, encoder = made
    pending = plan.pending()
    count = sum(len(plan.shard(number)) for number in pending)
    an_image = math.prod(plan.grid) * (options.sea_top_n or 0) * 5
    free, vectors = shutil.disk_usage(output).free, Path(plan.vectors.path).stat().st_size
    logger.info(
        "%d images, %d to do in %d shards, %d process(es), the first on %s; the labels "
        "take %.2f GiB (%.1f are free), the words' vectors %.2f GiB of memory",
        *(len(plan.images), count, len(pending), ranks.count, device),
        *(len(plan.images) * an_image / 2**30, free / 2**30, vectors / 2**30),
    )
    if free < count * an_image:
        raise UserError(
            f"--output_dir {output}: {free / 2**30:.2f} GiB are free and the labels that are left "
            f"need {count * an_image / 2**30:.2f}; make room or choose another folder"
        )
    with Progress("images", count, shown=ranks.rank == 0) as progress:

        def report(images: int) -> None:
            claims.check()
            progress.update(images)

        first = pending[len(pending) * ranks.rank // ranks.count] if pending else 0
        mine_shards(plan, claim_shards(plan, claims, first, progress.update), encoder, report)
    manifest = output / "manifest.json"
    claims.once(
        "finish",
        lambda: is_there(manifest),
        lambda: finalize_store(output, fields, plan.num_shards),
    )
    state.clean_up(output)
    _tell(output, len(plan.images))


def _tell(output: Path, num_images: int) -> None:
    """Name the skipped images."""
    from llava_sea.alignment.label_store import LabelStore

    skipped = LabelStore(output).skipped
    for image, reason in list(skipped.items())[:10]:
        logger.warning("no labels for %s: %s", image, reason)
    if skipped:
        logger.warning("%d images have no labels; manifest.json lists them all", len(skipped))
    logger.info("%d images are labelled: %s", num_images - len(skipped), output)


def main() -> None:
    """Run the command."""
    options = parse_options()
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    log_to(sys.stdout)
    ranks = Processes.here()
    # All ranks but the first would say the same once more.
    logging.getLogger("llava_sea").setLevel(logging.ERROR if ranks.rank else logging.INFO)
    extract_labels(options, ranks)


if __name__ == "__main__":
    run_command(main)
