"""Before a corpus is mined: its folder, the words' vectors, the mean patch and the sign.

The mean patch (``--sea_center corpus``) is subtracted from every patch. Some words score high with
every patch: hubs. Less the mean patch, a score is ``v . t - mean . t``: the word's score less its
mean score over the corpus's patches, so a hub has nothing left where it is as high as anywhere.
Ranks change, "scores not above 0 are dropped" begins to mean something (without it nearly all
cosines of a top list are above 0), and the weights of eq. 9 are no longer nearly equal. The
difference is not made length 1 again: that would undo the equality above.

Words' vectors, mean patch, sign and the captions' words are made once, by the rank that claims
them, and kept with their hashes, so that the other ranks and a resumed extraction have the same:
``center.npy`` in the folder of the labels, the rest in its ``work/``. Each rank reads the records.

Shape letters: B images of a batch, P patches, D joint dimension.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
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
    open_atomically,
    read_file,
    sha256_file,
    write_atomically,
)
from llava_sea.labels import state
from llava_sea.labels.claims import Claims, is_there
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
from llava_sea.labels.occurrence import CaptionWords
from llava_sea.labels.options import ExtractOptions
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.sign import choose_sign, finite, format_table, measure_sign
from llava_sea.labels.text_features import TextEncoder, WordVectors, encode_to_disk
from llava_sea.labels.words_file import format_words, read_words
from llava_sea.labels.written import WrittenWords, read_written
from llava_sea.ranges import check_range, whole

logger = logging.getLogger(__name__)


def prepare(
    options: ExtractOptions, device: str, claims: Claims
) -> tuple[Plan, dict[str, Any], PatchEncoder] | None:
    """Return the plan, the manifest's fields and the encoder; None if the labels are complete."""
    output = Path(options.output_dir)
    work = state.work_folder(output)
    check_folder(output, "--output_dir")
    images, captions = distinct_images(open_records(options.data_files))
    look_for_images(corpus_images(options), images)
    encoder = load_encoder(options, device)
    encoder.check_features(str(options.sea_features))
    listed, written = _read_lists(options, images)
    parameters = _parameters(options, images, captions, encoder, listed)
    if not state.begin_or_resume(output, parameters, claims):
        logger.info("the labels in %s are complete and fit these flags: nothing to do", output)
        return None
    _write_words(listed, output, parameters["words_sha256"], claims)
    words = [entry.word for entry in read_words(output / "words.tsv")]
    vectors = _find_vectors(work / "words.npy", options, encoder, words, claims)
    center_D = find_center(output, options, encoder, images, claims)
    sign, measured = find_sign(
        work, options, encoder, images, captions, words, vectors, center_D, claims
    )
    own = None
    if options.sea_caption_share:
        path = work / "captions.npy"

        def find_words() -> dict[str, Any]:
            CaptionWords.write(path, captions, words)
            return {}

        state.keep_once(work / "captions.json", claims, find_words, path)
        own = CaptionWords(path, len(captions))
    fields = parameters | {
        "sign": sign,
        "sign_measured": measured,
        "num_words": len(words),
        "num_words_too_long": vectors.num_too_long,
        "encoder": options.vision_tower,
        "preset": options.sea_preset,
        "center_length": None if center_D is None else round(float(np.linalg.norm(center_D)), 6),
        "data_path": " ".join(options.data_files),
        "ocr": options.sea_ocr,
    }
    grid = parameters["grid"]
    plan = Plan(options, images, vectors, sign, center_D, grid, own, written)
    return plan, fields, encoder


def _read_lists(
    options: ExtractOptions, images: list[CorpusImage]
) -> tuple[bytes, WrittenWords | None]:
    """Return the word list of the labels, as a file, and the words that are written in images."""
    entries = read_words(options.words)  # a broken list is an error before anything is written
    why = f"{options.words} holds so many words"
    check_range("sea_top_n", options.sea_top_n or 0, whole(1, len(entries)), why)
    if options.sea_ocr is None:
        return read_file(options.words, LIST_BYTES), None
    listed, written = read_written(options.sea_ocr, [image.image for image in images], entries)
    logger.info(
        "%s: %d written words in %d images; %d are added to the word list",
        *(options.sea_ocr, len(written.rows_W), len(np.unique(written.rows_W["image"]))),
        len(listed) - len(entries),
    )
    return format_words(listed), written


def _parameters(
    options: ExtractOptions,
    images: list[CorpusImage],
    captions: list[str],
    encoder: PatchEncoder,
    listed: bytes,
) -> dict[str, Any]:
    """All that decides the labels; a resumed run must agree on it."""
    geometry = ImageLoader(options).transform.geometry()
    names = "\0".join(image.image for image in images)
    parameters: dict[str, Any] = {
        "format": FORMAT,
        "words_sha256": hashlib.sha256(listed).hexdigest(),
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
    parameters["ocr_sha256"] = options.sea_ocr and sha256_file(Path(options.sea_ocr))
    return parameters


def _write_words(listed: bytes, output: Path, sha256: str, claims: Claims) -> None:
    target = output / "words.tsv"

    def is_whole() -> bool:
        return is_there(target) and sha256_file(target) == sha256

    claims.once("words.tsv", is_whole, lambda: write_atomically(target, listed))


def _find_vectors(
    path: Path, options: ExtractOptions, encoder: PatchEncoder, words: list[str], claims: Claims
) -> WordVectors:
    """Return the words' vectors: an earlier run's or another rank's, or new ones."""

    def encode() -> dict[str, Any]:
        texts = TextEncoder.from_pretrained(options.vision_tower, encoder.model)
        made = encode_to_disk(path, texts, words, options.word_template, claims.check)
        return {"too_long": made.num_too_long}

    found = state.keep_once(path.with_suffix(".json"), claims, encode, path)
    return WordVectors(str(path), found["too_long"])


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
    output: Path,
    options: ExtractOptions,
    encoder: PatchEncoder,
    images: list[CorpusImage],
    claims: Claims,
) -> NDArray[np.float32] | None:
    """Return the vector to subtract: None, an earlier run's or another rank's, or a new one."""
    if options.sea_center == "none":
        return None
    features, path = options.sea_features, output / "center.npy"
    assert features is not None

    def measure() -> dict[str, Any]:
        sample = spread(images, options.sign_sample)
        logger.info("the mean patch of %d images", len(sample))
        batches = encode_batches(encoder, ImageLoader(options), sample, features)
        found = claims.watched(batches)
        center_D = mean_patch(patches for _, patches in found if patches is not None)
        with open_atomically(path) as file:
            np.save(file, center_D)
        return {}

    state.keep_once(state.work_folder(output) / "center.json", claims, measure, path)
    return np.load(path)


def find_sign(
    work: Path,
    options: ExtractOptions,
    encoder: PatchEncoder,
    images: list[CorpusImage],
    captions: list[str],
    words: list[str],
    vectors: WordVectors,
    center_D: NDArray[np.float32] | None,
    claims: Claims,
) -> tuple[int, dict[str, Any] | None]:
    """Return the forced sign, an earlier run's or another rank's, or a new one, as measured.

    The sample is spread evenly over the images that have a caption, and measured as the corpus is
    mined: with `center_D` subtracted from every patch.

    Raises:
        UserError: if neither sign wins, with the numbers.
    """
    features, top_n = options.sea_features, options.sea_top_n
    assert options.sea_sign is not None and features is not None and top_n is not None
    if options.sea_sign != "auto":
        logger.info("sign %+d (forced)", int(options.sea_sign))
        return int(options.sea_sign), None

    def measure() -> dict[str, Any]:
        chosen = spread([i for i, text in enumerate(captions) if text.strip()], options.sign_sample)
        logger.info("measuring the sign on %d images", len(chosen))
        sample = [images[i] for i in chosen]
        batches = encode_batches(encoder, ImageLoader(options), sample, features, center_D)
        found = claims.watched(batches)
        report = measure_sign(
            ((batch.rows, patches) for batch, patches in found if patches is not None),
            [captions[i] for i in chosen],
            words,
            vectors.load(encoder.model.device),
            top_n,
        )
        sign = choose_sign(report)
        logger.info("%s", format_table(report))
        return {"sign": sign, "measured": finite(asdict(report))}

    kept = state.keep_once(work / "sign.json", claims, measure)
    logger.info("sign %+d (measured)", kept["sign"])
    return kept["sign"], kept["measured"]
