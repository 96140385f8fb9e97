"""The questions of the miniature eight, scene by scene."""

import random
import re
from collections import Counter

import pytest

from playground.benchmarks.absent import ABSENT_KINDS, NO_ANSWER, ask_absent
from playground.benchmarks.annotators import annotate
from playground.benchmarks.choices import CHOICE_KINDS, choose
from playground.benchmarks.composed import COMPOSED_KINDS, compose, stands
from playground.benchmarks.open_questions import ask_open, plain_answer
from playground.benchmarks.pope import absent_kinds, likeness
from playground.benchmarks.prompts import LETTER
from playground.benchmarks.training_forms import FORMS, told_choice_turns, training_turns
from playground.benchmarks.written import ask_written, read_tokens
from playground.scene import Scene, Sign, Thing, sample_scene
from playground.vocabulary import COLOURS, KINDS

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


def test_unanswerable_questions_read_like_the_others() -> None:
    for kind in ABSENT_KINDS:
        for draw in range(30):
            question = ask_absent(random.Random(draw), SCENE, kind, answerable=False)
            if kind == "written word":
                assert question is None  # there is a sign
            else:
                assert question is not None and question.answer == NO_ANSWER
                assert re.fullmatch(r"(what colour|where) is the [a-z]+\?", question.text)


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
