"""Before a corpus is mined: its folder, the words' vectors, the mean patch and the sign.

The mean patch (``--sea_center corpus``) is subtracted from every patch. Some words score high with
every patch: hubs. Less the mean patch, a score is ``v . t - mean . t``: the word's score less its
mean score over the corpus's patches, so a hub has nothing left where it is as high as anywhere.
Ranks change, "scores not above 0 are dropped" begins to mean something (without it nearly all
cosines of a top list are above 0), and the weights of eq. 9 are no longer nearly equal. The
difference is not made length 1 again: that would undo the equality above.

Mean patch and sign are measured once on a sample and kept, so that a resumed extraction has the
same ones: ``center.npy`` in the folder of the labels, the sign in its ``work/`` until it stands in
the manifest.

Shape letters: B images of a batch, P patches, D joint dimension.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.alignment.label_store import FORMAT
from llava_sea.data.images import look_for_images
from llava_sea.data.records import open_records
from llava_sea.errors import UserError
from llava_sea.files import (
    LIST_BYTES,
    check_folder,
    only_writer,
    read_file,
    sha256_file,
    write_atomically,
)
from llava_sea.labels import state
from llava_sea.labels.mine import (
    CorpusImage,
    ImageLoader,
    Plan,
    corpus_images,
    distinct_images,
    encode_batches,
    load_encoder,
    spread,
)
from llava_sea.labels.occurrence import find_occurrences
from llava_sea.labels.options import ExtractOptions
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.sign import choose_sign, finite, format_table, measure_sign
from llava_sea.labels.text_features import TextEncoder, WordVectors, encode_to_disk
from llava_sea.labels.words_file import read_words
from llava_sea.ranges import check_range, whole

logger = logging.getLogger(__name__)


def prepare(
    options: ExtractOptions, device: str, held: ExitStack
) -> tuple[tuple[Plan, dict[str, Any]] | None, PatchEncoder]:
    """Return the plan and the manifest's fields, None if the labels are complete; and the encoder.

    `held` takes the folder's lock.
    """
    output = Path(options.output_dir)
    check_folder(output, "--output_dir")
    images, captions = distinct_images(open_records(options.data_files))
    look_for_images(corpus_images(options), images)
    encoder = load_encoder(options, device)
    parameters = _parameters(options, images, captions, encoder)
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
        "data_path": " ".join(options.data_files),
    }
    own = find_occurrences(captions, words) if options.sea_caption_share else None
    plan = Plan(options, images, vectors, sign, center_D, parameters["grid"], own)
    return (plan, fields), encoder


def _parameters(
    options: ExtractOptions, images: list[CorpusImage], captions: list[str], encoder: PatchEncoder
) -> dict[str, Any]:
    """All that decides the labels; a resumed run must agree on it."""
    num_words = len(read_words(options.words))  # a broken list is an error before any is written
    why = f"{options.words} holds so many words"
    check_range("sea_top_n", options.sea_top_n or 0, whole(1, num_words), why)
    geometry = ImageLoader(options).transform.geometry()
    names = "\0".join(image.image for image in images)
    parameters: dict[str, Any] = {
        "format": FORMAT,
        "words_sha256": sha256_file(Path(options.words)),
        "images_sha256": hashlib.sha256(names.encode(errors="surrogatepass")).hexdigest(),
        "encoder_fingerprint": encoder.fingerprint,
        "features": options.sea_features,
        "sign_choice": options.sea_sign,
        "center": options.sea_center,
        "top_n": options.sea_top_n,
        "caption_share": options.sea_caption_share,
        "grid": encoder.grid_of(*geometry["resolution"]),
        "geometry": geometry,
        "dtype": options.dtype,
        "word_template": options.word_template,
        "shard_size": options.shard_size,
    }
    if options.sea_sign == "auto" or options.sea_center != "none":
        parameters["sign_sample"] = options.sign_sample
    if options.sea_caption_share:
        parameters["captions_sha256"] = hashlib.sha256("\0".join(captions).encode()).hexdigest()
    return parameters


def _copy_words(source: Path, output: Path, sha256: str) -> None:
    target = output / "words.tsv"
    if target.exists() and source.samefile(target):
        return
    data = read_file(source, LIST_BYTES)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"--words {source} was changed while this command started; run it again")
    write_atomically(target, data)


def mean_patch(batches: Iterable[Tensor]) -> NDArray[np.float32]:
    """Return the mean of all patches of batches ``(B, P, D)``, which are not centred."""
    total, count = None, 0
    for patches_BPD in batches:
        part_D = patches_BPD.double().sum((0, 1)).cpu().numpy()
        total = part_D if total is None else total + part_D
        count += patches_BPD.shape[0] * patches_BPD.shape[1]
    if total is None:
        raise UserError(
            "--sea_center corpus: none of the sample's images can be read; a larger "
            "--sign_sample may help, --sea_center none does without"
        )
    return (total / count).astype(np.float32)


def find_center(
    output: Path, options: ExtractOptions, encoder: PatchEncoder, images: list[CorpusImage]
) -> NDArray[np.float32] | None:
    """Return the vector to subtract: None, an earlier run's, or a new one."""
    if options.sea_center == "none":
        return None
    path = output / "center.npy"
    if path.is_file():
        try:
            return np.load(path)
        except (ValueError, EOFError) as error:
            raise UserError(
                f"{path}: the mean patch is damaged ({error}); extract the labels again into a new "
                "folder"
            ) from None
    assert options.sea_features is not None
    sample = spread(images, options.sign_sample)
    logger.info("the mean patch of %d images", len(sample))
    batches = encode_batches(encoder, ImageLoader(options), sample, options.sea_features)
    center_D = mean_patch(patches for _, patches in batches if patches is not None)
    data = io.BytesIO()
    np.save(data, center_D)
    write_atomically(path, data.getvalue())
    return center_D


def find_sign(
    work: Path,
    options: ExtractOptions,
    encoder: PatchEncoder,
    images: list[CorpusImage],
    captions: list[str],
    words: list[str],
    vectors: WordVectors,
    center_D: NDArray[np.float32] | None,
) -> tuple[int, dict[str, Any] | None]:
    """Return the forced sign, an earlier run's, or a new one, with its measurement.

    The sample is spread evenly over the images that have a caption, and measured as the corpus is
    mined: with `center_D` subtracted from every patch.

    Raises:
        UserError: if neither sign wins, with the numbers.
    """
    assert options.sea_sign is not None and options.sea_features is not None
    assert options.sea_top_n is not None
    if options.sea_sign != "auto":
        logger.info("sign %+d (forced)", int(options.sea_sign))
        return int(options.sea_sign), None
    path = work / "sign.json"
    if path.is_file():
        kept = state.read_state(path, "sign", "measured")
        logger.info("sign %+d (measured before)", kept["sign"])
        return kept["sign"], kept["measured"]
    chosen = spread([i for i, text in enumerate(captions) if text.strip()], options.sign_sample)
    logger.info("measuring the sign on %d images", len(chosen))
    sample = [images[i] for i in chosen]
    batches = encode_batches(encoder, ImageLoader(options), sample, options.sea_features, center_D)
    report = measure_sign(
        ((batch.rows, patches) for batch, patches in batches if patches is not None),
        [captions[i] for i in chosen],
        words,
        vectors.load(encoder.model.device),
        options.sea_top_n,
    )
    sign, measured = choose_sign(report), finite(asdict(report))
    logger.info("%s\nsign %+d (measured)", format_table(report), sign)
    write_atomically(path, json.dumps({"sign": sign, "measured": measured}).encode())
    return sign, measured
