"""The lines of the page in their order."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.distributed as dist
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from llava_sea.files import read_text
from llava_sea.model.towers import num_patches
from llava_sea.preflight import checkpoints, corpus, measure, numerics
from llava_sea.preflight.measure import Stage, without
from llava_sea.preflight.page import OK, WARNING, Line, Page, red
from llava_sea.terminal import say
from llava_sea.train.parse import check_stage, parse_args
from llava_sea.train.precision import check_attention, weights_dtype
from llava_sea.train.train_mem import FLASH_ATTENTION, pick_attention

ONLY = {
    1: ("sea_",),
    2: (
        *("lora_", "bits", "double_quant", "quant_type", "freeze_", "unfreeze_", "pack_sequences"),
        *("mm_projector_lr", "mm_vision_tower_lr", "group_by_modality_length"),
    ),
}
"""Beginnings of flags that belong to one stage: of those given to the script each gets its own."""
PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "peft", "tokenizers", "numpy")


def read_stage(number: int, flags: list[str], options: argparse.Namespace) -> Stage:
    """Parse a stage's flags as training does."""
    try:
        flags = without(flags, ONLY[1 if number == 2 else 2])
        arguments = parse_args(flags)
        check_stage(arguments)
    finally:
        unset_hf_deepspeed_config()  # under ZeRO-3's, models made here would be partitioned
    args = arguments.training
    dtype = weights_dtype(args)
    args.attn_implementation = args.attn_implementation or pick_attention(dtype)
    name = str(dtype).removeprefix("torch.")
    if not torch.cuda.is_available() and "bf16" in _true(flags):
        name = "bfloat16"  # of the machine that it is meant for
    return Stage(number, flags, arguments, options.num_gpus, name)


def _true(flags: Sequence[str]) -> set[str]:
    pairs = zip(flags, [*flags[1:], ""], strict=True)
    return {name[2:] for name, value in pairs if name.startswith("--") and value == "True"}


def installed_line(stages: Sequence[Stage]) -> Line:
    """Say what is installed and what of it a run uses."""
    versions, odd = {"python": platform.python_version()}, []
    tested = _tested()
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            way_out = "pip install -c constraints.txt -e ."
            return red("installed", f"{package} is not installed", way_out, versions=versions)
        wanted = tested.get(package)
        if wanted and versions[package].partition("+")[0] != wanted:
            odd.append(f"{package} {wanted}")
    details: dict[str, object] = {"versions": versions}
    dtype = numerics_setting(stages).dtype
    attention = numerics_setting(stages).attention
    check_attention(attention, dtype)
    liger = importlib.util.find_spec("liger_kernel") is not None
    used = any(stage.arguments.training.use_liger_kernel for stage in stages)
    gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    details["gpus"] = [f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB" for gpu in gpus]
    told = [f"{name} {number}" for name, number in list(versions.items())[:4]]
    told.append(f"attention {attention}")
    told.append(f"Liger {'used' if used else 'installed, not used' if liger else 'not installed'}")
    told.append(str(dtype).removeprefix("torch."))
    if gpus:
        counted = ", ".join(dict.fromkeys(details["gpus"]))  # type: ignore[call-overload]
        nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        told.append(f"{len(gpus)} x {counted}, NCCL {nccl}")
    else:
        told.append(f"no GPU{', gloo' if dist.is_gloo_available() else ''}")
    details["used"] = told
    found = ", ".join(told)
    needed = max((stage.world for stage in stages), default=1)
    if gpus and len(gpus) < needed:
        way_out = f"NUM_GPUS={len(gpus)}, and accumulation so much higher"
        return red("installed", f"{found}: {needed} GPUs are asked for", way_out, **details)
    if gpus and dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported():
        way_out = "--bf16 False --fp16 True, or an Ampere GPU or later"
        return red("installed", f"{found}: this GPU has no bfloat16", way_out, **details)
    if gpus and attention == "sdpa" and dtype != torch.float32:
        first = next(reversed(FLASH_ATTENTION))
        return Line("installed", found, OK, f"faster with {first}: pip install flash-attn", details)
    if odd:
        way_out = f"tests ran with {', '.join(odd)}: pip install -c constraints.txt -e ."
        return Line("installed", found, WARNING, way_out, details)
    return Line("installed", found, details=details)


def _tested() -> dict[str, str]:
    """Return the versions of constraints.txt, {} where the checkout is not there."""
    path = Path(__file__).parents[2] / "constraints.txt"
    if not path.is_file():
        return {}
    lines = [line.split(";")[0].strip() for line in read_text(path).splitlines()]
    return dict(line.split("==") for line in lines if "==" in line and line[0] != "#")


def numerics_setting(stages: Sequence[Stage]) -> numerics.Setting:
    """Return where and how the run computes, as the tiny models are to."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not stages:
        return numerics.Setting(device)
    args = stages[-1].arguments.training
    return numerics.Setting(device, weights_dtype(args), args.attn_implementation or "sdpa")


def fill_page(options: argparse.Namespace, flags: Mapping[int, list[str]]) -> int:
    """Add every line, the verdict and the JSON file; return the exit status."""
    page, stages, warm = Page(), list[Stage](), list[Stage]()
    logging.getLogger("llava_sea").setLevel(logging.ERROR)
    for number in sorted(flags, key=lambda number: number or 3):  # the warm start last
        place = stages if number else warm
        page.check(f"flags {number}", _read, number, flags[number], options, place)
    page.check("installed", installed_line, stages)
    setting = numerics_setting(stages)
    for name in numerics.CHECKS:
        page.check(name, numerics.check, name, setting)
    for stage in stages:
        page.check(f"models {stage.number}", _config, stage)
    for stage in stages:
        page.check(f"data {stage.number}", corpus.data_line, stage)
    _check_files(page, stages)
    rate = _check_labels(page, stages, options)
    known = [stage for stage in stages if stage.config is not None]
    timed = [
        replace(stage, number=0, flags=one.flags, arguments=one.arguments, measured={})
        for one in warm
        for stage in known
        if stage.number == 1
    ] + known
    assumed = None
    if not torch.cuda.is_available() and any(s.dtype == "bfloat16" for s in known):
        assumed = (options.gpu_memory or 80) * 1e9
    for stage in timed:
        page.check(f"steps {stage.number}", measure.steps_line, stage)
        if stage.number == 0:  # needs less memory than stage 1
            continue
        memory, where = measure.memory_here(options.num_gpus, assumed)
        page.check(f"memory {stage.number}", measure.memory_line, stage, memory, where)
    to_label = _to_label(known)
    labelling = options.num_gpus if torch.cuda.is_available() else 1  # as extract_labels.sh does
    page.check("time", measure.time_line, timed, rate * labelling, to_label)
    page.check("disk", lambda: measure.disk_line(_disk(timed, to_label)))
    hours = next((line.found for line in page.lines if line.name == "time"), "")
    verdict = page.verdict(hours)
    say(verdict)
    about = {"date": datetime.now().isoformat(timespec="seconds"), "flags": flags}
    page.write(options.output, verdict, **about, num_gpus=options.num_gpus)
    say(f"this page with all numbers, to attach when you report a fault: {options.output}")
    return int(bool(page.bad))


def _read(number: int, flags: list[str], options: argparse.Namespace, stages: list[Stage]) -> Line:
    stage = read_stage(number, flags, options)
    stages.append(stage)
    args = stage.arguments.training
    engine = Path(str(args.deepspeed)).stem if args.deepspeed else "no DeepSpeed"
    found = f"{stage.name}: {stage.world} processes x {args.per_device_train_batch_size} records x "
    found += f"{args.gradient_accumulation_steps} accumulated = {stage.batch} a step, {engine}"
    return Line(f"flags {number}", found)


def _config(stage: Stage) -> Line:
    stage.config = checkpoints.config_of(stage.arguments)
    text, vision = stage.config.text_config, stage.config.vision_config
    kinds = f"LLM {text.model_type}, vision tower {vision.model_type}"  # type: ignore[union-attr]
    return Line(f"models {stage.number}", f"stage {stage.number}: {kinds}")


def _check_files(page: Page, stages: Sequence[Stage]) -> None:
    """Look at the files of the LLM and the tower: once where both stages have the same."""
    if not stages:
        return
    last, seen = stages[-1].arguments, set()
    looks: list[tuple[str, Callable[..., Line]]] = [
        ("LLM files", checkpoints.llm_line),
        ("tokenizer", checkpoints.tokenizer_line),
        ("token ids", checkpoints.ids_line),
        ("chat template", checkpoints.template_line),
        ("vision tower", checkpoints.tower_line),
    ]
    for name, look in looks:
        page.check(name, look, last)
    page.check("pad token", lambda: checkpoints.pad_line(last, corpus.some_texts(last)))
    for stage in stages:
        seen.add((stage.arguments.model.model_name_or_path, stage.arguments.model.vision_tower))
    if len(seen) > 1:
        page.add(
            Line(
                "models", "the stages name different models; only stage 2's were looked at", WARNING
            )
        )


def _check_labels(page: Page, stages: Sequence[Stage], options: argparse.Namespace) -> float:
    """Add the line on labels, where stage 1 has SEA; return the images labelled in a second."""
    first = next((stage for stage in stages if stage.number == 1), None)
    if first is None or not first.arguments.sea.enabled:
        return 0.0
    rate = 0.0

    def look() -> Line:
        nonlocal rate
        assert first is not None
        tower = options.label_tower or str(first.arguments.model.vision_tower)
        plan = corpus.LabelPlan(tower, options.words, options.preset, options.common_words)
        picture = options.output.with_name(f"{options.output.stem}-labels.html")
        line, rate = corpus.labels_line(first.arguments, plan, picture)
        return line

    page.check("labels", look)
    return rate


def _to_label(stages: Sequence[Stage]) -> int:
    """Count the images that are to be labelled: none where the labels are there."""
    for stage in stages:
        labels = stage.arguments.sea.sea_labels
        if stage.number == 1 and labels and not (Path(labels) / "manifest.json").is_file():
            return stage.images
    return 0


def _disk(stages: Sequence[Stage], to_label: int) -> dict[Path, float]:
    needed = measure.disk_needs(stages)
    for stage in stages if to_label else ():
        if stage.number == 1 and stage.config is not None:
            from llava_sea.presets import LABEL_PRESETS

            sea = stage.arguments.sea
            top_n = LABEL_PRESETS[sea.sea_preset or "best"]["sea_top_n"]
            size = 5 * to_label * num_patches(stage.config.vision_config) * top_n
            folder = Path(str(sea.sea_labels)).absolute()
            needed[folder] = needed.get(folder, 0.0) + size
    return needed
