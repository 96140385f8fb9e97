"""Tokenizer, template and image transform of a run, loaded from its flags as training does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llava_sea.alignment import LabelStore
from llava_sea.conversation import get_template
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.images import ImageTransform, patch_grid
from llava_sea.data.words import tokenize_words
from llava_sea.errors import UserError
from llava_sea.model.builder import check_exists, load_tokenizer
from llava_sea.model.load import embedding_rows
from llava_sea.model.towers import (
    check_select_layer,
    load_tower,
    num_patches,
    prefix_tokens,
    tower_config,
)
from llava_sea.train.arguments import Arguments
from llava_sea.train.stage1 import open_labels


@dataclass(frozen=True)
class Setup:
    """The training flags, and the parts that turn a record into a sample."""

    arguments: Arguments
    reader: LazySupervisedDataset
    """Reads records as training does; holds none."""
    grid: tuple[int, int]
    num_rows: int
    """Of the LLM's embedding table."""


def load_setup(arguments: Arguments) -> Setup:
    """Load tokenizer, processor and the tower's configuration; no weights."""
    model_args, data, _, args = arguments
    tower_path, llm_path = str(model_args.vision_tower), model_args.model_name_or_path
    check_exists(tower_path, "--vision_tower")
    with _naming(f"--vision_tower {tower_path}"):
        vision = tower_config(tower_path, args.cache_dir)
    feature = model_args.mm_vision_select_feature
    first_patch = prefix_tokens(vision) if feature == "cls_patch" else 0
    num_rows = embedding_rows(llm_path, args.cache_dir)
    with _naming(f"--model_name_or_path {llm_path}"):
        tokenizer = load_tokenizer(
            llm_path, model_max_length=args.model_max_length, cache_dir=args.cache_dir
        )
    check_select_layer(model_args.mm_vision_select_layer, vision, tower_path)
    transform = ImageTransform.from_pretrained(tower_path, data.image_aspect_ratio)
    transform.check_fits(vision)
    reader = LazySupervisedDataset(
        [],
        data.image_folder or "",
        transform,
        get_template(model_args.version, tokenizer),
        tokenizer,
        image_tokens=num_patches(vision) + first_patch,
        first_patch=first_patch,
        model_max_length=args.model_max_length,
    )
    return Setup(arguments, reader, patch_grid(vision), num_rows)


def open_run_labels(setup: Setup) -> LabelStore:
    """Open the label store as training does, its word list included; loads the vision tower."""
    model_args, _, sea, args = setup.arguments
    # A folder without a store is told at once, before the weights are read.
    LabelStore(str(sea.sea_labels)).words()
    tower = load_tower(str(model_args.vision_tower), cache_dir=args.cache_dir)
    store = open_labels(sea, tower, setup.reader.transform, setup.grid)
    tokenize_words(store.words(), setup.reader.tokenizer, setup.num_rows)
    return store


@contextmanager
def _naming(flag: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{flag}: {first_line}") from None
