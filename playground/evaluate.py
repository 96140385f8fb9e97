"""What the world's models reach on test scenes, bar by bar (``python -m playground.evaluate``).

The encoder: zero-shot naming, and the share of patches whose best word is true, for each feature
setting. The LLMs: answers to the fixed questions of `playground.questions` about scenes told in
words, or patch by patch, and the caption loss. Test scenes are made on the fly; nothing was trained
on their contents. A bar is what a model must reach for the comparisons made with it to mean
something; one that is missed is printed as such. Limits: about three minutes on one core.
"""

# Shape letters: I images, P patches, Q words, D joint dimension.

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoTokenizer, CLIPModel, LlamaForCausalLM

from llava_sea.errors import UserError, run_command
from llava_sea.labels.options import FEATURES
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.pretrained import load_pretrained
from playground.answers import answer_rates
from playground.captions import write_caption
from playground.corpus import caption_words
from playground.documents import (
    DocumentEncoder,
    Segment,
    caption_document,
    describe,
    document_loss,
    tell_by_patches,
)
from playground.questions import QUESTION_KINDS, YES_NO_KINDS, test_questions
from playground.render import render_scene
from playground.scene import Scene, sample_scene
from playground.train_clip import normalise_pixels
from playground.train_llm import LLM_SIZES
from playground.truth import object_patches, patch_words
from playground.vocabulary import BACKGROUNDS, COLOURS, KINDS
from playground.world import Split

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Result:
    """A measure, and the bar that it must reach if there is one."""

    name: str
    value: float
    bar: float | None = None

    @property
    def is_missed(self) -> bool:
        """Whether the value stays below its bar."""
        return self.bar is not None and self.value < self.bar


def scenes_of(split: Split, count: int, num_things: int | None = None) -> list[Scene]:
    """Draw a fixed list of scenes of a split."""
    rng = random.Random(f"evaluate/{split}/{num_things}")
    return [sample_scene(rng, split, num_things) for _ in range(count)]


def pixels_of(scenes: Sequence[Scene]) -> torch.Tensor:
    """Draw scenes as the encoder's input."""
    return normalise_pixels(np.stack([render_scene(scene) for scene in scenes]))


@torch.no_grad()
def embed_texts(model: CLIPModel, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Return ``text_QD``, rows of length 1."""
    rows = []
    for start in range(0, len(texts), 256):
        tokens = tokenizer(list(texts[start : start + 256]), padding=True, return_tensors="pt")
        rows.append(model.get_text_features(**tokens).pooler_output)
    return torch.nn.functional.normalize(torch.cat(rows), dim=-1)


@torch.no_grad()
def evaluate_naming(model: CLIPModel, tokenizer: Any, scenes: Sequence[Scene]) -> list[Result]:
    """Name the one thing, its colour (given the kind) and the background, zero-shot."""
    image_ID = model.get_image_features(pixel_values=pixels_of(scenes)).pooler_output

    def choose(texts: Sequence[str]) -> NDArray[np.int64]:
        return (image_ID @ embed_texts(model, tokenizer, texts).T).argmax(dim=1).numpy()

    things = [scene.things[0] for scene in scenes]
    kinds, colours = [k.name for k in KINDS], [c.name for c in COLOURS]
    backgrounds = [b.name for b in BACKGROUNDS]
    kind_right = [kinds[i] == t.kind for i, t in zip(choose(kinds), things, strict=True)]
    ground_right = [
        backgrounds[i] == s.background for i, s in zip(choose(backgrounds), scenes, strict=True)
    ]
    text_QD = embed_texts(model, tokenizer, [f"{c} {k}" for k in kinds for c in colours])
    scores = (image_ID @ text_QD.T).unflatten(1, (len(kinds), len(colours)))
    colour_right = [
        colours[int(scores[i, kinds.index(t.kind)].argmax())] == t.colour
        for i, t in enumerate(things)
    ]
    return [
        Result("kind of the one thing named", float(np.mean(kind_right)), 0.90),
        Result("colour of the one thing named", float(np.mean(colour_right)), 0.95),
        Result("background named", float(np.mean(ground_right)), 0.95),
    ]


def evaluate_patches(
    encoder: PatchEncoder, model: CLIPModel, tokenizer: Any, scenes: Sequence[Scene]
) -> list[Result]:
    """Share of patches whose best word is true, by features, centring and kind of patch.

    Centred features have the mean patch of other scenes subtracted. The setting with the best mean
    of both shares is held against the bars.
    """
    words = caption_words()
    text_QD = embed_texts(model, tokenizer, words)
    truths = [patch_words(scene) for scene in scenes]
    is_object_IP = np.array([[c == "1" for c in object_patches(scene)] for scene in scenes])
    others = pixels_of(scenes_of("train", 300))
    found: dict[str, tuple[float, float]] = {}
    for features in FEATURES:
        plain_IPD = encoder.encode_images(pixels_of(scenes), features).cpu()
        mean_D = encoder.encode_images(others, features).cpu().mean(dim=(0, 1))
        for name, patches_IPD in (("", plain_IPD), (", centred", plain_IPD - mean_D)):
            best_IP = (patches_IPD @ text_QD.T).argmax(dim=-1).numpy()
            right_IP = np.array(
                [
                    [words[best] in truth for best, truth in zip(row, row_truths, strict=True)]
                    for row, row_truths in zip(best_IP, truths, strict=True)
                ]
            )
            shares = float(right_IP[is_object_IP].mean()), float(right_IP.mean())
            found[f"{features}{name}"] = shares
    best = max(found, key=lambda setting: sum(found[setting]))
    results = []
    for setting, (on_objects, on_all) in found.items():
        bars = (0.70, 0.85) if setting == best else (None, None)
        results.append(Result(f"true word on top, object patches ({setting})", on_objects, bars[0]))
        results.append(Result(f"true word on top, all patches ({setting})", on_all, bars[1]))
    return results


@torch.no_grad()
def evaluate_captions(
    model: LlamaForCausalLM, encoder: DocumentEncoder, scenes: Sequence[Scene]
) -> list[Result]:
    """Caption loss with nothing, or a scene told by patches, before the caption."""
    evidence: dict[str, Callable[[random.Random, Scene], list[Segment]]] = {
        "nothing": lambda rng, scene: [],
        "patch words": lambda rng, scene: [Segment(tell_by_patches(rng, scene), 0.0)],
    }
    results = []
    for name, make in evidence.items():
        losses = []
        for start in range(0, len(scenes), 50):
            documents = []
            for index, scene in enumerate(scenes[start : start + 50]):
                caption = caption_document(random.Random(f"caption/{start + index}"), scene)
                rng = random.Random(f"evidence/{start + index}")
                documents.append([*make(rng, scene), *caption])
            losses.append(float(document_loss(model, *encoder.batch(documents))))
        results.append(Result(f"caption loss after {name}", float(np.mean(losses))))
    return results


def bar_of(llm: str, kind: str) -> float | None:
    """Return the bar of an LLM for a kind of question, if there is one.

    The largest must read; the smallest must have something to lose and yet read far above chance.
    """
    if kind not in QUESTION_KINDS[:6]:
        return None
    if llm == "llm-large":
        return 0.95 if kind in YES_NO_KINDS[:2] else 0.90
    if llm == "llm-small":
        return 0.75 if kind in YES_NO_KINDS else 0.60
    return None


def load_llm(folder: Path) -> tuple[LlamaForCausalLM, DocumentEncoder]:
    """Load an LLM in float32, and its tokenizer."""
    model = load_pretrained(LlamaForCausalLM, folder, dtype=torch.float32).eval()
    return model, DocumentEncoder(load_pretrained(AutoTokenizer, folder))


def evaluate_llm(folder: Path, split: Split = "test", per_kind: int = 200) -> list[Result]:
    """Evaluate an LLM folder; its name decides the bars."""
    model, encoder = load_llm(folder)
    asked = test_questions(split, per_kind)
    told = answer_rates(model, encoder, asked, describe)
    patches = answer_rates(model, encoder, asked, tell_by_patches)
    return [
        *(Result(f"{k}, told in words", v, bar_of(folder.name, k)) for k, v in told.items()),
        *(Result(f"{k}, told by patches", v) for k, v in patches.items()),
        *evaluate_captions(model, encoder, scenes_of(split, 300)),
    ]


def evaluate_clip(folder: Path, split: Split = "test", count: int = 300) -> list[Result]:
    """Evaluate a CLIP folder."""
    model = load_pretrained(CLIPModel, folder).eval()
    tokenizer = load_pretrained(AutoTokenizer, folder)
    naming = evaluate_naming(model, tokenizer, scenes_of(split, count, 1))
    encoder = PatchEncoder.from_pretrained(folder)
    scenes = scenes_of(split, count)
    return [*naming, *evaluate_patches(encoder, model, tokenizer, scenes)]


@torch.no_grad()
def write_samples(folder: Path, count: int = 4) -> list[tuple[str, str]]:
    """Let the LLM write captions of scenes told by patches.

    Returns:
        Pairs of a true caption and the caption that the LLM wrote (greedy).
    """
    model, encoder = load_llm(folder)
    pairs = []
    for index, scene in enumerate(scenes_of("test", count)):
        rng = random.Random(f"sample/{index}")
        truth = write_caption(rng, scene, keep=1.0).text
        ids, _ = encoder.encode([Segment(tell_by_patches(rng, scene), 0.0)])
        prompt = torch.tensor([ids[:-1]])
        generator: Any = model
        output = generator.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=40,
            do_sample=False,
            pad_token_id=model.config.eos_token_id,
        )
        written = encoder.tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
        pairs.append((truth, str(written).split("\n")[0].strip()))
    return pairs


EVALUATORS: dict[str, Callable[[Path, Split], list[Result]]] = {
    "clip": evaluate_clip,
    **dict.fromkeys(LLM_SIZES, evaluate_llm),
}
"""How each model is measured, by the name of its folder."""


def format_results(results: Sequence[Result]) -> str:
    """One line per measure: value, bar, whether it is reached, name."""
    lines = []
    for result in results:
        bar = "" if result.bar is None else f">= {result.bar:.2f} "
        bar += "" if result.bar is None else "MISSED" if result.is_missed else "ok"
        lines.append(f"{result.value:7.3f}  {bar:<14}  {result.name}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``python -m playground.evaluate``."""
    parser = argparse.ArgumentParser(description="Measure the world's models on test scenes.")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the models' folders")
    parser.add_argument("--only", choices=tuple(EVALUATORS), help="measure one model alone")
    parser.add_argument(
        "--split", choices=("dev", "test"), default="test", help="dev is for choosing a recipe"
    )
    options = parser.parse_args(arguments)
    bars = missed = 0
    for name, evaluator in EVALUATORS.items():
        if options.only not in (None, name):
            continue
        folder = options.models / name
        if not (folder / "config.json").is_file():
            raise UserError(f"no model in {folder}; run python -m playground.build first")
        try:
            load_pretrained(AutoConfig, folder)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: cannot be loaded ({str(error).splitlines()[0]})") from None
        results = evaluator(folder, options.split)
        print(f"\n{name} on {options.split} scenes\n{format_results(results)}", flush=True)
        bars += sum(result.bar is not None for result in results)
        missed += sum(result.is_missed for result in results)
    print(f"\n{bars - missed} of {bars} bars reached")


if __name__ == "__main__":
    run_command(main)
