"""The miniature eight: official forms, true answers, test scenes only, and nothing lost on disk."""

import base64
import io
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_sea.errors import UserError
from playground import instructions
from playground.benchmarks import build as building
from playground.benchmarks.__main__ import main
from playground.benchmarks.absent import ABSENT_KINDS, NO_ANSWER, ask_absent
from playground.benchmarks.annotators import annotate
from playground.benchmarks.build import MAKERS, build, is_current, make_all
from playground.benchmarks.choices import CHOICE_KINDS, choose
from playground.benchmarks.composed import COMPOSED_KINDS, compose, stands
from playground.benchmarks.gqa import make_gqa
from playground.benchmarks.open_questions import ask_open, plain_answer
from playground.benchmarks.perfect import (
    PERFECT,
    perfect_answers,
    perfect_text_only,
    perfect_textvqa,
)
from playground.benchmarks.pope import absent_kinds, likeness
from playground.benchmarks.prompts import LETTER, SHORT_ANSWER, UNANSWERABLE
from playground.benchmarks.training_forms import FORMS, told_choice_turns, training_turns
from playground.benchmarks.written import ask_written, read_tokens
from playground.questions import QUESTION_KINDS
from playground.scene import Scene, Sign, Thing, sample_scene
from playground.vocabulary import COLOURS, KINDS
from playground.world import PICTURE_SIDE, split_of

# A picture of 64 pixels; small things of 16. Middles: ball (8, 8), box (40, 8), kite (40, 48).
SCENE = Scene(
    "grass",
    (
        Thing("ball", "red", "small", 0, 0),
        Thing("box", "blue", "small", 32, 0),
        Thing("kite", "green", "small", 32, 40),
    ),
    sign=Sign("stop", 0, 56),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini") / "eval"
    build(folder)
    return folder


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def read_table(out: Path) -> list[dict]:
    lines = (out / "mmbench/mmbench_dev_20230712.tsv").read_text("utf-8").splitlines()
    head, *rows = [line.split("\t") for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def kinds_in(content: str) -> set[str]:
    """Read the kinds out of a scene's content line ("grass: small red ball, ... [stop]")."""
    things = re.sub(r" \[\w+\]$", "", content).partition(": ")[2]
    return {thing.split()[2] for thing in things.split(", ")}


def test_there_are_enough_questions_and_not_many_megabytes(out: Path) -> None:
    manifest = read_json(out / "manifest.json")
    assert manifest["complete"] is True and manifest["seed"] == 0
    assert set(manifest["questions"]) == set(MAKERS)
    assert all(150 <= count <= 300 for count in manifest["questions"].values())
    files = {str(p.relative_to(out)): p.stat().st_size for p in out.rglob("*") if p.is_file()}
    assert files.pop("manifest.json") > 0
    assert files == manifest["files"]
    assert sum(files.values()) < 8_000_000


def test_the_same_seed_gives_the_same_bytes(out: Path) -> None:
    contents, counts = make_all(0)
    assert {name: (out / name).read_bytes() for name in contents} == contents
    assert counts == read_json(out / "manifest.json")["questions"]
    assert make_gqa(1).contents != make_gqa(0).contents


def test_no_scene_is_shared_with_training(out: Path) -> None:
    scenes = read_json(out / "scenes.json")
    assert len(scenes) > 800
    assert {split_of(content) for content in scenes.values()} == {"test"}
    train = {sample_scene(random.Random(f"0/train/{n}"), "train").content() for n in range(300)}
    assert not train & set(scenes.values())
    pictures = [p for p in out.rglob("*") if p.suffix in (".jpg", ".png")]
    assert {str(p.relative_to(out)) for p in pictures} <= set(scenes)
    for picture in pictures[::50]:
        with Image.open(picture) as image:
            assert image.size == (PICTURE_SIDE, PICTURE_SIDE)
            assert image.format == {".jpg": "JPEG", ".png": "PNG"}[picture.suffix]


def tiny(monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> None:
    monkeypatch.setattr(
        building, "make_all", lambda seed, split: (contents, {"gqa": len(contents)})
    )


def test_a_second_run_writes_nothing_and_a_lost_file_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch, {"gqa/a.jpg": b"a", "gqa/b.jpg": b"b"})
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch, {"gqa/a.jpg": b"a", "gqa/b.jpg": b"b"})
    build(tmp_path, seed=1)
    (tmp_path / "gqa/answers").mkdir()
    (tmp_path / "gqa/answers/mine.jsonl").write_text("{}")
    tiny(monkeypatch, {"gqa/a.jpg": b"A", "gqa/c.jpg": b"c"})
    build(tmp_path, seed=2)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"manifest.json", "gqa/a.jpg", "gqa/c.jpg", "gqa/answers/mine.jsonl"}
    assert (tmp_path / "gqa/a.jpg").read_bytes() == b"A"


def test_a_run_that_was_stopped_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch, {"gqa/a.jpg": b"a", "gqa/b.jpg": b"b"})
    whole = building._write

    def stop(path: Path, content: bytes) -> None:
        if path.name == "b.jpg":
            raise KeyboardInterrupt
        whole(path, content)

    monkeypatch.setattr(building, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path)
    assert not is_current(tmp_path, 0)
    monkeypatch.setattr(building, "_write", whole)
    assert build(tmp_path) == {"gqa": 2}
    assert is_current(tmp_path, 0) and (tmp_path / "gqa/b.jpg").read_bytes() == b"b"


def test_files_of_others_are_refused_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch, {"gqa/a.jpg": b"a"})
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


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    tiny(monkeypatch, {"gqa/a.jpg": b"a"})
    main(["--out", str(tmp_path / "eval"), "--seed", "4"])
    assert "is ready: gqa 1" in capsys.readouterr().out
    assert read_json(tmp_path / "eval/manifest.json")["seed"] == 4


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
def test_question_lines_are_llavas(out: Path, questions: str, pictures: str, suffix: str) -> None:
    lines = read_lines(out / questions)
    for line in lines:
        assert list(line) == ["question_id", "image", "text", "category"]
        assert (out / pictures / line["image"]).is_file()
        assert line["text"].endswith(f"\n{suffix}" if suffix else line["text"])
        assert "<image>" not in line["text"]
    ids = [line["question_id"] for line in lines]
    assert (len(set(ids)) == len(ids)) == ("textvqa" not in questions)
    assert {line["image"] for line in lines} == {p.name for p in (out / pictures).iterdir()}


def test_ten_annotators_mostly_agree() -> None:
    seen: Counter[str] = Counter()
    for draw in range(300):
        answers = annotate(random.Random(draw), "ball")
        assert len(answers) == 10 and answers.count("ball") >= 6
        equal = [a for a in answers if a.lower().removeprefix("a ") == "ball"]
        assert len(equal) >= 7  # of these, four are enough for an accuracy of 1
        seen.update(answers)
    assert {"Ball", "a ball", "sphere"} <= set(seen) and len(seen) > 10
    assert {"2", "Two"} <= {a for draw in range(300) for a in annotate(random.Random(draw), "two")}
    assert set(annotate(random.Random(0), "unanswerable")) <= {"unanswerable", "Unanswerable"}


def test_vqav2_annotations(out: Path) -> None:
    known = read_json(out / "vqav2/v2_mscoco_val2014_annotations.json")["annotations"]
    lines = read_lines(out / "vqav2/llava_vqav2_mscoco_val2014.jsonl")
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


def test_vizwiz_asks_for_what_is_not_there(out: Path) -> None:
    entries, scenes = read_json(out / "vizwiz/val.json"), read_json(out / "scenes.json")
    lines = read_lines(out / "vizwiz/llava_val.jsonl")
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


def test_unanswerable_questions_read_like_the_others() -> None:
    for kind in ABSENT_KINDS:
        for draw in range(30):
            question = ask_absent(random.Random(draw), SCENE, kind, answerable=False)
            if kind == "written word":
                assert question is None  # there is a sign
            else:
                assert question is not None and question.answer == NO_ANSWER
                assert re.fullmatch(r"(what colour|where) is the [a-z]+\?", question.text)


def test_textvqa_joins_by_picture_and_question(out: Path) -> None:
    lines = read_lines(out / "textvqa/llava_textvqa_val_v051_ocr.jsonl")
    data = read_json(out / "textvqa/TextVQA_0.5.1_val.json")["data"]
    scenes = read_json(out / "scenes.json")
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


def test_an_ocr_system_errs_at_times() -> None:
    read = Counter(tuple(read_tokens(random.Random(draw), SCENE)) for draw in range(400))
    assert set(read) == {(), ("stop",), ("stcp",), ("stop", "i")}
    assert 0.6 < read[("stop",)] / 400 < 0.8
    texts = {q.text for draw in range(40) for q in ask_written(random.Random(draw), SCENE, 2)}
    assert "what does the sign say?" in texts and any(" or " in text for text in texts)


def test_sides_need_a_margin() -> None:
    ball, box, kite = SCENE.things
    assert stands(ball, "to the left of", box) is True
    assert stands(ball, "to the right of", box) is False
    assert stands(ball, "above", box) is None  # side by side
    assert stands(kite, "below", box) is True
    assert stands(box, "to the left of", kite) is None  # one above the other


def test_composed_questions_of_a_scene_by_hand() -> None:
    asked: dict[str, dict[str, str]] = {kind: {} for kind in COMPOSED_KINDS}
    for kind in COMPOSED_KINDS:
        for draw in range(400):
            question = compose(random.Random(draw), SCENE, kind)
            if question:
                assert asked[kind].setdefault(question.text, question.answer) == question.answer
    # Seen from the box one of the others is always too close to tell, so it anchors nothing.
    assert asked["colour of a thing beside another"] == {
        "what colour is the box to the right of the ball?": "blue",
        "what colour is the kite to the right of the ball?": "green",
        "what colour is the ball above the kite?": "red",
        "what colour is the box above the kite?": "blue",
    }
    assert asked["thing beside another"] == {}  # two to the right of the ball, two above the kite
    assert asked["is it beside"]["is the kite below the box?"] == "yes"
    assert asked["is it beside"]["is the ball to the right of the box?"] == "no"
    assert len(asked["is it beside"]) == 16  # 4 clear axes, either thing first, 2 words
    assert asked["which side"]["is the box to the left or to the right of the ball?"] == "right"
    assert asked["which of two colours"]["is the ball red or blue?"] == "red"
    assert asked["both kinds"]["is there a box and a ball?"] == "yes"
    assert asked["both pairs"]["is there a blue box and a red ball?"] == "yes"
    assert asked["both pairs"]["is there a blue box and a pink ball?"] == "no"


def oracle(scene: Scene, text: str) -> str:
    """Answer a composed question by reading its words."""

    def find(kind: str) -> list[Thing]:
        return [thing for thing in scene.things if thing.kind == kind]

    def beside(one: Thing, words: str, other: Thing) -> bool:
        (x, y), (u, v) = one.centre, other.centre
        word = words.split()[2] if words.startswith("to") else words
        return {"left": x < u, "right": x > u, "above": y < v, "below": y > v}[word]

    where = "to the left of|to the right of|above|below"
    if found := re.fullmatch(rf"what colour is the (\w+) ({where}) the (\w+)\?", text):
        (other,) = find(found[3])
        (thing,) = [t for t in find(found[1]) if t is not other and beside(t, found[2], other)]
        return thing.colour
    if found := re.fullmatch(rf"what is ({where}) the (\w+)\?", text):
        (other,) = find(found[2])
        (thing,) = [t for t in scene.things if t is not other and beside(t, found[1], other)]
        return thing.kind
    if found := re.fullmatch(rf"is the (\w+) ({where}) the (\w+)\?", text):
        (one,), (other,) = find(found[1]), find(found[3])
        return "yes" if beside(one, found[2], other) else "no"
    if found := re.fullmatch(r"is the (\w+) (above or below|to .* of) the (\w+)\?", text):
        (one,), (other,) = find(found[1]), find(found[3])
        sides = ("above", "below") if found[2] == "above or below" else ("left", "right")
        words = [side if side in ("above", "below") else f"to the {side} of" for side in sides]
        return next(s for s, w in zip(sides, words, strict=True) if beside(one, w, other))
    if found := re.fullmatch(r"is the (\w+) (\w+) or (\w+)\?", text):
        (one,) = find(found[1])
        assert one.colour in (found[2], found[3])
        return one.colour
    found = re.fullmatch(r"is there an? (.+) and an? (.+)\?", text)
    assert found, text
    names = {name for t in scene.things for name in (t.kind, f"{t.colour} {t.kind}")}
    return "yes" if {found[1], found[2]} <= names else "no"


def test_composed_answers_are_those_of_the_scene() -> None:
    answers: dict[str, Counter] = {kind: Counter() for kind in COMPOSED_KINDS}
    for draw in range(400):
        rng = random.Random(draw)
        scene = sample_scene(rng, "dev")
        for kind in COMPOSED_KINDS:
            question = compose(rng, scene, kind)
            if question:
                assert oracle(scene, question.text) == question.answer, (scene, question)
                answers[kind][question.answer] += 1
    assert all(sum(counts.values()) > 50 for counts in answers.values())
    for kind in ("is it beside", "both kinds", "both pairs"):
        assert 0.4 < answers[kind]["yes"] / sum(answers[kind].values()) < 0.6


def test_gqa_entries(out: Path) -> None:
    known = read_json(out / "gqa/data/testdev_balanced_questions.json")
    lines = read_lines(out / "gqa/llava_gqa_testdev_balanced.jsonl")
    assert list(known) == [line["question_id"] for line in lines]
    for line in lines:
        entry = known[line["question_id"]]
        assert line["text"] == f"{entry['question']}\n{SHORT_ANSWER}"
        assert line["image"] == f"{entry['imageId']}.jpg" and entry["isBalanced"]
        assert set(entry["types"]) == {"structural", "semantic", "detailed"}
    structural = {entry["types"]["structural"] for entry in known.values()}
    assert structural == {"query", "verify", "choose", "logical"}


def test_pope_is_balanced_and_its_labels_are_true(out: Path) -> None:
    lines, scenes = read_lines(out / "pope/llava_pope_test.jsonl"), read_json(out / "scenes.json")
    yes = {}
    for category in ("adversarial", "popular", "random"):
        labels = read_lines(out / f"pope/coco/coco_pope_{category}.json")
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


def test_adversarial_kinds_look_alike() -> None:
    assert (
        likeness("ball", "ball") == 0 and likeness("ball", "tree") == likeness("tree", "ball") < 0
    )
    one = Scene("grass", (Thing("ball", "red", "small"),))
    absent = [row.name for row in KINDS if row.name != "ball"]
    best = sorted(absent, key=lambda kind: -likeness(kind, "ball"))[:2]
    assert set(absent_kinds(random.Random(0), one, "adversarial")) == set(best)
    drawn = {k for n in range(99) for k in absent_kinds(random.Random(n), one, "random")}
    popular = {k for n in range(99) for k in absent_kinds(random.Random(n), one, "popular")}
    assert len(drawn) == 23 and len(popular) == 6 and "ball" not in drawn


def test_scienceqa_records(out: Path) -> None:
    records = read_json(out / "scienceqa/llava_test_CQM-A.json")
    problems = read_json(out / "scienceqa/problems.json")
    assert read_json(out / "scienceqa/pid_splits.json")["test"] == [r["id"] for r in records]
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
            assert (out / "scienceqa/images/test" / record["image"]).is_file()
        pictured += bool(place)
    assert pictured == 120 and len(records) == 180


def test_mmbench_rotates_options(out: Path) -> None:
    rows = {int(row["index"]): row for row in read_table(out)}
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


@pytest.mark.parametrize("kind", CHOICE_KINDS)
def test_options_hold_the_answer_once(kind: str) -> None:
    places = set()
    for draw in range(60):
        rng = random.Random(draw)
        choice = choose(rng, sample_scene(rng, "dev"), kind)
        if choice:
            assert len(set(choice.options)) == len(choice.options) >= 2
            assert choice.letter == "ABCD"[choice.answer]
            places.add(choice.answer)
    assert {0, 1} <= places
    if kind == "colour of a noun":
        choice = choose(random.Random(1), SCENE, kind)
        assert choice is not None
        colours = {"ball": "red", "box": "blue", "kite": "green"}
        noun = choice.question.rstrip("?").split()[-1]
        assert choice.options[choice.answer] == colours[noun]
        assert set(choice.options) <= {row.name for row in COLOURS}


def test_mmvet_entries(out: Path) -> None:
    known = read_json(out / "mm-vet/mm-vet.json")
    lines = read_lines(out / "mm-vet/llava-mm-vet.jsonl")
    assert list(known) == [f"v1_{line['question_id']}" for line in lines]
    tags = Counter(tag for entry in known.values() for tag in entry["capability"])
    assert set(tags) == {"rec", "ocr", "spat", "math", "gen"} and min(tags.values()) >= 10
    for key, entry in known.items():
        assert entry["imagename"] == f"{key}.png"
        assert not ("<AND>" in entry["answer"] and "<OR>" in entry["answer"])


def test_open_questions_by_hand() -> None:
    def truth(kind: str) -> set[str]:
        asked = [ask_open(random.Random(draw), SCENE, kind) for draw in range(30)]
        return {question.truth for question in asked if question}

    assert truth("written word") == {"stop"}
    assert truth("sign and background") == {"stop<AND>grass"}
    assert truth("caption") == {"red ball<AND>blue box<AND>green kite<AND>stop"}
    assert truth("counting") == {"three<OR>3"} and truth("sum") == {"two<OR>2"}
    assert truth("noun of a colour") == {"ball<OR>sphere", "box<OR>crate", "kite"}
    assert plain_answer("stop<AND>grass") == "stop and grass"
    assert plain_answer("ball<OR>sphere") == "ball"


def test_text_only_questions(out: Path) -> None:
    rows = read_lines(out / "text_only.jsonl")
    assert Counter(row["kind"] for row in rows) == dict.fromkeys(QUESTION_KINDS, 20)
    for row in rows:
        told, question = row["text"].split("\n")
        assert "background: " in told and question.endswith("?")
        assert row["kind"] != "place" or "top " in told or "bottom " in told
    yes = Counter(row["answer"] for row in rows if row["kind"].startswith("existence"))
    assert yes == {"yes": 30, "no": 30}


@pytest.mark.parametrize("name", PERFECT)
def test_perfect_answers_answer_every_question(out: Path, name: str) -> None:
    rows = perfect_answers(out / name)
    assert len(rows) == read_json(out / "manifest.json")["questions"][name]
    assert all({"question_id", "prompt", "text"} <= set(row) and row["text"] for row in rows)


def test_perfect_answers_by_hand(out: Path) -> None:
    rows = perfect_answers(out / "vizwiz")
    assert sum(row["text"] == "Unanswerable" for row in rows) == 60
    prompts = [row["prompt"] for row in perfect_answers(out / "scienceqa")]
    assert all(prompt.endswith(f"\n{LETTER}") for prompt in prompts)
    assert sum("<image>" in prompt for prompt in prompts) == 120
    with_tokens, bare = (
        perfect_answers(out / "textvqa"),
        perfect_textvqa(out / "textvqa", ocr=False),
    )
    assert [row["text"] for row in with_tokens] == [row["text"] for row in bare]
    assert len(perfect_text_only(out)) == 180
    table = {row["index"]: row for row in read_table(out)}
    for row in perfect_answers(out / "mmbench"):
        entry = table[str(row["question_id"])]
        assert row["text"] == entry["answer"]
        assert row["prompt"].split("\n")[-1][3:] == row["options"][-1]


def test_training_forms_are_those_of_the_benchmarks() -> None:
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in FORMS}
    for draw in range(150):
        rng = random.Random(draw)
        scene = sample_scene(rng, "train")
        for name, form in FORMS.items():
            found[name] += form(rng, scene)
    assert all(len(turns) > 20 for turns in found.values())
    assert {answer for _, answer in found["choice"]} == set("ABCD")
    assert all(question.endswith(LETTER) for question, _ in found["choice"])
    share = sum(answer == NO_ANSWER for _, answer in found["absent"]) / len(found["absent"])
    assert 0.35 < share < 0.65
    assert any("Reference OCR token: " in question for question, _ in found["written"])
    scene = sample_scene(random.Random(5), "train")
    turns = training_turns(random.Random(0), scene, 3)
    assert turns == training_turns(random.Random(0), scene, 3)
    assert len({question for question, _ in turns}) == len(turns) == 3
    ((question, answer),) = told_choice_turns(random.Random(1), scene)
    assert question.startswith("Context: ") and answer in "ABCD"


def test_the_instruction_data_may_use_the_training_forms() -> None:
    code = (
        "import sys; import playground.benchmarks.training_forms; "
        "print({'playground.instructions', 'playground.generate', 'torch'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
    assert SHORT_ANSWER == instructions.SHORT_ANSWER


def test_the_shipped_tokenizers_give_every_text_back(out: Path, repo: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(repo / "playground/models/llm-small")
    rows = [row for name in PERFECT for row in perfect_answers(out / name)]
    for text in {text for row in rows for text in (row["prompt"], row["text"])}:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
        assert len(ids) < 200
