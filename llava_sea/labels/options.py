"""The flags of the label extraction and of the quality measurement, and their checks.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llava_sea.errors import UserError
from llava_sea.files import refuse_other_file
from llava_sea.presets import LABEL_PRESETS
from llava_sea.ranges import check_ranges

FEATURES = ("vanilla", "value", "value2", "qq", "qq+kk")
SIGNS = ("auto", "+1", "-1")
CENTERS = ("none", "corpus")
DTYPES = ("float32", "bfloat16", "float16")

Options = TypeVar("Options")


def flag(help: str, default: Any = None, **metadata: Any) -> Any:
    """Make a field that `parse_flags` turns into a flag."""
    return field(default=default, metadata={"help": help, **metadata})


def _by_preset(name: str) -> str:
    return ", ".join(f"{preset}: {values[name]}" for preset, values in LABEL_PRESETS.items())


@dataclass(kw_only=True)
class CorpusOptions:
    """The images and captions, and the encoder that reads them."""

    data_path: tuple[str, ...] | str = flag(
        "training data: JSON in LLaVA's layout, .jsonl or .parquet; several are one corpus",
        (),
        type=str,
    )
    image_folder: str | None = flag(
        "folder (or .tar shards) that the records' image names are relative to"
    )
    vision_tower: str = flag("CLIP, SigLIP or TIPSv2 folder (or hub name) with both towers", "")
    words: str = flag("word list, made by python -m llava_sea.labels.word_list", "")
    image_aspect_ratio: str = flag(
        "image transform, the one that training uses", "square", choices=("square", "pad")
    )
    word_template: str = flag("prompt around each word, with one {}; the paper: none", "{}")
    on_bad_image: str = flag(
        "an image that is missing or unreadable: stop, or leave it out (extract lists it)",
        "fail",
        choices=("fail", "skip"),
    )
    batch_size: int = flag("images encoded at a time", 32)
    loader_threads: int = flag("threads of each process that decode images", 4)
    device: str = flag("auto, cpu or cuda", "auto", choices=("auto", "cpu", "cuda"))
    dtype: str = flag("numbers that the encoder runs in", "float32", choices=DTYPES)

    @property
    def data_files(self) -> tuple[str, ...]:
        """The files of `data_path`."""
        return (self.data_path,) if isinstance(self.data_path, str) else self.data_path

    def check(self, command: str) -> None:
        """Raise a UserError that names the flag for a missing or impossible value."""
        for item in dataclasses.fields(self):
            value, choices = getattr(self, item.name), item.metadata.get("choices")
            if value in ("", ()) and item.default == value:
                raise UserError(f"--{item.name} is needed; see --help")
            for each in value if isinstance(value, tuple) else (value,):
                if choices and each not in choices:
                    raise UserError(f"--{item.name} {each}: choose one of {', '.join(choices)}")
        check_ranges(command, self)
        if self.image_folder is not None and not Path(self.image_folder).exists():
            raise UserError(f"--image_folder {self.image_folder}: no such folder")


@dataclass(kw_only=True)
class ExtractOptions(CorpusOptions):
    """The corpus to label, the kind of labels, and their folder."""

    output_dir: str = flag("folder for the labels; an unfinished one is resumed", "")
    sea_preset: str = flag(
        "values of the five flags below that are not given", "best", choices=tuple(LABEL_PRESETS)
    )
    sea_features: str | None = flag(
        f"patch features in the joint space ({_by_preset('sea_features')})", choices=FEATURES
    )
    sea_sign: str | None = flag(
        f"sign of the cosine; auto measures it by caption lift ({_by_preset('sea_sign')})",
        choices=SIGNS,
    )
    sea_center: str | None = flag(
        "corpus subtracts from every patch the mean patch of a sample of the corpus, which is to "
        "subtract each word's mean score from its scores: words that score high everywhere lose "
        "that, and 'not above 0' means 'no better than usual'. The vector is not made length 1 "
        f"again, so scores are differences of cosines ({_by_preset('sea_center')})",
        choices=CENTERS,
    )
    sea_top_n: int | None = flag(f"words kept for each patch ({_by_preset('sea_top_n')})", type=int)
    sea_caption_share: float | None = flag(
        "a word of the image's own caption is a patch's only label where it scores at least this "
        "share of the patch's best word; 0, the paper: captions of other images say as much "
        f"({_by_preset('sea_caption_share')})",
        type=float,
    )
    sea_ocr: str | None = flag(
        "words that are written in the images, with their boxes (README): labels of the patches "
        "that show them, before all others; .jsonl, .json (TextVQA's too) or .parquet"
    )
    sign_sample: int = flag(
        "images that --sea_sign auto and --sea_center corpus are measured on", 1000
    )
    shard_size: int = flag("images in a shard: the most that a kill can lose", 1024)
    local_rank: int = flag("set by the deepspeed launcher", -1)

    def resolved(self) -> ExtractOptions:
        """Fill in the preset's values; flags that were given win. Raises as `check`."""
        preset = LABEL_PRESETS.get(self.sea_preset, {})
        chosen = {k: v for k, v in preset.items() if getattr(self, k) is None}
        options = dataclasses.replace(self, **chosen)
        options.check("labels.extract")
        return options


@dataclass(kw_only=True)
class QualityOptions(CorpusOptions):
    """The sample and the kinds of labels to measure."""

    output: str | None = flag("file for all numbers, as JSON")
    truth: str | None = flag(
        "JSON with the true words of every patch, where they are known: precision is measured too"
    )
    num_images: int = flag("images measured on, spread evenly over those with a caption", 1000)
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

    def resolved(self) -> QualityOptions:
        """Check the values; features and n come back sorted and once each. Raises as `check`."""
        self.check("labels.quality")
        if self.output is not None and not Path(self.output).absolute().parent.is_dir():
            raise UserError(f"--output {self.output}: there is no such folder to write it in")
        if self.output is not None and Path(self.output).is_dir():
            raise UserError(f"--output {self.output}: is a folder; give a file, quality.json say")
        if self.output is not None:
            refuse_other_file(Path(self.output), "--output", b'"chosen": ')
        features = tuple(name for name in FEATURES if name in self.sea_features)
        return dataclasses.replace(
            self, sea_features=features, top_n=tuple(sorted(set(self.top_n)))
        )


def parse_flags(
    options: type[Options], program: str, description: str, arguments: Sequence[str] | None
) -> Options:
    """Read a command line into a dataclass of options, a flag for each field.

    A field whose default is "" or () must be given. `arguments` of None are this process's.

    Raises:
        UserError: for a flag that does not exist, with the nearest one that does.
    """
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    items = dataclasses.fields(options)  # type: ignore[arg-type]
    for item in items:
        many = isinstance(item.default, tuple)
        shown: Any = item.default
        shown = " ".join(map(str, shown)) if many else shown
        text = item.metadata["help"] + (f" (default: {shown})" if shown else "")
        parser.add_argument(
            f"--{item.name}",
            default=item.default,
            required=item.default in ("", ()),
            nargs="+" if many else None,
            type=item.metadata.get("type", type(item.default) if item.default is not None else str),
            choices=item.metadata.get("choices"),
            help=text.replace("%", "%%"),
        )
    values, unknown = parser.parse_known_args(_join_signs(arguments))
    if unknown:
        name = unknown[0].split("=")[0].lstrip("-")
        near = difflib.get_close_matches(name, [item.name for item in items], n=1, cutoff=0.5)
        hint = f"; did you mean --{near[0]}?" if near else "; see --help"
        raise UserError(f"there is no flag {unknown[0]!r}{hint}")
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(values).items()}
    return options(**given)


def _join_signs(arguments: Sequence[str] | None) -> list[str]:
    """Write ``--sea_sign -1`` as ``--sea_sign=-1``: argparse takes a bare -1 for a flag."""
    joined: list[str] = []
    for argument in sys.argv[1:] if arguments is None else arguments:
        if joined and joined[-1] == "--sea_sign":
            joined[-1] += "=" + ("+1" if argument == "1" else argument)
        else:
            joined.append(argument)
    return joined


def parse_options(arguments: Sequence[str] | None = None) -> ExtractOptions:
    """Read the command line of the extraction; raises as `parse_flags`."""
    return parse_flags(
        ExtractOptions,
        "python -m llava_sea.labels.extract",
        "Mine the best words for every patch of a corpus's images (SEA 3.1).",
        arguments,
    )
