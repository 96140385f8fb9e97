"""The instruction data: LLaVA's shape, true answers, training scenes only, the rest untouched."""

import functools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from llava_sea.data.records import load_records
from playground.generate import generate
from playground.instructions import SHORT_ANSWER, Shown, instruction_records
from playground.questions import ASKERS, QUESTION_KINDS
from playground.scene import Scene, sample_scene

NUM_TRAIN, NUM_HELDOUT, SEED = 100, 8, 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    return generate(folder, num_train=NUM_TRAIN, num_heldout=NUM_HELDOUT, seed=SEED)


def records_of(world: Path, name: str) -> list[dict]:
    return json.loads((world / f"{name}.json").read_text("utf-8"))


def scene_of(image: str) -> Scene:
    """Draw a picture's scene again, from its name."""
    split, _, name = image.split("/")
    rng = random.Random(f"{SEED}/{split}/{int(name[:6])}")
    return sample_scene(rng, "train" if split == "train" else "dev")


@functools.cache
def answers(image: str) -> dict[str, set[str]]:
    """Return the answers to each question about a picture, found by asking many times."""
    scene = scene_of(image)
    found: dict[str, set[str]] = {}
    for kind in QUESTION_KINDS:
        for draw in range(400):
            asked = ASKERS[kind](random.Random(draw), scene)
            if asked:
                found.setdefault(asked[0], set()).add(asked[1])
    return found


def questions(record: dict) -> list[tuple[str, str]]:
    """Return a record's questions of the world's form, bare, with their answers."""
    turns = record["conversations"]
    pairs = [(a["value"], b["value"]) for a, b in zip(turns[::2], turns[1::2], strict=True)]
    for number, (text, answer) in enumerate(pairs):
        lines = text.replace("<image>", "").strip().splitlines()
        lines = [line for line in lines if line != SHORT_ANSWER]
        pairs[number] = (lines[-1], answer)
    return [(text, answer) for text, answer in pairs if text[0].islower()]


def test_there_is_every_kind_of_record(world: Path) -> None:
    records = records_of(world, "finetune")
    pictured = Counter(
        "none" if "image" not in r else "two" if isinstance(r["image"], list) else "one"
        for r in records
    )
    assert pictured == {
        "one": NUM_TRAIN * 16 // 10,
        "none": NUM_TRAIN // 10,
        "two": NUM_TRAIN // 20,
    }
    assert len({record["id"] for record in records}) == len(records)
    lengths = Counter(len(record["conversations"]) // 2 for record in records)
    assert lengths[1] > 20 and sum(lengths[n] for n in range(2, 8)) > 40 and max(lengths) <= 6
    first = [record["conversations"][0]["value"] for record in records]
    assert sum(SHORT_ANSWER in text for text in first) > 20
    assert {text.startswith("<image>") for text in first} == {True, False}


@pytest.mark.parametrize("name", ["finetune", "heldout_questions"])
def test_records_are_llava_records(world: Path, name: str) -> None:
    for record in records_of(world, name):
        turns = record["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert all(turn["value"].strip() == turn["value"] != "" for turn in turns)
        images = record.get("image", [])
        images = [images] if isinstance(images, str) else images
        text = "".join(turn["value"] for turn in turns)
        assert turns[0]["value"].count("<image>") == text.count("<image>") == len(images)
        assert all((world / "images" / image).is_file() for image in images)
        split = "train/" if name == "finetune" else "heldout/"
        assert all(image.startswith(split) for image in images)


def test_the_loader_takes_them(world: Path) -> None:
    assert len(load_records(world / "finetune.json")) == NUM_TRAIN * 175 // 100
    assert load_records(world / "heldout_questions.json")


@pytest.mark.parametrize("name", ["finetune", "heldout_questions"])
def test_answers_are_those_of_the_scene(world: Path, name: str) -> None:
    checked: Counter[str] = Counter()
    for record in records_of(world, name)[:100]:
        if not isinstance(record.get("image"), str) or record["id"].startswith("form-"):
            continue
        known = answers(record["image"])
        for text, answer in questions(record):
            if text in known:  # a rare "no" may not have been drawn again
                assert known[text] == {answer}, (record["id"], text)
            checked["known" if text in known else "rare"] += 1
    assert checked["known"] > 40 and checked["rare"] < 0.2 * checked["known"]


def test_of_two_pictures_the_right_one_is_named(world: Path) -> None:
    pairs = [r for r in records_of(world, "finetune") if isinstance(r.get("image"), list)]
    for record in pairs:
        human, model = (turn["value"] for turn in record["conversations"])
        wanted = human.split(" shows ")[1].split(",")[0].split(" ", 1)[1]
        shows = [
            any(f"{thing.colour} {thing.kind}" == wanted for thing in scene_of(image).things)
            for image in record["image"]
        ]
        assert shows == [model == "first", model == "second"]
    assert len(pairs) == 5


def test_text_records_tell_a_scene_and_ask_for_places_only_where_they_are_told() -> None:
    shown = [Shown(f"{n}.png", sample_scene(random.Random(n), "train")) for n in range(800)]
    many = [r for r in instruction_records(shown, 0) if "image" not in r]
    told = [record["conversations"][0]["value"] for record in many]
    assert len(many) == 80 and all("background: " in text for text in told)
    asked = [
        record
        for record in many
        if any(turn["value"].startswith("where is") for turn in record["conversations"][2::2])
    ]
    assert asked
    for record in asked:
        text = record["conversations"][0]["value"]
        assert "top " in text or "bottom " in text


def test_heldout_questions_are_of_every_kind_and_dev_pictures(world: Path) -> None:
    records = records_of(world, "heldout_questions")
    kinds = Counter(record["kind"] for record in records)
    assert set(kinds) == set(QUESTION_KINDS)
    assert kinds["background"] == kinds["counting"] == NUM_HELDOUT
    assert all(scene_of(record["image"]).split() == "dev" for record in records)


def test_records_depend_on_their_number_alone() -> None:
    shown = [Shown(f"{n}.png", sample_scene(random.Random(n), "train")) for n in range(60)]
    few = {r["id"]: r for r in instruction_records(shown[:50], 0) if r["id"][:4] != "pair"}
    more = {r["id"]: r for r in instruction_records(shown, 0)}
    assert few.items() <= more.items()
    assert instruction_records(shown, 0) == instruction_records(shown, 0)
    assert instruction_records(shown, 0) != instruction_records(shown, 1)
