"""Make the world's models from nothing (``python -m playground.build``).

Trains the CLIP and the three LLMs, one after the other (about two hours on one CPU thread, all
together), measures each on test scenes, writes its model card, and only then replaces the shipped
folder. With ``--resume`` an interrupted build goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from llava_sea.errors import run_command
from playground.evaluate import EVALUATORS, MODELS, Result, format_results, write_samples
from playground.train_clip import train_clip
from playground.train_llm import LLM_SIZES, train_llm
from playground.training import STATE_FOLDER, device_name


@dataclass(frozen=True)
class Recipe:
    """How a model folder is made and measured."""

    train: Callable[..., float]
    evaluate: Callable[..., Sequence[Result]]
    title: str
    about: str


ABOUT_CLIP = (
    "A `CLIPModel` for 64-pixel pictures with 8x8 patches of 8 pixels, trained from scratch on "
    "pictures and texts of the miniature world: contrastive loss; single things, full scenes, "
    "named backgrounds and signs; hard negatives that differ in one attribute; texts that fit no "
    "picture; at each step a random part of a picture's patches, as in FLIP. The tokenizer and "
    "the image transform lie in this folder. It knows nothing but that world."
)
ABOUT_LLM = (
    "A `LlamaForCausalLM` with a SentencePiece tokenizer like Llama's, trained from scratch on "
    "text of the miniature world: scenes told in words or patch by patch with questions and "
    "captions after them, captions alone, lists of words. It has never met a picture. It knows "
    "nothing but that world. The weights are stored in bfloat16."
)


def _recipes() -> dict[str, Recipe]:
    recipes = {
        "clip": Recipe(train_clip, EVALUATORS["clip"], "The miniature world's CLIP", ABOUT_CLIP)
    }
    for name in LLM_SIZES:
        size = name.removeprefix("llm-")
        recipes[name] = Recipe(
            functools.partial(train_llm, name),
            EVALUATORS[name],
            f"The miniature world's LLM, {size}",
            ABOUT_LLM,
        )
    return recipes


RECIPES = _recipes()


def _reading_of(name: str) -> str:
    """Say what the measures mean."""
    if name == "clip":
        return (
            '"Named" is zero-shot on scenes with one thing (24 kinds; 10 colours, the kind '
            "given; 9 backgrounds). The other rows are shares of patches whose best word is true, "
            "of all words that captions use and as many that are true of nothing, by patch "
            "features (plain sign); the setting with the best sum is held against the bars."
        )
    return (
        'Answers are right if the best token is right at every place of the answer. "Told in '
        'words" is a list of the things, "told by patches" one true word for each patch, or a '
        "phrase for each four. Yes-no questions have as many of either answer."
    )


def write_card(folder: Path, name: str, seconds: float, results: Sequence[Result]) -> None:
    """Write a model folder's README.md: what it is, what it reached, how long it took.

    Args:
        folder: the model's folder; it gets the file.
        name: key of `RECIPES`.
        seconds: what training took.
        results: measured on test scenes.
    """
    recipe = RECIPES[name]
    weights = folder / "model.safetensors"
    missed = [result.name for result in results if result.is_missed]
    lines = [
        f"# {recipe.title}",
        "",
        recipe.about,
        "",
        f"Recipe: `python -m playground.build --only {name}`. Training took {seconds / 60:.0f} "
        f"minutes on {device_name()} (torch {torch.__version__.split('+')[0]}); weights "
        f"{weights.stat().st_size / 1e6:.1f} MB.",
        "",
        "Reached on test scenes, whose contents no training scene has "
        f"(`python -m playground.evaluate --only {name}`); the recipe was settled on dev scenes:",
        "",
        "```",
        format_results(results),
        "```",
        "",
        _reading_of(name),
    ]
    if missed:
        lines += ["", f"Bars that are missed: {'; '.join(missed)}."]
    if name != "clip":
        lines += ["", "Captions of scenes told by patches (greedy):", ""]
        for truth, written in write_samples(folder):
            lines.append(f'- "{written}" where a person might say "{truth}"')
    (folder / "README.md").write_text("\n".join(lines) + "\n", "utf-8")


def _remove_states(name: str) -> None:
    """Remove what earlier builds of the model left, so that no part of them is taken up again."""
    for state in STATE_FOLDER.glob(f"{name}*_state.pt"):
        state.unlink()


def build(name: str, *, models: Path = MODELS, resume: bool = False) -> None:
    """Train one model, measure it, write its card and put it in place.

    Args:
        name: key of `RECIPES`.
        models: folder that gets the subfolder `name`.
        resume: go on with an interrupted build.
    """
    recipe = RECIPES[name]
    work = STATE_FOLDER / name
    shutil.rmtree(work, ignore_errors=True)
    if not resume:
        _remove_states(name)
    seconds = recipe.train(folder=work, resume=resume)
    results = recipe.evaluate(work)
    write_card(work, name, seconds, results)
    print(f"{name} on test scenes\n{format_results(results)}")
    models.mkdir(parents=True, exist_ok=True)
    arriving, target = models / f".{name}-new", models / name
    shutil.rmtree(arriving, ignore_errors=True)
    shutil.copytree(work, arriving)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(arriving, target)
    shutil.rmtree(work)
    _remove_states(name)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``python -m playground.build``."""
    parser = argparse.ArgumentParser(description="Train the miniature world's models.")
    parser.add_argument("--only", choices=tuple(RECIPES), help="make one model alone")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted build")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in RECIPES:
        if options.only in (None, name):
            build(name, resume=options.resume)


if __name__ == "__main__":
    run_command(main)
