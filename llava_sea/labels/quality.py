r"""How good would labels be on this corpus? Every kind side by side, and the one to take.

    python -m llava_sea.labels.quality --data_path pretrain.json --image_folder images \
        --vision_tower clip --words words.tsv [--truth truth.json] [--output quality.json]

Features x sign x centre x n, on a sample: caption lift, hubs, spatial consistency, and whether
labels stand in the right place, all from pictures and captions alone; with ``--truth`` precision
too. The last line is the flags of `llava_sea.labels.extract` that `quality_choice.py` picks.

Limits: a sample of the corpus; the mean patch of ``--sea_center corpus`` is the sample's.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_sea.errors import UserError, run_command
from llava_sea.labels.quality_options import QualityOptions, parse_quality_options
from llava_sea.progress import OnProgress, counter
from llava_sea.ranges import check_range, whole
from llava_sea.terminal import log_to, say

if TYPE_CHECKING:  # --help must not wait for torch
    from llava_sea.labels.pictures import Picture
    from llava_sea.labels.quality_rows import KnownTruth, Row, Sample

logger = logging.getLogger("llava_sea.labels.quality")


def measure_quality(options: QualityOptions, progress: OnProgress | None = None) -> list[Row]:
    """Measure every kind of label that the options name.

    Args:
        options: what to measure; see `QualityOptions`.
        progress: see `OnProgress`.

    Returns:
        A row for each of features x centre x sign x n.

    Raises:
        UserError: for whatever is wrong with the flags, the data or a picture.
    """
    from llava_sea.labels.quality_rows import measure_features

    options = options.resolved()
    with tempfile.TemporaryDirectory() as folder:  # the words' vectors: 12 GB at 4 million words
        sample = _sample(options, Path(folder), progress)
        rows: list[Row] = []
        for name in options.sea_features:
            count = counter(progress, f"{name}: pictures", len(sample.pictures))
            rows += measure_features(sample, name, count)
        return rows


def _sample(options: QualityOptions, folder: Path, progress: OnProgress | None) -> Sample:
    from llava_sea.data.images import look_for_pictures
    from llava_sea.data.records import load_records
    from llava_sea.labels.extract import usable_devices
    from llava_sea.labels.mine_shards import load_encoder, make_loader
    from llava_sea.labels.occurrence import find_occurrences
    from llava_sea.labels.pictures import distinct_pictures, spread
    from llava_sea.labels.quality_rows import Sample
    from llava_sea.labels.text_features import TextEncoder
    from llava_sea.labels.word_vectors import encode_to_disk
    from llava_sea.labels.words_file import read_words

    words = [entry.word for entry in read_words(options.words)]
    why = f"half of {options.words}, which holds {len(words)} words; more say nothing of a patch"
    check_range("top_n", max(options.top_n), whole(1, len(words) // 2), why)
    pictures, captions = distinct_pictures(load_records(options.data_path))
    look_for_pictures(options.image_folder, pictures)
    captioned = [pair for pair in zip(pictures, captions, strict=True) if pair[1].strip()]
    chosen = spread(captioned, options.num_images)
    if len(chosen) < 2:
        raise UserError(
            f"--data_path {options.data_path}: {len(chosen)} of its pictures have a caption; "
            "quality is measured by captions, and two are needed"
        )
    extraction = options.extraction(options.sea_features[0]).resolved()
    height, width = make_loader(extraction).transform.geometry()["resolution"]
    encoder = load_encoder(extraction, usable_devices(options.device)[0])
    grid = encoder.grid_of(height, width)
    if grid[1] < 2:
        raise UserError(f"a grid of {grid[0]} x {grid[1]} patches has no left and right half")
    sample = [picture for picture, _ in chosen]
    truth = _open_truth(options.truth, sample, words, grid)
    vectors = encode_to_disk(
        folder,
        TextEncoder.from_pretrained(options.vision_tower, encoder.model),
        words,
        options.word_template,
        counter(progress, "words", len(words)),
    )
    return Sample(
        options,
        encoder,
        sample,
        words,
        vectors.load(encoder.model.device),
        find_occurrences([caption for _, caption in chosen], words),
        grid,
        truth,
    )


def _open_truth(
    path: str | None, pictures: list[Picture], words: list[str], grid: tuple[int, int]
) -> KnownTruth | None:
    if path is None:
        return None
    import numpy as np

    from llava_sea.labels.quality_rows import KnownTruth
    from llava_sea.train.evaluation import Truth

    patches = range(grid[0] * grid[1])
    try:
        truth = Truth(path)
        truth.check_grid(grid)
        for picture in pictures:
            truth.check(picture.image, len(patches))
    except UserError as error:  # the reader names training's flag
        raise UserError(str(error).replace("--sea_eval_truth", "--truth")) from None
    id_of = {word: number for number, word in enumerate(words)}
    sets: dict[frozenset[str], int] = {}
    set_IP = np.array(
        [[sets.setdefault(truth.words(p.image, i), len(sets)) for i in patches] for p in pictures]
    )
    right_SQ = np.zeros((len(sets), len(words)), bool)
    for true_words, number in sets.items():
        right_SQ[number, [id_of[word] for word in true_words if word in id_of]] = True
    object_IP = np.array([[truth.is_object(p.image, i) for i in patches] for p in pictures])
    return KnownTruth(right_SQ, set_IP, object_IP)


def write_results(path: Path, options: QualityOptions, rows: list[Row], chosen: Row | None) -> None:
    """Write all numbers, the choice and, with the truth, the measures' agreement with it."""
    from dataclasses import asdict

    from llava_sea.files import write_atomically
    from llava_sea.labels.caption_lift import finite
    from llava_sea.labels.quality_choice import agreement_with_truth

    names = ("features", "sign", "center", "top_n")
    results: dict[str, Any] = {
        "options": asdict(options),
        "chosen": None if chosen is None else {name: getattr(chosen, name) for name in names},
        "rows": [row.to_dict() for row in rows],
    }
    if rows[0].precision is not None:
        results["spearman"] = {
            group: finite(agreement_with_truth([row for row in rows if row.sign in signs]))
            for group, signs in {"all": (1, -1), "+1": (1,), "-1": (-1,)}.items()
        }
    write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())


def main() -> None:
    """Run the command."""
    options = parse_quality_options()
    options.resolved()
    from transformers.utils import logging as transformers_logging

    from llava_sea.labels.quality_choice import choose
    from llava_sea.labels.quality_table import flags_of, print_table
    from llava_sea.progress import Progress

    transformers_logging.disable_progress_bar()
    log_to(sys.stdout)
    with Progress() as progress:
        rows = measure_quality(options, progress)
    chosen = choose(rows)
    print_table(rows, chosen)
    if options.output is not None:
        write_results(Path(options.output), options, rows, chosen)
    if chosen is None:
        raise UserError(
            "with no features, sign or centre do words stand clearly more often in their own half "
            "of a cut and joined picture than in the other, so nothing is chosen. Ways out: more "
            "--num_images, a word list made from these captions, another --vision_tower"
        )
    say(f"\nchosen (place recall; n by place lift): {flags_of(chosen)}")


if __name__ == "__main__":
    run_command(main)
