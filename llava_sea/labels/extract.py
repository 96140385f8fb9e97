r"""From a corpus and its pictures to labels for every patch: SEA 3.1, the command.

    python -m llava_sea.labels.extract --data_path pretrain.json --image_folder images \
        --vision_tower clip --words words.tsv --output_dir labels

Once: check, encode the words (eq. 7), the mean patch if it is wanted, measure the sign. Then, in
one or more processes: pictures to patches (eq. 6), patches to words (eq. 8), shard by shard. The
same command goes on where a run was cut off, at any moment. The result is read by
`llava_sea.alignment.label_store.LabelStore`.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_sea.errors import UserError, cannot_write, naming, run_command
from llava_sea.labels.options import ExtractOptions, parse_options
from llava_sea.progress import OnProgress, counter
from llava_sea.ranges import check_range, whole
from llava_sea.terminal import log_to

if TYPE_CHECKING:  # --help must not wait for torch
    from llava_sea.labels.mine_shards import Plan
    from llava_sea.labels.patch_features import PatchEncoder
    from llava_sea.labels.pictures import Picture

logger = logging.getLogger("llava_sea.labels.extract")


def extract_labels(options: ExtractOptions, progress: OnProgress | None = None) -> Path:
    """Mine the labels of a corpus's pictures, or finish what an earlier run began.

    Args:
        options: what to do; see `ExtractOptions`.
        progress: called now and then; see `OnProgress`.

    Returns:
        The folder of the finished label store.

    Raises:
        UserError: for whatever is wrong with the flags, the data, a picture, or the output folder.
    """
    from llava_sea.data.images import look_for_pictures
    from llava_sea.data.records import load_records
    from llava_sea.files import check_folder, only_writer
    from llava_sea.labels import extraction_state as state
    from llava_sea.labels.mine_shards import KEPT, load_encoder
    from llava_sea.labels.pictures import distinct_pictures

    options = options.resolved()
    output = Path(options.output_dir)
    check_folder(output, "--output_dir")
    pictures, captions = distinct_pictures(load_records(options.data_path))
    look_for_pictures(options.image_folder, pictures)
    encoder = load_encoder(options, usable_devices(options.device)[0])
    parameters = _parameters(options, pictures, encoder)
    if state.is_complete(output, parameters):
        state.clean_up(output)  # a kill may have come just before it
        logger.info("the labels in %s are complete and fit these flags: nothing to do", output)
        return output
    state.check_output(output, parameters)
    try:
        output.mkdir(parents=True, exist_ok=True)
        busy = f"--output_dir {output}: another extraction is writing there; wait for it to end"
        with naming(output), only_writer(output / ".lock", busy):
            state.begin_or_resume(output, parameters)
            _run(options, encoder, pictures, captions, parameters, progress)
            state.clean_up(output)
    except OSError as error:
        raise UserError(cannot_write(error, KEPT)) from error
    return output


def _run(
    options: ExtractOptions,
    encoder: PatchEncoder,
    pictures: list[Picture],
    captions: list[str],
    parameters: dict[str, Any],
    progress: OnProgress | None,
) -> None:
    import numpy as np

    from llava_sea.labels.center import settle_center
    from llava_sea.labels.extraction_state import work_folder
    from llava_sea.labels.mine_shards import Plan
    from llava_sea.labels.sign_choice import settle_sign
    from llava_sea.labels.text_features import TextEncoder
    from llava_sea.labels.word_vectors import encode_to_disk
    from llava_sea.labels.words_file import read_words

    output = Path(options.output_dir)
    _copy_words(Path(options.words), output, parameters["words_sha256"])
    words = [entry.word for entry in read_words(output / "words.tsv")]
    vectors = encode_to_disk(
        work_folder(output),
        TextEncoder.from_pretrained(options.vision_tower, encoder.model),
        words,
        options.word_template,
        counter(progress, "words", len(words)),
    )
    center_D = settle_center(output, options, encoder, pictures)
    choice = settle_sign(
        work_folder(output), options, encoder, pictures, captions, words, vectors, center_D
    )
    devices = usable_devices(options.device)
    workers = options.num_workers or len(devices)
    plan = Plan(
        options,
        pictures,
        vectors,
        choice.sign,
        center_D,
        parameters["grid"],
        devices,
        _threads(workers),
    )
    _mine(plan, encoder, workers, progress)
    fields = parameters | {
        "sign": choice.sign,
        "sign_measured": choice.measured,
        "num_words": len(words),
        "num_words_too_long": vectors.num_too_long,
        "encoder": options.vision_tower,
        "preset": options.sea_preset,
        "center_length": None if center_D is None else round(float(np.linalg.norm(center_D)), 6),
        "data_path": options.data_path,
    }
    _finish(plan, fields)


def _parameters(
    options: ExtractOptions, pictures: list[Picture], encoder: PatchEncoder
) -> dict[str, Any]:
    """What makes these labels these labels; a resumed run must agree on all of it."""
    from llava_sea.alignment.label_store import FORMAT
    from llava_sea.labels.mine_shards import make_loader
    from llava_sea.labels.words_file import read_words, words_sha256

    num_words = len(read_words(options.words))  # a broken list is an error before any is written
    why = f"{options.words} holds so many words"
    check_range("sea_top_n", options.sea_top_n or 0, whole(1, num_words), why)
    geometry = make_loader(options).transform.geometry()
    height, width = geometry["resolution"]
    names = "\0".join(picture.image for picture in pictures)
    parameters = {
        "format": FORMAT,
        "words_sha256": words_sha256(options.words),
        "images_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "encoder_fingerprint": encoder.fingerprint,
        "features": options.sea_features,
        "sign_choice": options.sea_sign,
        "center": options.sea_center,
        "top_n": options.sea_top_n,
        "grid": encoder.grid_of(height, width),
        "geometry": geometry,
        "dtype": options.dtype,
        "word_template": options.word_template,
        "shard_size": options.shard_size,
    }
    if options.sea_sign == "auto" or options.sea_center != "none":
        parameters["sign_sample"] = options.sign_sample
    return parameters


def usable_devices(device: str) -> tuple[str, ...]:
    """List the devices that --device stands for: every visible GPU, or the CPU.

    Raises:
        UserError: if a GPU is wanted and none is visible.
    """
    import torch

    count = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device == "cuda" and not count:
        raise UserError("--device cuda: no GPU is visible; use --device cpu")
    return tuple(f"cuda:{i}" for i in range(count)) or ("cpu",)


def _threads(workers: int) -> int:
    """Torch's threads for each of several processes."""
    import torch

    return max(1, torch.get_num_threads() // workers)


def _copy_words(source: Path, output: Path, sha256: str) -> None:
    from llava_sea.files import LIST_BYTES, read_file, write_atomically

    target = output / "words.tsv"
    if target.exists() and source.samefile(target):
        return
    data = read_file(source, LIST_BYTES)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"--words {source} was changed while this command started; run it again")
    write_atomically(target, data)


def _mine(plan: Plan, encoder: PatchEncoder, workers: int, progress: OnProgress | None) -> None:
    """Make the shards that are missing, here or in several processes."""
    import torch

    from llava_sea.labels.mine_shards import mine_shards
    from llava_sea.labels.workers import mine_in_processes

    pending = plan.pending()
    total = sum(len(plan.shard(number)) for number in pending)
    entries = len(plan.pictures) * plan.grid[0] * plan.grid[1] * (plan.options.sea_top_n or 0)
    logger.info(
        "%d pictures, %d to do in %d shards, %d process(es) on %s; the labels take %.2f GiB",
        len(plan.pictures),
        total,
        len(pending),
        workers,
        ", ".join(plan.devices),
        entries * 5 / 2**30,
    )
    count = counter(progress, "pictures", total)
    count(0)
    if min(workers, len(pending)) <= 1:
        mine_shards(plan, pending, plan.devices[0], count, encoder)
    else:
        encoder.model.to("cpu")  # its memory is the workers'
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        mine_in_processes(plan, pending, min(workers, len(pending)), count)


def _finish(plan: Plan, fields: dict[str, Any]) -> None:
    """Verify all shards and make a store of them; say what was skipped."""
    from llava_sea.alignment.label_store import LabelStore, finalize_store

    finalize_store(Path(plan.options.output_dir), fields, plan.num_shards)
    skipped = LabelStore(plan.options.output_dir).skipped
    for image, reason in list(skipped.items())[:10]:
        logger.warning("no labels for %s: %s", image, reason)
    if skipped:
        logger.warning("%d pictures have no labels; manifest.json lists them all", len(skipped))
    logger.info(
        "%d pictures are labelled: %s", len(plan.pictures) - len(skipped), plan.options.output_dir
    )


def main() -> None:
    """Run the command."""
    options = parse_options()
    from transformers.utils import logging as transformers_logging

    from llava_sea.progress import Progress

    transformers_logging.disable_progress_bar()
    log_to(sys.stdout)
    logging.getLogger("llava_sea").setLevel(logging.INFO)
    with Progress() as progress:
        extract_labels(options, progress)


if __name__ == "__main__":
    run_command(main)
