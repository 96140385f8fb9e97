"""The flags of the label extraction, their presets, and what is wrong with them.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from llava_sea.errors import UserError
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


@dataclass
class ExtractOptions:
    """What to label, with what, and where to put it."""

    data_path: str = flag("training data: a JSON (or JSONL) file in LLaVA's layout", "")
    image_folder: str = flag("folder that the records' image names are relative to", "")
    vision_tower: str = flag("CLIP or SigLIP folder (or hub name) with both towers", "")
    words: str = flag("word list, made by python -m llava_sea.labels.word_list", "")
    output_dir: str = flag("folder for the labels; an unfinished one is continued", "")
    image_aspect_ratio: str = flag(
        "image transform, the one that training uses", "square", choices=("square", "pad")
    )
    sea_preset: str = flag(
        "values of the four flags below that are not given", "best", choices=tuple(LABEL_PRESETS)
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
    word_template: str = flag("prompt around each word, with one {}; the paper: none", "{}")
    sign_sample: int = flag(
        "pictures that --sea_sign auto and --sea_center corpus are measured on", 1000
    )
    on_bad_image: str = flag(
        "a picture that is missing or unreadable: stop, or give it no labels and list it",
        "fail",
        choices=("fail", "skip"),
    )
    batch_size: int = flag("pictures encoded at a time", 32)
    shard_size: int = flag("pictures in a shard: what a kill can lose at most", 1024)
    num_workers: int = flag("processes; 0 is one for each GPU, or one", 0)
    loader_threads: int = flag("threads of each process that decode pictures", 4)
    device: str = flag("auto, cpu or cuda", "auto", choices=("auto", "cpu", "cuda"))
    dtype: str = flag("numbers that the encoder runs in", "float32", choices=DTYPES)

    def resolved(self) -> ExtractOptions:
        """Fill in what the preset decides; flags that were given win.

        Raises:
            UserError: if a needed flag is missing or a value cannot be.
        """
        for name in ("data_path", "image_folder", "vision_tower", "words", "output_dir"):
            if not getattr(self, name):
                raise UserError(f"--{name} is needed; see --help")
        if self.sea_preset not in LABEL_PRESETS:
            raise UserError(
                f"--sea_preset {self.sea_preset}: choose one of {', '.join(LABEL_PRESETS)}"
            )
        preset = LABEL_PRESETS[self.sea_preset]
        chosen = {k: v for k, v in preset.items() if getattr(self, k) is None}
        options = dataclasses.replace(self, **chosen)
        for item in dataclasses.fields(options):
            value, choices = getattr(options, item.name), item.metadata.get("choices")
            if choices and value not in choices:
                raise UserError(f"--{item.name} {value}: choose one of {', '.join(choices)}")
        check_ranges("labels.extract", options)
        if not Path(options.image_folder).is_dir():
            raise UserError(f"--image_folder {options.image_folder}: no such folder")
        return options


def parse_options(arguments: Sequence[str] | None = None) -> ExtractOptions:
    """Read the command line.

    Raises:
        UserError: for a flag that does not exist, with the nearest one that does.
    """
    return parse_flags(
        ExtractOptions,
        "python -m llava_sea.labels.extract",
        "Mine the best words for every patch of a corpus's pictures (SEA 3.1).",
        arguments,
    )


def parse_flags(
    options: type[Options], program: str, description: str, arguments: Sequence[str] | None
) -> Options:
    """Read a command line into a dataclass of options, a flag for each field.

    Args:
        options: the dataclass; a field whose default is "" must be given.
        program: how the command is called.
        description: what it does, for --help.
        arguments: the command line; None for this process's.

    Raises:
        UserError: for a flag that does not exist, with the nearest one that does.
    """
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    items = dataclasses.fields(options)  # type: ignore[arg-type]
    for item in items:
        many = isinstance(item.default, tuple)
        shown: Any = item.default
        if many:
            shown = " ".join(map(str, shown))
        parser.add_argument(
            f"--{item.name}",
            default=item.default,
            required=item.default == "",
            nargs="+" if many else None,
            type=item.metadata.get("type", type(item.default) if item.default is not None else str),
            choices=item.metadata.get("choices"),
            help=(item.metadata["help"] + (f" (default: {shown})" if shown else "")).replace(
                "%", "%%"
            ),
        )
    values, unknown = parser.parse_known_args(_join_signs(arguments))
    if unknown:
        raise UserError(_unknown_flag(unknown[0], [item.name for item in items]))
    return options(**vars(values))


def _join_signs(arguments: Sequence[str] | None) -> list[str] | None:
    """Write ``--sea_sign -1`` as ``--sea_sign=-1``: argparse takes a bare -1 for a flag."""
    if arguments is None:
        import sys

        arguments = sys.argv[1:]
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--sea_sign":
            joined[-1] += "=" + ("+1" if argument == "1" else argument)
        else:
            joined.append(argument)
    return joined


def _unknown_flag(argument: str, known: list[str]) -> str:
    name = argument.split("=")[0].lstrip("-")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean --{near[0]}?" if near else "; see --help"
    return f"there is no flag {argument!r}{hint}"
