"""The flags of the quality measurement: extraction's where they mean the same, and a few more.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_sea.errors import UserError
from llava_sea.labels.options import DTYPES, FEATURES, ExtractOptions, flag, parse_flags
from llava_sea.ranges import check_ranges


@dataclass
class QualityOptions:
    """What to measure labels on, and with what."""

    data_path: str = flag("training data: a JSON (or JSONL) file in LLaVA's layout", "")
    image_folder: str = flag("folder that the records' image names are relative to", "")
    vision_tower: str = flag("CLIP or SigLIP folder (or hub name) with both towers", "")
    words: str = flag("word list, made by python -m llava_sea.labels.word_list", "")
    output: str | None = flag("file for all numbers, as JSON")
    truth: str | None = flag(
        "JSON with the true words of every patch, where they are known: precision is measured too"
    )
    num_images: int = flag("pictures measured on, spread evenly over those with a caption", 1000)
    sea_features: tuple[str, ...] = flag(
        "patch features to measure; each with both signs, with and without --sea_center",
        FEATURES,
        choices=FEATURES,
        type=str,
    )
    top_n: tuple[int, ...] = flag(
        "numbers of words a patch keeps; the words are mined once, with the largest",
        (1, 2, 3, 5, 10),
        type=int,
    )
    image_aspect_ratio: str = flag(
        "image transform, the one that training uses", "square", choices=("square", "pad")
    )
    word_template: str = flag("prompt around each word, with one {}; the paper: none", "{}")
    on_bad_image: str = flag(
        "a picture that is missing or unreadable: stop, or leave it out",
        "fail",
        choices=("fail", "skip"),
    )
    batch_size: int = flag("pictures encoded at a time", 32)
    loader_threads: int = flag("threads that decode pictures", 4)
    device: str = flag("auto, cpu or cuda", "auto", choices=("auto", "cpu", "cuda"))
    dtype: str = flag("numbers that the encoder runs in", "float32", choices=DTYPES)

    def resolved(self) -> QualityOptions:
        """Check the values; features and n come back sorted and once each.

        Raises:
            UserError: if a needed flag is missing or a value cannot be.
        """
        check_ranges("labels.quality", self)
        for name in self.sea_features:
            self.extraction(name).resolved()
        if self.output is not None and not Path(self.output).absolute().parent.is_dir():
            raise UserError(f"--output {self.output}: there is no such folder to write it in")
        if self.output is not None and Path(self.output).is_dir():
            raise UserError(f"--output {self.output}: is a folder; give a file, quality.json say")
        features = tuple(name for name in FEATURES if name in self.sea_features)
        return dataclasses.replace(
            self, sea_features=features, top_n=tuple(sorted(set(self.top_n)))
        )

    def extraction(self, features: str) -> ExtractOptions:
        """Return the options of an extraction with these features, for the parts both share."""
        shared = {item.name for item in dataclasses.fields(ExtractOptions)} - {"sea_features"}
        given = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name in shared
        }
        return ExtractOptions(
            **given, sea_features=features, sea_top_n=max(self.top_n, default=1), output_dir="-"
        )


def parse_quality_options(arguments: Sequence[str] | None = None) -> QualityOptions:
    """Read the command line.

    Raises:
        UserError: for a flag that does not exist, with the nearest one that does.
    """
    options = parse_flags(
        QualityOptions,
        "python -m llava_sea.labels.quality",
        "Measure how good labels of every kind would be on this corpus, and say which are best.",
        arguments,
    )
    return dataclasses.replace(
        options, sea_features=tuple(options.sea_features), top_n=tuple(options.top_n)
    )
