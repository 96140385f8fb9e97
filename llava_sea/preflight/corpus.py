"""The user's own data and images: records opened, sign and quality of labels measured on a sample.

Shape letters: I images, P patches, N labels, Q words, D joint dimension.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from llava_sea.alignment.label_store import LabelStore
from llava_sea.constants import IGNORE_INDEX
from llava_sea.data.image_source import open_images
from llava_sea.data.images import ImageTransform, look_for_images, patch_grid
from llava_sea.data.problems import RecordError
from llava_sea.data.records import Record, Records, open_records
from llava_sea.data.tokenize import tokenize_record
from llava_sea.errors import UserError
from llava_sea.labels.mine import (
    CorpusImage,
    ImageLoader,
    distinct_images,
    encode_batches,
    load_encoder,
    mine_batch,
    own_device,
    spread,
)
from llava_sea.labels.occurrence import find_occurrences
from llava_sea.labels.options import ExtractOptions, QualityOptions
from llava_sea.labels.prepare import mean_patch
from llava_sea.labels.quality import ERRORS
from llava_sea.labels.quality_measures import measure_quality
from llava_sea.labels.sign import choose_sign, finite, measure_sign
from llava_sea.labels.text_features import TextEncoder, encode_to_disk
from llava_sea.labels.word_list import WordListOptions, build_word_list
from llava_sea.labels.words_file import read_words
from llava_sea.model.builder import load_tower
from llava_sea.preflight.checkpoints import template_of, tokenizer_of
from llava_sea.preflight.measure import Stage
from llava_sea.preflight.page import WARNING, Line, red
from llava_sea.preflight.random_batches import Sizes
from llava_sea.report.charts import STYLE
from llava_sea.report.grid import Cell, Grid, Near
from llava_sea.report.page import panels
from llava_sea.report.reading import as_seen
from llava_sea.train.arguments import Arguments
from llava_sea.train.stage1 import open_labels

SAMPLE = 200
"""Records and images that are looked at."""
MOST_WORDS = 200_000
"""Of a longer list the most frequent: 4 million take minutes to encode."""
SHOWN = 2
"""Images of the best labels that are shown, and of the worst."""


def data_line(stage: Stage) -> Line:
    """Open a stage's records, look for their images, and measure the lengths of a sample."""
    data = stage.arguments.data
    records = open_records(data.data_path)
    source = open_images(data.image_folder, records)
    look_for_images(source, ((r.image, r.id) for r in records if r.image is not None))
    stage.records = len(records)
    stage.images = len(set(filter(None, records.first_images())))
    found = f"{stage.name}: {len(records):,} records, {stage.images:,} images, all there"
    if stage.config is None:
        way_out = f"see the line models {stage.number}"
        return Line(f"data {stage.number}", f"{found}; not tokenised", WARNING, way_out)
    sizes, refused = _lengths(stage, records)
    if sizes:
        stage.longest = Sizes(*(max(column) for column in zip(*sizes, strict=True)))
        stage.mean = Sizes(*(round(sum(c) / len(c)) for c in zip(*sizes, strict=True)))
    found += f"; {stage.mean.length} tokens in the mean, {stage.longest.length} at most"
    found += f" (of {len(sizes)} looked at)"
    if refused:
        way_out = "python -m llava_sea.check with the same flags names every such record"
        return red(f"data {stage.number}", f"{found}; {refused}", way_out, **_sizes(stage))
    return Line(f"data {stage.number}", found, details=_sizes(stage))


def _sizes(stage: Stage) -> dict[str, Any]:
    found = {"records": stage.records, "images": stage.images}
    return found | {"longest": stage.longest._asdict(), "mean": stage.mean._asdict()}


def _lengths(stage: Stage, records: Records) -> tuple[list[Sizes], str]:
    """Return the sizes of a sample's records, and what is wrong with the first bad one."""
    reading = template_of(stage.arguments), tokenizer_of(stage.arguments)
    assert stage.config is not None
    limit, sizes, refused = stage.arguments.training.model_max_length, [], ""
    for record in some(records):
        try:
            read = tokenize_record(record, *reading, stage.config.image_seq_length, limit)
        except RecordError as error:
            refused = refused or str(error)
            continue
        supervised = sum(label != IGNORE_INDEX for label in read.labels)
        sizes.append(Sizes(len(read.input_ids), supervised, len(record.images)))
    return sizes, refused


def some(records: Sequence[Record]) -> Iterator[Record]:
    """Yield a sample's records, spread evenly."""
    for index in spread(range(len(records)), SAMPLE):
        yield records[index]


def some_texts(arguments: Arguments) -> list[str]:
    """Return what is said in a sample's records."""
    return [turn.text for r in some(open_records(arguments.data.data_path)) for turn in r.turns]


@dataclass(frozen=True)
class LabelPlan:
    """Where a recipe's labels come from."""

    tower: str
    words: str | None = None
    preset: str = "best"
    common_words: str | None = None


def labels_line(arguments: Arguments, plan: LabelPlan, picture: Path) -> tuple[Line, float]:
    """Measure sign and quality of labels on a sample of the user's images.

    Returns:
        The line, and the images that are labelled in a second.

    Raises:
        UserError: if the store does not fit the run, or neither sign's labels fit the captions.
    """
    store = _open_store(arguments)
    options = ExtractOptions(
        data_path=tuple(arguments.data.data_path),
        image_folder=arguments.data.image_folder,
        image_aspect_ratio=arguments.data.image_aspect_ratio,
        vision_tower=plan.tower,
        words=plan.words or "made here",
        output_dir="unused",
        on_bad_image="skip",
        sea_preset=plan.preset,
        **({} if store is None else _as_mined(store)),
    ).resolved()
    images, captions = distinct_images(open_records(options.data_files))
    pairs = [pair for pair in zip(images, captions, strict=True) if pair[1].strip()]
    sample = spread(pairs, SAMPLE)
    with tempfile.TemporaryDirectory() as folder:
        words = _find_words(Path(folder), plan, store, sample)
        options.words = str(words)
        found = _Sample(options, Path(folder), sample)
        row = found.quality()
    sign, report = found.sign()
    labels = found.mine(sign)
    write_picture(picture, found, labels)
    chosen = report.plus if sign > 0 else report.minus
    told = "labels there, they fit" if store is not None else f"to be mined, preset {plan.preset}"
    told += f"; on {report.num_images} images sign {sign:+d}: {chosen.lift:.1f} x as often in the"
    told += f" own caption as in others; place recall {row.place.recall:.3f}"
    told += f" ± {row.place.recall_error:.3f}; shown in {picture.name}"
    details = {"sign": finite(asdict(report)), "quality": finite(asdict(row))}
    rate = len(found.numbers) / found.seconds
    details |= {"images_a_second": rate, "num_words": len(found.words)}
    if not row.place.recall - ERRORS * row.place.recall_error > 0:
        way_out = "python -m llava_sea.labels.quality compares features; look at the images"
        told += "; not clearly in their places"
        return Line("labels", told, WARNING, way_out, details), rate
    return Line("labels", told, details=details), rate


def _open_store(arguments: Arguments) -> LabelStore | None:
    """Open the labels of the run if they are there, as training does."""
    model, data, sea, args = arguments
    folder = Path(str(sea.sea_labels))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--sea_labels {folder}: is no folder; name another one with LABELS=")
    if not (folder / "manifest.json").is_file():
        return None
    path = str(model.vision_tower)
    tower = load_tower(path, cache_dir=args.cache_dir)
    transform = ImageTransform.from_pretrained(path, data.image_aspect_ratio)
    return open_labels(sea, tower, transform, patch_grid(tower.config))


def _as_mined(store: LabelStore) -> dict[str, Any]:
    found = store.manifest
    kind = {"sea_features": found["features"], "sea_top_n": store.top_n}
    return kind | {"sea_sign": f"{found['sign']:+d}", "sea_center": found.get("center", "none")}


def _find_words(
    folder: Path,
    plan: LabelPlan,
    store: LabelStore | None,
    sample: Sequence[tuple[CorpusImage, str]],
) -> Path:
    """Return a word list: the labels' own, the recipe's, or one of the sample's captions."""
    records = [
        {
            "id": image.record_id,
            "image": image.image,
            "conversations": [
                {"from": "human", "value": "<image>"},
                {"from": "gpt", "value": caption},
            ],
        }
        for image, caption in sample
    ]
    data, made = folder / "sample.json", folder / "words.tsv"
    data.write_text(json.dumps(records))
    given = Path(store.directory / "words.tsv") if store is not None else Path(plan.words or "")
    if not given.is_file():
        build_word_list(
            WordListOptions(
                data_path=(str(data),),
                output=str(made),
                common_words=plan.common_words,
                num_workers=1,
            )
        )
        given = made
    entries = read_words(given)
    if len(entries) <= MOST_WORDS:
        return given
    lines = [f"{e.word}\t{e.count}\t{e.pos}" for e in entries[:MOST_WORDS]]
    made.write_text("\n".join(["word\tcount\tpos", *lines]) + "\n")
    return made


class _Sample:
    """Some images with an encoder and words."""

    def __init__(
        self, options: ExtractOptions, folder: Path, sample: Sequence[tuple[CorpusImage, str]]
    ) -> None:
        self.options, self.folder = options, folder
        self.images = [image for image, _ in sample]
        self.captions = [caption for _, caption in sample]
        self.words = [entry.word for entry in read_words(options.words)]
        self.encoder = load_encoder(options, own_device(options.device))
        texts = TextEncoder.from_pretrained(options.vision_tower, self.encoder.model)
        vectors = encode_to_disk(
            folder / "words.npy", texts, self.words, options.word_template, lambda: None
        )
        self.words_QD: Tensor = vectors.load(self.encoder.model.device).clone()
        self.loader = ImageLoader(options)
        self.numbers: list[int] = []
        self.seconds = 1.0
        self.center = None
        if options.sea_center == "corpus":
            self.center = mean_patch(patches for _, patches in self._encoded())

    def _encoded(self) -> Iterator[tuple[list[int], Tensor]]:
        features, center = str(self.options.sea_features), getattr(self, "center", None)
        for batch, patches in encode_batches(
            self.encoder, self.loader, self.images, features, center
        ):
            if patches is not None:
                yield batch.rows, patches

    def sign(self) -> tuple[int, Any]:
        """Return the sign that the run has, or that is clearly better, and how both fare."""
        top_n = int(self.options.sea_top_n or 1)
        report = measure_sign(self._encoded(), self.captions, self.words, self.words_QD, top_n)
        better = choose_sign(report)
        forced = str(self.options.sea_sign)
        if forced != "auto" and int(forced) != better:
            raise UserError(
                f"labels with sign {forced} do not fit the captions, those with {better:+d} do "
                f"(lift {report.plus.lift:.2f} with +1, {report.minus.lift:.2f} with -1); use "
                "--sea_preset best (SEA_PRESET=best), which measures the sign"
            )
        return better, report

    def mine(self, sign: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return ids, -1 where there is none, and scores ``(I, P, N)``; takes the time."""
        top_n, found, start = int(self.options.sea_top_n or 1), [], time.perf_counter()
        self.numbers = []
        for rows, patches in self._encoded():
            self.numbers += rows
            found.append(mine_batch(patches, self.words_QD, top_n, sign))
        self.seconds = time.perf_counter() - start
        ids, scores = (np.concatenate(part) for part in zip(*found, strict=True))
        return np.where(scores > 0, ids.astype(np.int64), -1), scores

    def quality(self) -> Any:
        """Return the row of this kind of label: its place in the image, from mosaics."""
        shared = {f: getattr(self.options, f) for f in ("image_folder", "image_aspect_ratio")}
        shared |= {f: getattr(self.options, f) for f in ("vision_tower", "words", "on_bad_image")}
        rows = measure_quality(
            QualityOptions(
                data_path=(str(self.folder / "sample.json"),),
                sea_features=(str(self.options.sea_features),),
                top_n=(int(self.options.sea_top_n or 1),),
                num_images=SAMPLE,
                **shared,
            )
        )
        of_center = [row for row in rows if row.center == self.options.sea_center]
        return max(
            of_center, key=lambda row: -9.0 if np.isnan(row.place.recall) else row.place.recall
        )


def write_picture(
    path: Path, sample: _Sample, labels: tuple[NDArray[np.int64], NDArray[np.float32]]
) -> None:
    """Write a page of the images whose labels fit their captions best, and worst."""
    ids_IPN, scores_IPN = labels
    captions = [sample.captions[number] for number in sample.numbers]
    own = find_occurrences(captions, sample.words)
    rates = [float(np.isin(ids_PN[:, 0], own[i]).mean()) for i, ids_PN in enumerate(ids_IPN)]
    order = sorted(range(len(rates)), key=lambda i: -rates[i])
    shown = dict.fromkeys([*order[:SHOWN], *order[-SHOWN:]])
    geometry = sample.loader.transform.geometry()
    height, width = geometry["resolution"]
    columns = sample.encoder.grid_of(height, width)[1]
    parts = []
    for i in shown:
        image = sample.images[sample.numbers[i]]
        (batch,) = sample.loader.batches([image])
        assert batch.pixels_BCHW is not None
        cells = [
            Cell(
                tuple(
                    Near(sample.words[n], float(score), bool(n in own[i])) if n >= 0 else _NOTHING
                    for n, score in zip(ids_N, scores_N, strict=True)
                )
            )
            for ids_N, scores_N in zip(ids_IPN[i], scores_IPN[i], strict=True)
        ]
        title = f"{rates[i]:.0%} of the patches: a word of the caption ({captions[i][:200]})"
        parts.append(
            panels(as_seen(batch.pixels_BCHW[0], geometry), [Grid(title, columns, cells)]).replace(
                "image-1", f"image-{i}"
            )
        )
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Labels</title><style>{STYLE}'
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"{head}</style><body style='padding: 1rem'>{''.join(parts)}</body></html>\n",
        encoding="utf-8",
    )


_NOTHING = Near("·", 0.0, False)
