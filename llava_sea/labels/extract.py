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

import hashlib
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
from llava_sea.ranges import check_range, whole
from llava_sea.terminal import log_to

if TYPE_CHECKING:  # --help must not wait for torch
    from llava_sea.labels.mine import CorpusImage, Plan
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
    from llava_sea.labels.mine import load_encoder, mine_shards

    options, ranks = options.resolved(), ranks or Processes()
    output, device = Path(options.output_dir), own_device(options.device, ranks)
    encoder: PatchEncoder | None = None

    def prepare() -> tuple[Plan, dict[str, Any]] | None:
        nonlocal encoder
        made, encoder = _prepare(options, device, held)
        return made

    try:
        with naming(output), ExitStack() as held:  # the folder's lock, in the first rank
            made = ranks.first(prepare)
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


def _prepare(
    options: ExtractOptions, device: str, held: ExitStack
) -> tuple[tuple[Plan, dict[str, Any]] | None, PatchEncoder]:
    """Do all that comes before mining; None for a plan if the labels are complete.

    `held` takes the folder's lock.
    """
    import numpy as np

    from llava_sea.data.images import look_for_images
    from llava_sea.data.records import load_records
    from llava_sea.files import check_folder, only_writer
    from llava_sea.labels import state
    from llava_sea.labels.calibration import find_center, find_sign
    from llava_sea.labels.mine import Plan, distinct_images, load_encoder
    from llava_sea.labels.text_features import TextEncoder, encode_to_disk
    from llava_sea.labels.words_file import read_words

    output = Path(options.output_dir)
    check_folder(output, "--output_dir")
    images, captions = distinct_images(load_records(options.data_path))
    look_for_images(options.image_folder, images)
    encoder = load_encoder(options, device)
    parameters = _parameters(options, images, encoder)
    if state.is_complete(output, parameters):
        state.clean_up(output)  # a kill may have come just before it
        logger.info("the labels in %s are complete and fit these flags: nothing to do", output)
        return None, encoder
    state.check_output(output, parameters)
    output.mkdir(parents=True, exist_ok=True)
    busy = f"--output_dir {output}: another extraction is writing there; wait for it to end"
    held.enter_context(only_writer(output / ".lock", busy))
    state.begin_or_resume(output, parameters)
    work = state.work_folder(output)
    _copy_words(Path(options.words), output, parameters["words_sha256"])
    words = [entry.word for entry in read_words(output / "words.tsv")]
    texts = TextEncoder.from_pretrained(options.vision_tower, encoder.model)
    vectors = encode_to_disk(work, texts, words, options.word_template)
    center_D = find_center(output, options, encoder, images)
    sign, measured = find_sign(work, options, encoder, images, captions, words, vectors, center_D)
    fields = parameters | {
        "sign": sign,
        "sign_measured": measured,
        "num_words": len(words),
        "num_words_too_long": vectors.num_too_long,
        "encoder": options.vision_tower,
        "preset": options.sea_preset,
        "center_length": None if center_D is None else round(float(np.linalg.norm(center_D)), 6),
        "data_path": options.data_path,
    }
    plan = Plan(options, images, vectors, sign, center_D, parameters["grid"])
    return (plan, fields), encoder


def _parameters(
    options: ExtractOptions, images: list[CorpusImage], encoder: PatchEncoder
) -> dict[str, Any]:
    """Return all that decides the labels; a resumed run must agree on it."""
    from llava_sea.alignment.label_store import FORMAT
    from llava_sea.files import sha256_file
    from llava_sea.labels.mine import ImageLoader
    from llava_sea.labels.words_file import read_words

    num_words = len(read_words(options.words))  # a broken list is an error before any is written
    why = f"{options.words} holds so many words"
    check_range("sea_top_n", options.sea_top_n or 0, whole(1, num_words), why)
    geometry = ImageLoader(options).transform.geometry()
    names = "\0".join(image.image for image in images)
    parameters = {
        "format": FORMAT,
        "words_sha256": sha256_file(Path(options.words)),
        "images_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "encoder_fingerprint": encoder.fingerprint,
        "features": options.sea_features,
        "sign_choice": options.sea_sign,
        "center": options.sea_center,
        "top_n": options.sea_top_n,
        "grid": encoder.grid_of(*geometry["resolution"]),
        "geometry": geometry,
        "dtype": options.dtype,
        "word_template": options.word_template,
        "shard_size": options.shard_size,
    }
    if options.sea_sign == "auto" or options.sea_center != "none":
        parameters["sign_sample"] = options.sign_sample
    return parameters


def own_device(device: str, ranks: Processes | None = None) -> str:
    """Return the device of this process: a GPU of its own, or its share of the CPU's threads.

    Raises:
        UserError: if a GPU is wanted and none is visible.
    """
    import torch

    ranks = ranks or Processes()
    count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device == "cuda" and not count:
        raise UserError("--device cuda: no GPU is visible; use --device cpu")
    if count > 1 and ranks.count == 1:
        logger.warning("one of %d GPUs is used: scripts/extract_labels.sh uses all", count)
    if count:
        return f"cuda:{ranks.local_rank % count}"
    torch.set_num_threads(max(1, torch.get_num_threads() // ranks.count))
    return "cpu"


def _copy_words(source: Path, output: Path, sha256: str) -> None:
    from llava_sea.files import LIST_BYTES, read_file, write_atomically

    target = output / "words.tsv"
    if target.exists() and source.samefile(target):
        return
    data = read_file(source, LIST_BYTES)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"--words {source} was changed while this command started; run it again")
    write_atomically(target, data)


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
