"""Stage 1: a frozen Llava with its projector trained, the alignment head, captions, labels."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from llava_sea.alignment import AlignmentHead, LabelStore
from llava_sea.conversation import Template
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.first_pass import check_conversations, check_tokens
from llava_sea.data.image_source import ImageSource
from llava_sea.data.images import ImageTransform, patch_grid, view
from llava_sea.data.records import Record
from llava_sea.data.words import tokenize_words
from llava_sea.errors import UserError
from llava_sea.files import write_atomically
from llava_sea.labels.patch_features import vision_fingerprint
from llava_sea.model.builder import build_llava, build_llava_without_llm, load_tokenizer, load_tower
from llava_sea.model.load import find_template
from llava_sea.model.projector_io import gathered, projector_state, save_projector
from llava_sea.model.stage1 import Stage1Model
from llava_sea.model.towers import first_patch
from llava_sea.model.wrapped import WrappedLlava
from llava_sea.presets import LABEL_PRESETS
from llava_sea.ranges import check_range, whole
from llava_sea.train.arguments import Arguments, SeaArguments
from llava_sea.train.evaluation import build_measurements
from llava_sea.train.precision import build_options, log_trainable, weights_dtype
from llava_sea.train.saving import HEAD_FILE, Stage1Saver, llava_config
from llava_sea.train.trainer import Prepared

logger = logging.getLogger(__name__)

INITIAL_PROJECTOR = "mm_projector_initial.bin"
NEXT_FLAGS = "stage1_flags"
"""A warm start leaves it."""


def prepare(
    records: Sequence[Record],
    images: str | ImageSource,
    transform: ImageTransform,
    arguments: Arguments,
) -> Prepared:
    """Build the model, the captions with their labels, and the held-out measurements."""
    named = arguments.model
    template = find_template(named.version, named.model_name_or_path, arguments.training.cache_dir)
    check_conversations(records, template)
    model = build_model(arguments)
    dataset, collator = build_data(records, images, transform, model, arguments, template)
    return Prepared(
        model,
        dataset,
        collator,
        saver=Stage1Saver(llava_config(model.llava, arguments)),
        measure=build_measurements(arguments, dataset, model.num_rows),
    )


def save_initial_projector(model: WrappedLlava, arguments: Arguments) -> None:
    """Keep the projector as it was before the first step, a warm start's included, for reports."""
    args, adapter = arguments.training, arguments.model.pretrain_mm_mlp_adapter
    state, path = projector_state(model.projector), Path(args.output_dir or ".") / INITIAL_PROJECTOR
    if args.process_index != 0:
        return
    untrained = Path(adapter or "").parent / INITIAL_PROJECTOR
    if untrained.with_name(NEXT_FLAGS).is_file() and untrained.is_file():
        write_atomically(path, untrained.read_bytes())
    else:
        save_projector(path, state)


def write_next_flags(output_dir: Path) -> str:
    """Write the flags with which stage 1 starts from a warm start's results; return them as a line.

    They go into ``stage1_flags``, a word a line, for scripts.
    """
    log_scale = float(load_file(output_dir / HEAD_FILE)["log_scale"])
    flags = {
        "--pretrain_mm_mlp_adapter": str(output_dir / "mm_projector.bin"),
        "--sea_log_scale_init": f"{min(log_scale, 4.605):.4f}",  # ln 100 rounded up is refused
    }
    words = [word for flag in flags.items() for word in flag]
    write_atomically(output_dir / NEXT_FLAGS, "".join(f"{w}\n" for w in words).encode())
    return f"stage 1 starts from it with\n  {shlex.join(words)}"


def build_model(arguments: Arguments) -> Stage1Model:
    """Build a stock Llava, its projector trainable, and the alignment head beside it."""
    sea = arguments.sea
    options = build_options(arguments)
    build = build_llava_without_llm if sea.sea_align_only else build_llava
    llava = build(**options)
    start = sea.sea_log_scale_init or 0.0
    head = AlignmentHead(start).to(options["dtype"]) if sea.enabled else None
    model = Stage1Model(
        llava,
        head,
        sea.sea_negatives,
        align_only=sea.sea_align_only,
        length_weight=sea.sea_length_weight or 0.0,
    )
    if not arguments.training.deepspeed:
        model.trainable_to_float32()
    log_trainable(model)
    return model


def build_data(
    records: Sequence[Record],
    images: str | ImageSource,
    transform: ImageTransform,
    model: Stage1Model,
    arguments: Arguments,
    template: Template,
) -> tuple[LazySupervisedDataset, Collator]:
    """Build captions and images, with SEA their labels."""
    model_args, _, sea, args = arguments
    config = model.llava.config
    transform.check_fits(config.vision_config)
    tokenizer = load_tokenizer(
        model_args.model_name_or_path,
        model_max_length=args.model_max_length,
        cache_dir=args.cache_dir,
    )
    store, words, grid = None, None, patch_grid(config.vision_config)
    if sea.enabled:
        # Rounded to float16 a tower does not show whose labels fit it; then it is read once more.
        rounded = weights_dtype(args) == torch.float16
        tower = (
            load_tower(str(model_args.vision_tower)) if rounded else model.llava.model.vision_tower
        )
        store = open_labels(sea, tower, transform, grid)
        words = tokenize_words(store.words(), tokenizer, model.num_rows)
        if words.num_dropped:
            logger.warning(
                "%d words of the list have more than 16 tokens, or ones that are unknown or beyond "
                "the embedding table, and can be no target",
                words.num_dropped,
            )
    dataset = LazySupervisedDataset(
        records,
        images,
        transform,
        template,
        tokenizer,
        image_tokens=config.image_seq_length,
        model_max_length=args.model_max_length,
        label_store=store,
        grid=grid,
        first_patch=first_patch(config),
        window=sea.sea_window,
        seed=args.seed,
    )
    check_tokens(dataset, model.num_rows)
    if dataset.num_without_labels:
        logger.warning("%d records have images without labels", dataset.num_without_labels)
    collator = Collator.of(
        dataset,
        model.num_rows,
        pairs_per_batch=dataset.pairs_per_record * args.per_device_train_batch_size,
        words=words,
    )
    return dataset, collator


def open_labels(
    sea: SeaArguments, tower: nn.Module, transform: ImageTransform, grid: tuple[int, int]
) -> LabelStore:
    """Open ``--sea_labels`` and check it against the run."""
    why = f"a side of --vision_tower's {grid[0]} x {grid[1]} patches"
    check_range("sea_window", sea.sea_window, whole(1, max(grid)), why)
    store = LabelStore(str(sea.sea_labels))
    where = f"--sea_labels {sea.sea_labels}"
    read = {"geometry": dict, "encoder_fingerprint": str, "encoder": str, "features": str}
    for field, kind in (read | {"sign": int}).items():
        if not isinstance(store.manifest.get(field), kind):
            raise UserError(
                f"{where}: damaged, manifest.json has no readable {field!r}; extract the labels "
                "again into a new folder"
            )
    mined, now = store.manifest["geometry"], transform.geometry()
    differing = [f for f in now if mined.get(f) != now[f]]
    # Another encoder may have other pixels, as long as both see the same part of the image.
    if differing and not (sea.sea_transfer and view(mined) == view(now)):
        details = "; ".join(f"{f}: {mined.get(f)!r} there, {now[f]!r} here" for f in differing)
        other = "if another encoder made them, pass --sea_transfer True"
        if view(mined) != view(now):
            other = (
                "or let another encoder show the same part of an image as this tower: "
                "--image_aspect_ratio pad for both, or scripts/fit_tower.py --view crop for it"
            )
        raise UserError(
            f"{where}: the images were transformed differently when they were labelled "
            f"({details}), so its labels belong to other pixels. Extract them again with this "
            f"run's --image_aspect_ratio and --vision_tower; {other}"
        )
    patch_embedding = next(m for m in tower.modules() if isinstance(m, nn.Conv2d))
    with gathered(*patch_embedding.parameters()):
        fingerprint = vision_fingerprint(patch_embedding.weight, tower.config)
    if fingerprint != store.manifest["encoder_fingerprint"]:
        if not sea.sea_transfer:
            raise UserError(
                f"{where}: mined with another encoder ({store.manifest['encoder']}) than "
                "--vision_tower. Extract labels with this one, or pass --sea_transfer True to "
                "train it on that one's labels"
            )
        logger.info(
            "labels of another encoder: those of its %d x %d patches are resampled to %d x %d by "
            "overlap",
            *store.grid,
            *grid,
        )
    for flag, value in LABEL_PRESETS.get(sea.sea_preset or "", {}).items():
        field = flag.removeprefix("sea_")
        found = store.manifest.get(field, LABEL_PRESETS["paper"][flag])  # written by hand
        if value != "auto" and str(found) != str(value):
            raise UserError(
                f"{where}: mined with {field} {found}, --sea_preset {sea.sea_preset} wants {value};"
                " extract them so, or pass --sea_preset none and the flags that training is to have"
            )
    logger.info(
        "labels of %d images, features %s, sign %+d, top %d, from %s",
        store.num_images,
        store.manifest["features"],
        store.manifest["sign"],
        store.top_n,
        store.directory,
    )
    return store
