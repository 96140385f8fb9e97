"""Scenes, pictures, captions and truths: rules that must hold for every draw."""

import random

import numpy as np
import pytest

from playground.captions import Claims, Mention, with_article, write_caption
from playground.contrast import draw_batch
from playground.corpus import all_words, caption_words
from playground.documents import ask, bag_of_words, draw_document
from playground.render import BACKGROUND, patch_owners, pixel_owners, render_scene
from playground.scene import Scene, Thing, change_one, sample_scene
from playground.shapes import SILHOUETTES, TEXTURES, draw_shape
from playground.truth import object_patches, patch_words
from playground.vocabulary import BACKGROUNDS, COLOURS, KINDS, SIZES
from playground.world import OBJECT_COVERAGE, PATCH_SIDE, PICTURE_SIDE, Split

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def scenes(split: Split = "train", count: int = 60) -> list[Scene]:
    rng = random.Random(f"{split} scenes")
    return [sample_scene(rng, split) for _ in range(count)]


def test_world_is_as_large_as_promised() -> None:
    assert len(KINDS) >= 12
    assert (len(COLOURS), len(SIZES), len(BACKGROUNDS)) == (8, 2, 6)
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
    assert not contents["train"] & contents["dev"]
    assert not contents["train"] & contents["test"]
    assert not contents["dev"] & contents["test"]
    for split in SPLITS:
        assert all(scene.split() == split for scene in scenes(split))


def test_content_ignores_place_and_order() -> None:
    one = Scene("grass", (Thing("ball", "red", "small"), Thing("box", "blue", "large", 30, 30)))
    other = Scene("grass", (Thing("box", "blue", "large", 1, 2), Thing("ball", "red", "small", 40)))
    assert one.content() == other.content()


def test_things_lie_apart_and_inside() -> None:
    for scene in scenes(count=200):
        assert 1 <= len(scene.things) <= 4
        taken = np.zeros((PICTURE_SIDE, PICTURE_SIDE), dtype=int)
        for thing in scene.things:
            side = thing.size_row.side
            assert 0 <= thing.x <= PICTURE_SIDE - side and 0 <= thing.y <= PICTURE_SIDE - side
            taken[thing.y : thing.y + side, thing.x : thing.x + side] += 1
        assert taken.max() == 1


def test_same_scene_same_pixels() -> None:
    scene = scenes()[0]
    assert np.array_equal(render_scene(scene), render_scene(scene))
    assert render_scene(scene).shape == (PICTURE_SIDE, PICTURE_SIDE, 3)


def test_pixels_agree_with_owners() -> None:
    """A thing's pixels are those that change when it goes; the truth is taken from them."""
    for scene in scenes(count=20):
        owner = pixel_owners(scene)
        last = len(scene.things) - 1
        without = Scene(scene.background, scene.things[:-1], scene.noise_seed)
        change = np.abs(render_scene(scene).astype(int) - render_scene(without)).max(axis=-1)
        assert (change[owner == last] > 20).mean() > 0.8
        assert (change[owner != last] <= 1).all() or (change[owner != last] < 30).all()


def test_truth_of_a_simple_scene() -> None:
    """A 26-pixel box at (0, 0) owns 3x3 patches of 8 pixels, the rest is background."""
    scene = Scene("snow", (Thing("box", "red", "large", 0, 0),))
    owner = patch_owners(scene)
    assert (owner[:3, :3] == 0).all() and (owner >= 0).sum() == 9
    words = patch_words(scene)
    assert {"box", "crates", "red", "crimson", "red box", "big crimson crate", "huge"} <= set(
        words[0]
    )
    assert "snow" not in words[0] and "blue" not in words[0]
    assert {"snow", "snowy ground"} <= set(words[63]) and "box" not in words[63]
    assert object_patches(scene) == "11100000" * 3 + "00000000" * 5


def test_patch_belongs_to_what_covers_half_of_it() -> None:
    for scene in scenes(count=20):
        owner = pixel_owners(scene)
        for row in range(8):
            for column in range(8):
                block = owner[
                    row * PATCH_SIDE : (row + 1) * PATCH_SIDE,
                    column * PATCH_SIDE : (column + 1) * PATCH_SIDE,
                ]
                found = patch_owners(scene)[row, column]
                shares = [(block == i).mean() for i in range(len(scene.things))]
                if found == BACKGROUND:
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


def test_claims_tell_scenes_apart() -> None:
    scene = Scene("sand", (Thing("ball", "red", "small"), Thing("kite", "blue", "large", 30)))
    assert Claims((Mention("ball", "red"),), "sand").are_true_of(scene)
    assert not Claims((Mention("ball", "blue"),)).are_true_of(scene)
    assert not Claims((Mention("ball"),), "snow").are_true_of(scene)
    assert not Claims((Mention("kite", "blue", "small"),)).are_true_of(scene)


@pytest.mark.parametrize(("phrase", "full"), [("red box", "a red box"), ("old mug", "an old mug")])
def test_articles(phrase: str, full: str) -> None:
    assert with_article(phrase) == full


def test_twins_differ_in_one_attribute_and_keep_their_split() -> None:
    rng = random.Random(1)
    for scene in scenes(count=50):
        twin = change_one(rng, scene)
        assert twin.content() != scene.content() and twin.split() == scene.split()
        changes = (twin.background != scene.background) + sum(
            (a.kind != b.kind) + (a.colour != b.colour) + (a.size != b.size)
            for a, b in zip(scene.things, twin.things, strict=True)
        )
        assert changes == 1


def test_contrast_batches_hold_true_pairs_on_the_diagonal() -> None:
    batch = draw_batch(random.Random(2), 32)
    assert batch.pixels_BHHC.shape == (32, PICTURE_SIDE, PICTURE_SIDE, 3)
    assert batch.fits_BB.diagonal().all()
    assert not batch.fits_BB.all()


def test_bags_say_true_words_or_noise() -> None:
    """With the noise of at most a tenth, most words of a bag are true of their patch."""
    rng = random.Random(3)
    shares = []
    for scene in scenes(count=40):
        words = bag_of_words(rng, scene).split(" ")
        assert len(words) in (16, 64)
        if len(words) == 64:
            truth = patch_words(scene)
            shares.append(np.mean([w in t for w, t in zip(words, truth, strict=True)]))
    assert np.mean(shares) > 0.93 and max(shares) == 1.0


def test_answers_are_true() -> None:
    rng = random.Random(4)
    for scene in scenes(count=200):
        question, answer = ask(rng, scene)
        if question.startswith(("is there a ", "is there an ")):
            asked = question.removesuffix("?").split(" ")[3:]
            found = any(asked in ([t.kind], [t.colour, t.kind]) for t in scene.things)
            assert answer == ("yes" if found else "no"), question
        elif question.startswith("what colour"):
            assert (question.split(" ")[4][:-1], answer) in {
                (t.kind, t.colour) for t in scene.things
            }
        elif question == "what is the background?":
            assert answer == scene.background
        elif question.startswith("what is the"):
            assert (answer, question.split(" ")[3]) in {(t.kind, t.colour) for t in scene.things}
        else:
            assert question.startswith("how many")


def test_documents_are_reproducible_and_supervised() -> None:
    one = [draw_document(random.Random(i)) for i in range(50)]
    assert one == [draw_document(random.Random(i)) for i in range(50)]
    assert all(any(segment.weight == 1.0 for segment in document) for document in one)


def test_word_lists() -> None:
    words = caption_words(count=800, min_count=2)
    assert 150 <= len(words) <= 800
    assert {"ball", "red", "red ball", "grass", "photo"} <= set(words)
    assert len(all_words()) == len(set(all_words())) > 2000
