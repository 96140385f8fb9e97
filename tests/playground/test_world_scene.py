"""Scenes, pictures, captions and truths: rules that must hold for every draw."""

import itertools
import random

import numpy as np

from playground.captions import Claims, Mention, with_article, write_caption
from playground.contrast import draw_batch
from playground.corpus import all_words, caption_words
from playground.distractors import ADJECTIVES, NOUNS, distractors
from playground.documents import draw_document, relisted, tell_by_patches
from playground.questions import QUESTION_KINDS, YES_NO_KINDS, ask, region_of
from playground.questions import test_questions as fixed_questions
from playground.render import BACKGROUND, SIGN, patch_owners, pixel_owners, render_scene
from playground.scene import Scene, Sign, Thing, change_one, sample_scene
from playground.shapes import SILHOUETTES, TEXTURES, draw_shape
from playground.signs import board_width, draw_board
from playground.truth import object_patches, patch_words
from playground.vocabulary import COLOURS, KINDS, SIGN_WORDS
from playground.world import OBJECT_COVERAGE, PATCH_SIDE, PICTURE_SIDE, Split

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def scenes(split: Split = "train", count: int = 60) -> list[Scene]:
    rng = random.Random(f"{split} scenes")
    return [sample_scene(rng, split) for _ in range(count)]


def test_every_name_is_of_one_thing() -> None:
    names = [n for k in KINDS for n in k.names] + [n for c in COLOURS for n in c.names]
    assert len(names) == len(set(names))
    assert all(len(kind.names) == len(kind.plurals) for kind in KINDS)
    for kind in KINDS:
        assert kind.silhouette in SILHOUETTES and kind.texture in TEXTURES


def test_kinds_differ_in_texture() -> None:
    assert len({kind.texture for kind in KINDS}) == len(KINDS)
    tones = [draw_shape("square", kind.texture, 26)[1][8:16, 8:16] for kind in KINDS]
    for i, one in enumerate(tones):
        for other in tones[:i]:
            assert np.abs(one - other).mean() > 0.1


def test_splits_are_disjoint_in_content() -> None:
    contents = {split: {scene.content() for scene in scenes(split, 200)} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not contents[one] & contents[other]
    for split in SPLITS:
        assert all(scene.split() == split for scene in scenes(split))
    # Place and order do not matter.
    one = Scene("grass", (Thing("ball", "red", "small"), Thing("box", "blue", "large", 30, 30)))
    twin = Scene("grass", (Thing("box", "blue", "large", 1, 2), Thing("ball", "red", "small", 40)))
    assert one.content() == twin.content()


def test_things_lie_apart_and_inside() -> None:
    for scene in scenes(count=200):
        assert 1 <= len(scene.things) <= 6
        taken = np.zeros((PICTURE_SIDE, PICTURE_SIDE), dtype=int)
        for thing in scene.things:
            side = thing.size_row.side
            assert 0 <= thing.x <= PICTURE_SIDE - side and 0 <= thing.y <= PICTURE_SIDE - side
            taken[thing.y : thing.y + side, thing.x : thing.x + side] += 1
        if scene.sign:
            x, y, width = scene.sign.x, scene.sign.y, board_width(scene.sign.word)
            assert x % PATCH_SIDE == y % PATCH_SIDE == 0 and x + width <= PICTURE_SIDE
            taken[y : y + PATCH_SIDE, x : x + width] += 1
        assert taken.max() == 1


def test_every_number_of_things_and_signs_occur() -> None:
    drawn = scenes(count=400)
    assert {len(scene.things) for scene in drawn} == {1, 2, 3, 4, 5, 6}
    assert 0.1 < np.mean([scene.sign is not None for scene in drawn]) < 0.4
    assert all(len(s.things) == 1 and not s.sign for s in drawn if s.things[0].size == "huge")


def test_boards_differ_and_own_their_patches() -> None:
    boards = [draw_board(word) for word in SIGN_WORDS]
    assert all(
        board.shape == (8, 8 * len(w), 3) for board, w in zip(boards, SIGN_WORDS, strict=True)
    )
    assert len({board.tobytes() for board in boards}) == len(SIGN_WORDS)
    scene = Scene("grass", (Thing("ball", "red", "small", 48, 48),), sign=Sign("stop", 8, 16))
    owner = patch_owners(scene)
    assert (owner[2, 1:5] == SIGN).all() and (owner == SIGN).sum() == 4
    assert {"stop", "sign", "stop sign"} <= set(patch_words(scene)[2 * 8 + 1])
    assert object_patches(scene)[17:21] == "1111"
    assert "[stop]" in scene.content()


def test_pixels_agree_with_owners() -> None:
    """A thing's pixels are those that change when it goes; the truth is taken from them."""
    for scene in scenes(count=20):
        owner = pixel_owners(scene)
        last = len(scene.things) - 1
        without = Scene(scene.background, scene.things[:-1], scene.noise_seed, scene.sign)
        change = np.abs(render_scene(scene).astype(int) - render_scene(without)).max(axis=-1)
        assert np.array_equal(render_scene(scene), render_scene(scene))
        assert (change[owner == last] > 20).mean() > 0.8
        assert (change[owner != last] <= 1).all() or (change[owner != last] < 30).all()


def test_truth_of_a_simple_scene() -> None:
    """A 24-pixel box at (0, 0) owns 3x3 patches of 8 pixels, the rest is background."""
    scene = Scene("snow", (Thing("box", "red", "large", 0, 0),))
    owner = patch_owners(scene)
    assert (owner[:3, :3] == 0).all() and (owner >= 0).sum() == 9
    words = patch_words(scene)
    assert {"box", "crates", "red", "crimson", "red box", "big crimson crate", "large"} <= set(
        words[0]
    )
    assert "snow" not in words[0] and "blue" not in words[0]
    assert {"snow", "snowy ground"} <= set(words[63]) and "box" not in words[63]
    assert object_patches(scene) == "11100000" * 3 + "00000000" * 5


def test_patch_belongs_to_what_covers_half_of_it() -> None:
    for scene in scenes(count=20):
        owner = pixel_owners(scene)
        blocks = owner.reshape(8, PATCH_SIDE, 8, PATCH_SIDE).swapaxes(1, 2).reshape(64, -1)
        for block, found in zip(blocks, patch_owners(scene).ravel(), strict=True):
            shares = [(block == i).mean() for i in range(len(scene.things))]
            if found == SIGN:
                assert (block == SIGN).all()
            elif found == BACKGROUND:
                assert max(shares) < OBJECT_COVERAGE
            else:
                assert shares[found] >= OBJECT_COVERAGE


def test_every_thing_owns_some_patch_mostly() -> None:
    shown = [set(patch_owners(s).ravel()) >= set(range(len(s.things))) for s in scenes(count=200)]
    assert np.mean(shown) > 0.98


def test_captions_claim_only_what_is_true_and_say_it() -> None:
    rng = random.Random(0)
    texts = []
    for scene in scenes(count=300):
        caption = write_caption(rng, scene)
        assert caption.claims.are_true_of(scene)
        assert caption.claims.mentions
        assert caption.text == caption.text.lower()
        assert "  " not in caption.text and "{" not in caption.text
        assert (caption.claims.background is not None) == any(
            noun in caption.text for noun in scene.background_row.nouns
        )
        texts.append(caption.text)
    assert any("rock" in text for text in texts) and any("photo of" in text for text in texts)
    assert any(" two " in f" {text} " for text in texts)
    assert [with_article(phrase) for phrase in ("red box", "old mug")] == [
        "a red box",
        "an old mug",
    ]


def test_claims_tell_scenes_apart() -> None:
    scene = Scene("sand", (Thing("ball", "red", "small"), Thing("kite", "blue", "large", 30)))
    assert Claims((Mention("ball", "red"),), "sand").are_true_of(scene)
    assert not Claims((Mention("ball", "blue"),)).are_true_of(scene)
    assert not Claims((Mention("ball"),), "snow").are_true_of(scene)
    assert not Claims((Mention("kite", "blue", "small"),)).are_true_of(scene)


def test_twins_differ_in_one_attribute_and_keep_their_split() -> None:
    rng = random.Random(1)
    for scene in scenes(count=50):
        twin = change_one(rng, scene)
        assert twin.content() != scene.content() and twin.split() == scene.split()
        words = [one.sign.word if one.sign else None for one in (scene, twin)]
        changes = (
            (twin.background != scene.background)
            + (words[0] != words[1])
            + sum(
                (a.kind != b.kind) + (a.colour != b.colour) + (a.size != b.size)
                for a, b in zip(scene.things, twin.things, strict=True)
            )
        )
        assert changes == 1


def test_contrast_batches_hold_true_pairs_on_the_diagonal() -> None:
    batch = draw_batch(random.Random(2), 32)
    assert batch.pixels_BHHC.shape == (32, PICTURE_SIDE, PICTURE_SIDE, 3)
    assert batch.fits_BB.diagonal().all()
    assert not batch.fits_BB.all()


def test_scenes_told_by_patches_say_true_words_or_noise() -> None:
    """With noise of at most a tenth, most of the words told are true of their patch."""
    rng = random.Random(3)
    shares = []
    for scene in scenes(count=60):
        told = tell_by_patches(rng, scene)
        if ", " in told:
            assert len(told.split(", ")) == 16
            continue
        words = told.split(" ")
        assert len(words) == 64
        truth = patch_words(scene)
        shares.append(np.mean([w in t for w, t in zip(words, truth, strict=True)]))
    assert np.mean(shares) > 0.93 and max(shares) == 1.0


def is_true(scene: Scene, kind: str, text: str, answer: str) -> bool:
    """Answer a question anew from its words alone."""
    words = text.removesuffix("?").split(" ")
    things = scene.things
    if kind in YES_NO_KINDS:
        asked = words[-2:] if kind == "existence of a pair" else words[-1:]
        found = any(set(asked) <= {t.kind, t.colour} for t in things)
        return answer == ("yes" if found else "no")
    if kind == "colour of a noun":
        return [t.colour for t in things if t.kind == words[-1]] == [answer]
    if kind == "noun of a colour":
        return [t.kind for t in things if t.colour == words[-2]] == [answer]
    if kind == "place":
        return [region_of(t) for t in things if t.kind == words[-1]] == [answer]
    if kind == "written word":
        return scene.sign is not None and scene.sign.word == answer
    if kind == "background":
        return scene.background == answer
    return len(things) == ["zero", "one", "two", "three", "four", "five", "six"].index(answer)


def test_answers_are_true() -> None:
    rng = random.Random(4)
    for scene in scenes(count=150):
        for kind in QUESTION_KINDS:
            question = ask(rng, scene, kind)
            if question:
                assert is_true(scene, kind, question.text, question.answer), (scene, question)
            else:
                assert kind not in YES_NO_KINDS


def test_fixed_questions_are_balanced_and_never_change() -> None:
    asked = fixed_questions("test", 60)
    assert asked == fixed_questions("test", 60)
    assert all(scene.split() == "test" for scene, _ in asked)
    for kind in QUESTION_KINDS:
        answers = [q.answer for _, q in asked if q.kind == kind]
        assert len(answers) == 60
        if kind in YES_NO_KINDS:
            assert 0.3 < answers.count("yes") / 60 < 0.7


def test_relisted_values_are_look_ups() -> None:
    for scene in scenes(count=40):
        brief, *rest = relisted(random.Random(0), scene)
        supervised = [s.text for s in rest if s.weight == 1.0]
        assert all(f"{t.colour} {t.kind}" in brief.text for t in scene.things)
        assert all(value in brief.text for value in supervised)


def test_documents_are_reproducible_supervised_and_ask_nothing_twice() -> None:
    documents = [draw_document(random.Random(i), progress=1.0) for i in range(60)]
    assert documents == [draw_document(random.Random(i), progress=1.0) for i in range(60)]
    for document in documents:
        assert any(segment.weight > 0 for segment in document)
        questions = [s.text for s in document if s.text.startswith("\nUSER")]
        assert len(questions) == len(set(questions))


def test_word_lists() -> None:
    words = caption_words(count=800, min_count=2)
    assert {"ball", "red", "red ball", "grass", "photo", "rusty", "zebra", "sign"} <= set(words)
    assert len(all_words()) == len(set(all_words())) > 2000
    assert not set(distractors()) & set(all_words())
    assert len(distractors()) > 700 and not set(NOUNS) & set(ADJECTIVES)
