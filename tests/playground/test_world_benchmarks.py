"""The miniature eight: official forms, true answers, test scenes only, and nothing lost on disk."""

import base64
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_sea.errors import UserError
from playground.benchmarks import build as building
from playground.benchmarks.__main__ import main
from playground.benchmarks.build import MAKERS, build, is_current, make_all
from playground.benchmarks.gqa import make_gqa
from playground.benchmarks.perfect import (
    PERFECT,
    perfect_answers,
    perfect_text_only,
    perfect_textvqa,
)
from playground.benchmarks.prompts import LETTER, SHORT_ANSWER, UNANSWERABLE
from playground.questions import QUESTION_KINDS
from playground.scene import sample_scene
from playground.world import PICTURE_SIDE, split_of


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def read_table(eight: Path) -> list[dict]:
    lines = (eight / "mmbench/mmbench_dev_20230712.tsv").read_text("utf-8").splitlines()
    head, *rows = [line.split("\t") for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def kinds_in(content: str) -> set[str]:
    """Read the kinds out of a scene's content line ("grass: small red ball, ... [stop]")."""
    things = re.sub(r" \[\w+\]$", "", content).partition(": ")[2]
    return {thing.split()[2] for thing in things.split(", ")}


def test_there_are_enough_questions_and_not_many_megabytes(eight: Path) -> None:
    manifest = read_json(eight / "manifest.json")
    assert manifest["complete"] is True and manifest["seed"] == 0
    assert set(manifest["questions"]) == set(MAKERS)
    assert all(150 <= count <= 300 for count in manifest["questions"].values())
    files = {str(p.relative_to(eight)): p.stat().st_size for p in eight.rglob("*") if p.is_file()}
    assert files.pop("manifest.json") > 0
    assert files == manifest["files"]
    assert sum(files.values()) < 8_000_000


def test_the_same_seed_gives_the_same_bytes(eight: Path) -> None:
    contents, counts = make_all(0)
    assert {name: (eight / name).read_bytes() for name in contents} == contents
    assert counts == read_json(eight / "manifest.json")["questions"]
    assert make_gqa(1).contents != make_gqa(0).contents


def test_no_scene_is_shared_with_training(eight: Path) -> None:
    scenes = read_json(eight / "scenes.json")
    assert len(scenes) > 800
    assert {split_of(content) for content in scenes.values()} == {"test"}
    train = {sample_scene(random.Random(f"0/train/{n}"), "train").content() for n in range(300)}
    assert not train & set(scenes.values())
    pictures = [p for p in eight.rglob("*") if p.suffix in (".jpg", ".png")]
    assert {str(p.relative_to(eight)) for p in pictures} <= set(scenes)
    for picture in pictures[::50]:
        with Image.open(picture) as image:
            assert image.size == (PICTURE_SIDE, PICTURE_SIDE)
            assert image.format == {".jpg": "JPEG", ".png": "PNG"}[picture.suffix]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], None]:
    """Let the command make these files alone."""

    def make(contents: dict[str, bytes]) -> None:
        made = contents, {"gqa": len(contents)}
        monkeypatch.setattr(building, "make_all", lambda seed, split: made)

    make({"gqa/a.jpg": b"a", "gqa/b.jpg": b"b"})
    return make


@pytest.mark.usefixtures("make")
def test_a_second_run_writes_nothing_and_a_lost_file_comes_back(tmp_path: Path) -> None:
    build(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert build(tmp_path) == {"gqa": 2}
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == times
    (tmp_path / "gqa/a.jpg").unlink()
    assert not is_current(tmp_path, 0)
    build(tmp_path)
    assert (tmp_path / "gqa/a.jpg").read_bytes() == b"a" and is_current(tmp_path, 0)
    assert not is_current(tmp_path, 1)


def test_answers_stay_and_what_is_no_longer_made_goes(
    tmp_path: Path, make: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--out", str(tmp_path), "--seed", "4"])
    assert "is ready: gqa 2" in capsys.readouterr().out
    assert read_json(tmp_path / "manifest.json")["seed"] == 4
    (tmp_path / "gqa/answers").mkdir()
    (tmp_path / "gqa/answers/mine.jsonl").write_text("{}")
    make({"gqa/a.jpg": b"A", "gqa/c.jpg": b"c"})
    build(tmp_path, seed=2)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"manifest.json", "gqa/a.jpg", "gqa/c.jpg", "gqa/answers/mine.jsonl"}
    assert (tmp_path / "gqa/a.jpg").read_bytes() == b"A"


@pytest.mark.usefixtures("make")
def test_a_run_that_was_stopped_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = building._write

    def stop(path: Path, content: bytes) -> None:
        if path.name == "b.jpg":
            raise KeyboardInterrupt
        whole(path, content)

    with monkeypatch.context() as stopped:
        stopped.setattr(building, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path)
    assert not is_current(tmp_path, 0)
    assert build(tmp_path) == {"gqa": 2}
    assert is_current(tmp_path, 0) and (tmp_path / "gqa/b.jpg").read_bytes() == b"b"


@pytest.mark.usefixtures("make")
def test_files_of_others_are_refused_and_kept(tmp_path: Path) -> None:
    real = tmp_path / "real/gqa/a.jpg"
    real.parent.mkdir(parents=True)
    real.write_bytes(b"real")
    with pytest.raises(UserError, match=r"a\.jpg exists and was not written by"):
        build(tmp_path / "real")
    assert real.read_bytes() == b"real" and not (tmp_path / "real/manifest.json").exists()
    (tmp_path / "manifest.json").write_text('{"num_train": 3}')
    with pytest.raises(UserError, match=r"manifest\.json was not written by this command"):
        build(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        build(real)


@pytest.mark.parametrize(
    ("questions", "pictures", "suffix"),
    [
        ("vqav2/llava_vqav2_mscoco_val2014.jsonl", "vqav2/val2014", SHORT_ANSWER),
        ("gqa/llava_gqa_testdev_balanced.jsonl", "gqa/data/images", SHORT_ANSWER),
        ("vizwiz/llava_val.jsonl", "vizwiz/val", f"{UNANSWERABLE}\n{SHORT_ANSWER}"),
        ("textvqa/llava_textvqa_val_v051_ocr.jsonl", "textvqa/train_images", SHORT_ANSWER),
        ("textvqa/llava_textvqa_val_v051.jsonl", "textvqa/train_images", SHORT_ANSWER),
        ("pope/llava_pope_test.jsonl", "pope/val2014", SHORT_ANSWER),
        ("mm-vet/llava-mm-vet.jsonl", "mm-vet/images", ""),
    ],
)
def test_question_lines_are_llavas(eight: Path, questions: str, pictures: str, suffix: str) -> None:
    lines = read_lines(eight / questions)
    for line in lines:
        assert list(line) == ["question_id", "image", "text", "category"]
        assert (eight / pictures / line["image"]).is_file()
        assert line["text"].endswith(f"\n{suffix}" if suffix else line["text"])
        assert "<image>" not in line["text"]
    ids = [line["question_id"] for line in lines]
    assert (len(set(ids)) == len(ids)) == ("textvqa" not in questions)
    assert {line["image"] for line in lines} == {p.name for p in (eight / pictures).iterdir()}


def test_vqav2_annotations(eight: Path) -> None:
    known = read_json(eight / "vqav2/v2_mscoco_val2014_annotations.json")["annotations"]
    lines = read_lines(eight / "vqav2/llava_vqav2_mscoco_val2014.jsonl")
    assert [entry["question_id"] for entry in known] == [line["question_id"] for line in lines]
    for entry, line in zip(known, lines, strict=True):
        assert line["image"] == f"COCO_val2014_{entry['image_id']:012d}.jpg"
        assert line["text"].startswith(entry["question_type"])
        assert [answer["answer_id"] for answer in entry["answers"]] == list(range(1, 11))
        answers = Counter(answer["answer"] for answer in entry["answers"])
        assert answers.most_common(1)[0][0] == entry["multiple_choice_answer"]
        right = entry["multiple_choice_answer"]
        assert (entry["answer_type"] == "yes/no") == (right in ("yes", "no"))
    assert {entry["answer_type"] for entry in known} == {"yes/no", "number", "other"}


def test_vizwiz_asks_for_what_is_not_there(eight: Path) -> None:
    entries, scenes = read_json(eight / "vizwiz/val.json"), read_json(eight / "scenes.json")
    lines = read_lines(eight / "vizwiz/llava_val.jsonl")
    assert [entry["image"] for entry in entries] == [line["image"] for line in lines]
    starts: dict[int, Counter] = {0: Counter(), 1: Counter()}
    for entry in entries:
        content = scenes[f"vizwiz/val/{entry['image']}"]
        asked = entry["question"].rstrip("?").split()[-1]
        there = "[" in content if asked == "say" else asked in kinds_in(content)
        assert there == bool(entry["answerable"])
        assert (entry["answer_type"] == "unanswerable") == (not there)
        starts[entry["answerable"]][entry["question"].split()[1]] += 1
    assert set(starts[0].values()) == {20} and set(starts[1].values()) == {40}


def test_textvqa_joins_by_picture_and_question(eight: Path) -> None:
    lines = read_lines(eight / "textvqa/llava_textvqa_val_v051_ocr.jsonl")
    data = read_json(eight / "textvqa/TextVQA_0.5.1_val.json")["data"]
    scenes = read_json(eight / "scenes.json")
    ids = [line["question_id"] for line in lines]
    assert len(ids) - len(set(ids)) > 40
    assert len({entry["question_id"] for entry in data}) == len(data)
    keys = [(line["question_id"], line["text"].split("\n")[0]) for line in lines]
    assert keys == [(entry["image_id"], entry["question"]) for entry in data]
    assert len(set(keys)) == len(keys)
    tokens = 0
    for line, entry in zip(lines, data, strict=True):
        _, read, _ = line["text"].split("\n")
        word = scenes[f"textvqa/train_images/{line['image']}"].split("[")[1][:-1]
        assert Counter(entry["answers"])[word] >= 6
        assert read.startswith("Reference OCR token: ")
        tokens += word in read.partition(": ")[2].split(", ")
    assert 0.7 < tokens / len(lines) < 0.95


def test_gqa_entries(eight: Path) -> None:
    known = read_json(eight / "gqa/data/testdev_balanced_questions.json")
    lines = read_lines(eight / "gqa/llava_gqa_testdev_balanced.jsonl")
    assert list(known) == [line["question_id"] for line in lines]
    for line in lines:
        entry = known[line["question_id"]]
        assert line["text"] == f"{entry['question']}\n{SHORT_ANSWER}"
        assert line["image"] == f"{entry['imageId']}.jpg" and entry["isBalanced"]
        assert set(entry["types"]) == {"structural", "semantic", "detailed"}
    structural = {entry["types"]["structural"] for entry in known.values()}
    assert structural == {"query", "verify", "choose", "logical"}


def test_pope_is_balanced_and_its_labels_are_true(eight: Path) -> None:
    lines, scenes = (
        read_lines(eight / "pope/llava_pope_test.jsonl"),
        read_json(eight / "scenes.json"),
    )
    yes = {}
    for category in ("adversarial", "popular", "random"):
        labels = read_lines(eight / f"pope/coco/coco_pope_{category}.json")
        asked = [line for line in lines if line["category"] == category]
        assert [line["text"].split("\n")[0] for line in asked] == [row["text"] for row in labels]
        assert [line["image"] for line in asked] == [row["image"] for row in labels]
        assert Counter(row["label"] for row in labels) == {"yes": 50, "no": 50}
        for row in labels:
            kind = row["text"].rstrip("?").split()[-1]
            there = kind in kinds_in(scenes[f"pope/val2014/{row['image']}"])
            assert row["label"] == ("yes" if there else "no")
        yes[category] = [(r["image"], r["text"]) for r in labels if r["label"] == "yes"]
        keys = [(row["image"], row["text"]) for row in labels]
        assert len(set(keys)) == len(keys)
    assert yes["adversarial"] == yes["popular"] == yes["random"]


def test_scienceqa_records(eight: Path) -> None:
    records = read_json(eight / "scienceqa/llava_test_CQM-A.json")
    problems = read_json(eight / "scienceqa/problems.json")
    assert read_json(eight / "scienceqa/pid_splits.json")["test"] == [r["id"] for r in records]
    pictured = 0
    for record in records:
        problem = problems[record["id"]]
        human, model = (turn["value"] for turn in record["conversations"])
        options = [f"{'ABCD'[n]}. {choice}" for n, choice in enumerate(problem["choices"])]
        context = [f"Context: {problem['hint']}"] if problem["hint"] else []
        place = ["<image>"] if "image" in record else []
        assert human.split("\n") == [*place, *context, problem["question"], *options]
        assert "ABCD".index(model) == problem["answer"]
        assert 2 <= len(options) <= 4 and len(set(options)) == len(options)
        assert place or "background: " in problem["hint"]
        if place:
            assert record["image"] == f"{record['id']}/image.png"
            assert (eight / "scienceqa/images/test" / record["image"]).is_file()
        pictured += bool(place)
    assert pictured == 120 and len(records) == 180


def test_mmbench_rotates_options(eight: Path) -> None:
    rows = {int(row["index"]): row for row in read_table(eight)}
    assert list(rows) == sorted(rows)
    base = [row for index, row in rows.items() if index < 1_000_000]
    assert len(base) == 80
    counts: Counter[int] = Counter()
    for row in base:
        options = [row[letter] for letter in "ABCD" if row[letter]]
        counts[len(options)] += 1
        right = row[row["answer"]]
        for turn in range(1, len(options)):
            turned = rows.pop(int(row["index"]) + turn * 1_000_000)
            moved = [turned[letter] for letter in "ABCD" if turned[letter]]
            assert moved == options[turn:] + options[:turn]
            assert turned[turned["answer"]] == right
            assert turned["question"] == row["question"] and turned["image"] == row["image"]
        picture = Image.open(io.BytesIO(base64.b64decode(row["image"])))
        assert picture.size == (PICTURE_SIDE, PICTURE_SIDE)
    assert len(rows) == 80 and set(counts) == {2, 3, 4}


def test_mmvet_entries(eight: Path) -> None:
    known = read_json(eight / "mm-vet/mm-vet.json")
    lines = read_lines(eight / "mm-vet/llava-mm-vet.jsonl")
    assert list(known) == [f"v1_{line['question_id']}" for line in lines]
    tags = Counter(tag for entry in known.values() for tag in entry["capability"])
    assert set(tags) == {"rec", "ocr", "spat", "math", "gen"} and min(tags.values()) >= 10
    for key, entry in known.items():
        assert entry["imagename"] == f"{key}.png"
        assert not ("<AND>" in entry["answer"] and "<OR>" in entry["answer"])


def test_text_only_questions(eight: Path) -> None:
    rows = read_lines(eight / "text_only.jsonl")
    assert Counter(row["kind"] for row in rows) == dict.fromkeys(QUESTION_KINDS, 20)
    for row in rows:
        told, question = row["text"].split("\n")
        assert "background: " in told and question.endswith("?")
        assert row["kind"] != "place" or "top " in told or "bottom " in told
    yes = Counter(row["answer"] for row in rows if row["kind"].startswith("existence"))
    assert yes == {"yes": 30, "no": 30}


def test_perfect_answers_by_hand(eight: Path) -> None:
    rows = perfect_answers(eight / "vizwiz")
    assert sum(row["text"] == "Unanswerable" for row in rows) == 60
    prompts = [row["prompt"] for row in perfect_answers(eight / "scienceqa")]
    assert all(prompt.endswith(f"\n{LETTER}") for prompt in prompts)
    assert sum("<image>" in prompt for prompt in prompts) == 120
    with_tokens, bare = (
        perfect_answers(eight / "textvqa"),
        perfect_textvqa(eight / "textvqa", ocr=False),
    )
    assert [row["text"] for row in with_tokens] == [row["text"] for row in bare]
    assert len(perfect_text_only(eight)) == 180
    table = {row["index"]: row for row in read_table(eight)}
    for row in perfect_answers(eight / "mmbench"):
        entry = table[str(row["question_id"])]
        assert row["text"] == entry["answer"]
        assert row["prompt"].split("\n")[-1][3:] == row["options"][-1]


def test_the_shipped_tokenizers_give_every_text_back(eight: Path, repo: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(repo / "playground/models/llm-small")
    rows = [row for name in PERFECT for row in perfect_answers(eight / name)]
    for text in {text for row in rows for text in (row["prompt"], row["text"])}:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
        assert len(ids) < 200
