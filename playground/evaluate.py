"""What the world's models reached on test scenes (``python -m playground.evaluate``).

Zero-shot naming by the CLIP, the share of patches whose best word is true for each feature and
sign, and the LLM's caption loss and answers with different evidence. Test scenes are made on the
fly; nothing was trained on their contents. Limits: about a minute on one core.
"""

# Shape letters: I images, P patches, Q words, D joint dimension.

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, CLIPModel, LlamaForCausalLM

from llava_sea.errors import UserError, run_command
from llava_sea.labels.patch_features import PatchEncoder
from playground.captions import write_caption
from playground.corpus import caption_words
from playground.documents import (
    Segment,
    ask,
    bag_of_words,
    caption_document,
    describe,
)
from playground.render import render_scene
from playground.scene import Scene, sample_scene
from playground.train_clip import normalise_pixels
from playground.train_llm import DocumentEncoder, document_loss
from playground.truth import object_patches, patch_words
from playground.vocabulary import BACKGROUNDS, COLOURS, KINDS
from playground.world import Split

MODELS = Path(__file__).parent / "models"
FEATURES = ("vanilla", "value", "qq", "qq+kk")
Results = dict[str, float]


def scenes_of(split: Split, count: int, num_things: int | None = None) -> list[Scene]:
    """Draw a fixed list of scenes of a split."""
    rng = random.Random(f"evaluate/{split}/{num_things}")
    return [sample_scene(rng, split, num_things) for _ in range(count)]


def _pixels(scenes: Sequence[Scene]) -> torch.Tensor:
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
def evaluate_naming(model: CLIPModel, tokenizer: Any, scenes: Sequence[Scene]) -> Results:
    """Name the one thing, its colour (given the kind) and the background, zero-shot."""
    image_ID = model.get_image_features(pixel_values=_pixels(scenes)).pooler_output

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
    return {
        "kind named": float(np.mean(kind_right)),
        "colour named": float(np.mean(colour_right)),
        "background named": float(np.mean(ground_right)),
    }


def evaluate_patches(
    encoder: PatchEncoder, model: CLIPModel, tokenizer: Any, scenes: Sequence[Scene]
) -> Results:
    """Share of patches whose best word is true, by features, sign and kind of patch."""
    words = caption_words()
    text_QD = embed_texts(model, tokenizer, words)
    truths = [patch_words(scene) for scene in scenes]
    is_object_IP = np.array([[c == "1" for c in object_patches(scene)] for scene in scenes])
    results: Results = {}
    for features in FEATURES:
        patches_IPD = encoder.encode_images(_pixels(scenes), features).cpu()
        scores_IPQ = patches_IPD @ text_QD.T
        for name, sign in (("plain", 1), ("negated", -1)):
            best_IP = (sign * scores_IPQ).argmax(dim=-1).numpy()
            right_IP = np.array(
                [
                    [words[best] in truth for best, truth in zip(row, row_truths, strict=True)]
                    for row, row_truths in zip(best_IP, truths, strict=True)
                ]
            )
            results[f"{features}, {name}: object patches"] = float(right_IP[is_object_IP].mean())
            results[f"{features}, {name}: all patches"] = float(right_IP.mean())
    return results


@torch.no_grad()
def evaluate_captions(
    model: LlamaForCausalLM, encoder: DocumentEncoder, scenes: Sequence[Scene]
) -> Results:
    """Caption loss with nothing, a bag of patch words, or a description before the caption."""
    evidence: dict[str, Callable[[random.Random, Scene], list[Segment]]] = {
        "nothing": lambda rng, scene: [],
        "a bag of patch words": lambda rng, scene: [Segment(bag_of_words(rng, scene), 0.0)],
        "a description": lambda rng, scene: [Segment(describe(rng, scene) + "\n", 0.0)],
    }
    results = {}
    for name, make in evidence.items():
        losses = []
        for start in range(0, len(scenes), 50):
            documents = []
            for index, scene in enumerate(scenes[start : start + 50]):
                caption = caption_document(random.Random(f"caption/{start + index}"), scene)
                rng = random.Random(f"evidence/{start + index}")
                documents.append([*make(rng, scene), *caption])
            losses.append(float(document_loss(model, *encoder.batch(documents))))
        results[f"caption loss after {name}"] = float(np.mean(losses))
    return results


QUESTION_NAMES = {
    "is there": "existence",
    "what colour": "colour of a kind",
    "what is the background?": "background",
    "what is the": "kind of a colour",
    "how many": "counting",
}


def _question_name(question: str) -> str:
    return next(name for start, name in QUESTION_NAMES.items() if question.startswith(start))


@torch.no_grad()
def evaluate_answers(
    model: LlamaForCausalLM, encoder: DocumentEncoder, scenes: Sequence[Scene]
) -> Results:
    """Share of questions answered right (best token at each place of the answer), by evidence."""
    right: dict[str, list[bool]] = defaultdict(list)
    sources = {"description": lambda r, s: describe(r, s), "bag": bag_of_words}
    for evidence, tell in sources.items():
        for index, scene in enumerate(scenes):
            rng = random.Random(f"ask/{index}")
            question, answer = ask(rng, scene)
            told = f"{tell(rng, scene)}\n"
            prompt = f"USER: {question} ASSISTANT:"
            ids, _ = encoder.encode([Segment(told, 0.0), Segment(prompt, 0.0)])
            wanted = encoder.ids(answer)
            known = ids[:-1] + wanted  # the closing EOS goes
            logits = model(input_ids=torch.tensor([known])).logits[0]
            guessed = logits[len(known) - len(wanted) - 1 : -1].argmax(dim=-1).tolist()
            right[f"{_question_name(question)}, from a {evidence}"].append(guessed == wanted)
    return {f"answers: {name}": float(np.mean(r)) for name, r in sorted(right.items())}


def evaluate_clip(folder: Path, split: Split = "test", count: int = 300) -> Results:
    """Evaluate a CLIP folder."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    naming = evaluate_naming(model, tokenizer, scenes_of(split, count, 1))
    encoder = PatchEncoder.from_pretrained(folder)
    return naming | evaluate_patches(encoder, model, tokenizer, scenes_of(split, count))


def evaluate_llm(folder: Path, split: Split = "test", count: int = 400) -> Results:
    """Evaluate an LLM folder."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    encoder = DocumentEncoder(AutoTokenizer.from_pretrained(folder))
    scenes = scenes_of(split, count)
    return evaluate_captions(model, encoder, scenes) | evaluate_answers(model, encoder, scenes)


@torch.no_grad()
def write_samples(folder: Path, count: int = 4) -> list[tuple[str, str]]:
    """Let the LLM write captions after bags of patch words.

    Returns:
        Pairs of a true caption and the caption that the LLM wrote (greedy).
    """
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = DocumentEncoder(tokenizer)
    pairs = []
    for index, scene in enumerate(scenes_of("test", count)):
        rng = random.Random(f"sample/{index}")
        truth = write_caption(rng, scene, keep=1.0).text
        ids, _ = encoder.encode([Segment(bag_of_words(rng, scene), 0.0)])
        prompt = torch.tensor([ids[:-1]])
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=40,
            do_sample=False,
            pad_token_id=model.config.eos_token_id,
        )
        written = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
        pairs.append((truth, str(written).strip()))
    return pairs


def format_results(results: Results) -> str:
    """One line per measure."""
    return "\n".join(f"{value:7.3f}  {name}" for name, value in results.items())


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``python -m playground.evaluate``."""
    parser = argparse.ArgumentParser(description="Measure the world's models on test scenes.")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder with clip/ and llm/")
    parser.add_argument("--only", choices=("clip", "llm"), help="measure one model alone")
    parser.add_argument(
        "--split", choices=("dev", "test"), default="test", help="dev is for choosing a recipe"
    )
    options = parser.parse_args(arguments)
    evaluators: dict[str, Callable[[Path, Split], Results]] = {
        "clip": evaluate_clip,
        "llm": evaluate_llm,
    }
    for name, evaluator in evaluators.items():
        if options.only not in (None, name):
            continue
        folder = options.models / name
        if not (folder / "config.json").is_file():
            raise UserError(f"no model in {folder}; run python -m playground.build first")
        results = evaluator(folder, options.split)
        print(f"{name} on {options.split} scenes\n{format_results(results)}")
        if name == "llm":
            for truth, written in write_samples(folder):
                print(f"   true:    {truth}\n   written: {written}")


if __name__ == "__main__":
    run_command(main)
