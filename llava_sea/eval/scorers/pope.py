"""POPE: the mean F1 of "yes" over the splits adversarial, popular and random.

LLaVA's question file numbers a split's questions from 1, 10,000,001 or 20,000,001; the official
label files number each from 1, and coco_pope_random.json has 2,910 lines at the revision that
LLaVA-1.5 used and 3,000 today, with other numbers for the same questions. Neither the number nor
the order of lines can join them, so a label is looked up by split, image and question, of which
no label file has two alike. Some revisions spell "imange" for "image": that is one question.

An answer is read as LLaVA reads it: of the text up to the first ".", without commas and split at
spaces, a word "No", "no" or "not" is no; everything else is yes ("Not sure" and "" among them). A
missing answer counts as the opposite of the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.official import check_ids, percent, read_jsonl

SPLITS = ("adversarial", "popular", "random")


def says_yes(text: str) -> bool:
    """Return whether an answer is read as yes."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def score(answers: Sequence[Answer], questions: Path, labels: Path) -> Score:
    """Score answers to POPE.

    Args:
        answers: by the question file's ids.
        questions: llava_pope_test.jsonl, ``{"question_id", "image", "text", "category"}`` a line.
        labels: the folder of coco_pope_adversarial.json, ..._popular.json and ..._random.json.

    Returns:
        The mean of the F1s; the parts are each split's F1, accuracy, precision, recall and "yes
        ratio", the share of yes among the answers given. A fraction of nothing is 0.
    """
    asked = _join(questions, labels)
    texts = by_id(answers)
    check_ids(texts, asked, questions)
    parts: dict[str, float] = {}
    sizes: list[str] = []
    for name in SPLITS:
        those = {key: label for key, (split, label) in asked.items() if split == name}
        if not those:
            raise UserError(
                f"{questions}: has no question of the category {name}; take the whole file"
            )
        given = {key: says_yes(texts[key]) for key in those if key in texts}
        parts |= {f"{name} {kind}": number for kind, number in _numbers(those, given).items()}
        sizes.append(f"{name} {len(those)}")
    return Score(
        benchmark="pope",
        value=sum(parts[f"{name} F1"] for name in SPLITS) / len(SPLITS),
        metric="mean F1 of the splits",
        split="test",
        questions=len(asked),
        missing=sum(key not in texts for key in asked),
        protocol={
            "questions": ", ".join(sizes),
            "reading": "LLaVA's: No, no or not in the first sentence is no; else, or empty, yes",
            "missing answers": "the opposite of the label",
        },
        parts=parts,
    )


def _numbers(labels: dict[str, bool], given: dict[str, bool]) -> dict[str, float]:
    """Return a split's numbers from its labels and the answers given, both true for yes."""
    guesses = {key: given.get(key, not label) for key, label in labels.items()}
    true = sum(guesses[key] and label for key, label in labels.items())
    yes_guesses, yes_labels = sum(guesses.values()), sum(labels.values())
    return {
        "F1": percent(2 * true, yes_guesses + yes_labels),
        "accuracy": percent(sum(guesses[key] == labels[key] for key in labels), len(labels)),
        "precision": percent(true, yes_guesses),
        "recall": percent(true, yes_labels),
        "yes ratio": percent(sum(given.values()), len(given)),
    }


def _bare(text: str) -> str:
    """Return a question as both files have it: its first line, spelled right."""
    return text.strip().split("\n")[0].strip().replace("imange", "image")


def _join(questions: Path, labels: Path) -> dict[str, tuple[str, bool]]:
    """Return each question's split and label, by id."""
    known = {name: _labels(labels / f"coco_pope_{name}.json") for name in SPLITS}
    asked: dict[str, tuple[str, bool]] = {}
    for number, row in read_jsonl(questions, ("question_id", "image", "text", "category")):
        key, name, place = str(row["question_id"]), row["category"], f"{questions}:{number}"
        if name not in SPLITS:
            raise UserError(f"{place}: category {name!r} is none of {', '.join(SPLITS)}")
        bare = _bare(row["text"])
        label = known[name].get((Path(row["image"]).name, bare))
        if label is None:
            raise UserError(
                f"{place}: {labels / f'coco_pope_{name}.json'} has no label for {bare!r} on "
                f"{row['image']}; take the label files of the questions' revision (LLaVA's 2,910 "
                "random questions are in both, 3,000 need today's)"
            )
        asked[key] = name, label
    return asked


def _labels(path: Path) -> dict[tuple[str, str], bool]:
    labels: dict[tuple[str, str], bool] = {}
    for number, row in read_jsonl(path, ("image", "text", "label")):
        key = (Path(row["image"]).name, _bare(row["text"]))
        if row["label"] not in ("yes", "no"):
            raise UserError(f"{path}:{number}: label {row['label']!r} is neither yes nor no")
        if labels.setdefault(key, row["label"] == "yes") != (row["label"] == "yes"):
            raise UserError(f"{path}:{number}: {key[1]!r} on {key[0]} is labelled both yes and no")
    return labels
