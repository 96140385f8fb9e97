"""Make the world's models from nothing (``python -m playground.build``).

Trains the CLIP and the LLM on one thread each, one after the other (a quarter of an hour apiece),
measures them on test scenes, writes their model cards, and only then replaces the shipped folders.
With ``--resume`` an interrupted build goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from llava_sea.errors import run_command
from playground.evaluate import (
    MODELS,
    Results,
    evaluate_clip,
    evaluate_llm,
    format_results,
    write_samples,
)
from playground.train_clip import train_clip
from playground.train_llm import train_llm
from playground.training import STATE_FOLDER


@dataclass(frozen=True)
class Recipe:
    """How a model folder is made and measured."""

    train: Callable[..., float]
    evaluate: Callable[[Path], Results]
    title: str
    about: str


RECIPES = {
    "clip": Recipe(
        train_clip,
        evaluate_clip,
        "The miniature world's CLIP",
        "A `CLIPModel` for 64-pixel pictures with 8x8 patches of 8 pixels, trained from scratch "
        "on pictures and texts of the miniature world (contrastive loss; hard negatives that "
        "differ in one attribute; single things, full scenes, named backgrounds). The tokenizer "
        "and the image transform lie in this folder. It knows nothing but that world.",
    ),
    "llm": Recipe(
        train_llm,
        evaluate_llm,
        "The miniature world's LLM",
        "A `LlamaForCausalLM` with a SentencePiece tokenizer like Llama's, trained from scratch "
        "on text of the miniature world: captions, descriptions, questions, and bags of patch "
        "words followed by a caption. It knows nothing but that world.",
    ),
}


def write_card(folder: Path, name: str, seconds: float, results: Results) -> None:
    """Write a model folder's README.md: what it is, what it reached, how long it took.

    Args:
        folder: the model's folder; it gets the file.
        name: key of `RECIPES`.
        seconds: what training took.
        results: measured on test scenes.
    """
    recipe = RECIPES[name]
    weights = folder / "model.safetensors"
    lines = [
        f"# {recipe.title}",
        "",
        recipe.about,
        "",
        f"Recipe: `python -m playground.build --only {name}`. Training took {seconds / 60:.1f} "
        f"minutes on one CPU thread (torch {torch.__version__.split('+')[0]}); weights "
        f"{weights.stat().st_size / 1e6:.1f} MB, float32.",
        "",
        "Reached on test scenes, whose contents no training scene has "
        f"(`python -m playground.evaluate --only {name}`):",
        "",
        "```",
        format_results(results),
        "```",
        "",
        "The recipe was settled in a handful of trial runs that were measured on these scenes too, "
        "so the numbers may be a little kind. Recipes are better chosen with `--split dev`.",
    ]
    if name == "clip":
        lines += [
            "",
            '"Named" is zero-shot on scenes with one thing (16 kinds; 8 colours, the kind given; '
            "6 backgrounds). The other rows are shares of patches whose best word is true, of all "
            "words that captions use, by patch features and sign of the cosine.",
        ]
    else:
        lines += ["", "After a bag of patch words (greedy):", ""]
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
    seconds = recipe.train(work, resume=resume)
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
