"""The t-SNE of figure 2: is it what it says, and do its counts tell mixed from apart."""

import re

import numpy as np
import pytest

from llava_sea.data.records import Record, Turn
from llava_sea.report.map_html import caption, map_html
from llava_sea.report.map_png import map_png
from llava_sea.report.token_map import Source, TokenMap, choose_patches, nouns_hit
from llava_sea.report.tsne import perplexity, share_near, tsne, unit


@pytest.fixture(scope="module")
def clusters():
    """Two far clusters of 20 in 6 dimensions, of very different lengths."""
    rng = np.random.default_rng(0)
    centre = np.zeros((40, 6), np.float32)
    centre[:20, 0], centre[20:, 1] = 1.0, 1.0
    lengths = np.where(np.arange(40) % 2, 1.0, 50.0)[:, None]
    return ((centre + 0.05 * rng.normal(size=(40, 6))) * lengths).astype(np.float32)


@pytest.fixture(scope="module")
def places(clusters):
    return tsne(clusters)


def test_tsne_separates_two_far_clusters(places):
    first, second = places[:20], places[20:]
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    wide = max(np.linalg.norm(part - part.mean(0), axis=1).max() for part in (first, second))
    assert apart > 2 * wide
    assert places.min() >= 0 and places.max() <= 1 and np.ptp(places, axis=0).max() > 0.99


def test_tsne_is_deterministic_and_ignores_length(clusters, places):
    assert np.array_equal(tsne(clusters), places)
    powers = np.where(np.arange(40) % 3, 1.0, 4.0)[:, None].astype(np.float32)  # exact in floats
    assert np.array_equal(tsne(clusters * powers), places)
    assert np.allclose(np.linalg.norm(unit(clusters), axis=1), 1)


def test_tsne_of_few_or_equal_vectors():
    assert np.isfinite(tsne(np.ones((9, 3), np.float32))).all()
    assert np.isfinite(tsne(np.arange(1, 9, dtype=np.float32)[:, None])).all()
    with pytest.raises(ValueError, match="3 vectors are too few"):
        tsne(np.ones((3, 2), np.float32))
    assert perplexity(10) == 3 and perplexity(5000) == 30


def test_share_near_tells_mixed_from_apart(clusters):
    wanted = np.broadcast_to(np.arange(40) >= 20, (20, 40))
    assert share_near(clusters[:20], clusters, wanted) == 0.0
    mixed = clusters[np.r_[0:40:2, 1:40:2]]  # either half has ten of each cluster
    assert share_near(mixed[:20], mixed, wanted) == pytest.approx(10 / 19, abs=0.15)


def test_share_near_by_hand():
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    wanted = np.array([[False, True, False, False], [False, False, True, True]])
    assert share_near(vectors[:2], vectors, wanted, neighbours=1) == 0.5


def test_nouns_hit_asks_from_the_noun(clusters):
    groups = ["ball"] * 20 + ["tree"] * 20
    nouns = np.eye(6, dtype=np.float32)[:2]
    assert nouns_hit(nouns, ["ball", "tree"], clusters, groups) == 1.0
    assert nouns_hit(nouns, ["tree", "ball"], clusters, groups) == 0.0
    assert nouns_hit(nouns[:0], [], clusters, groups) is None


class Truth:
    """Patches 0 to 2 of every picture are an object's."""

    def is_object(self, image, patch):
        return patch < 3


class Reader:
    num_patches = 16
    truth = None


def test_patches_are_drawn_half_on_objects_and_always_alike():
    records = [Record(i, i, f"{i}.png", (Turn("gpt", "x"),)) for i in range(4)]
    reader = Reader()
    everywhere = choose_patches(reader, records, 20)
    assert everywhere == choose_patches(reader, records, 20)
    assert sum(map(len, everywhere)) == 20
    assert sum(map(len, choose_patches(reader, records, 1000))) == 64
    reader.truth = Truth()
    chosen = choose_patches(reader, records, 20)
    assert sum(patch < 3 for patches in chosen for patch in patches) == 10
    assert sum(map(len, chosen)) == 20 and all(len(set(p)) == len(p) for p in chosen)
    many = choose_patches(reader, records, 40)  # there are but 12 on objects
    assert sum(patch < 3 for patches in many for patch in patches) == 12
    assert sum(map(len, many)) == 40


def token_map(**changes):
    rng = np.random.default_rng(0)
    sources = tuple(
        Source(name, rng.random((6, 2), dtype=np.float32), 0.25, 0.5, 0.75)
        for name in ("plain <LLaVA>", "SEA")
    )
    values = dict(
        sources=sources,
        words=("ball", "<i>", "grass"),
        words_T2=rng.random((3, 2), dtype=np.float32),
        groups=("ball", "ball", None, "grass", "hat", "grass"),
        shown_groups=("ball", "grass"),
        num_pictures=5,
        perplexity=4.7,
        words_by_chance=0.375,
        groups_by_chance=0.2,
        nouns_by_chance=0.1,
        num_nouns=2,
    )
    return TokenMap(**(values | changes))


def test_map_draws_every_point_and_says_how_many():
    html = map_html(token_map())
    everything, *panels = re.findall(r'<svg class="map" viewBox="0 0.*?</svg>', html, re.S)

    def marks(svg, kind):
        return sum(path.count("M") for path in re.findall(f'class="{kind}" d="([^"]*)"', svg))

    assert (marks(everything, "v0"), marks(everything, "v1"), marks(everything, "word")) == (
        6,
        6,
        3,
    )
    assert len(panels) == 2
    for panel in panels:
        assert [marks(panel, kind) for kind in ("g0", "g1", "rest")] == [2, 2, 2]
        assert ">ball</text>" in panel and ">grass</text>" in panel
    assert "One t-SNE of 15 points" in html and "6 visual tokens for each of 2" in html
    assert "3 text tokens" in html and "first 5 held-out pictures" in html
    assert "25.0\u00a0%" in html and "37.5\u00a0%" in html and "75.0\u00a0%" in html
    assert "plain &lt;LLaVA&gt;" in html and "<i>" not in html


def test_map_without_truth_has_no_groups():
    bare = Source("SEA", token_map().sources[0].places_N2, 0.25, None, None)
    html = map_html(
        token_map(
            sources=(bare,),
            groups=(None,) * 6,
            shown_groups=(),
            groups_by_chance=None,
            nouns_by_chance=None,
            num_nouns=0,
        )
    )
    assert "What the patch shows" not in html and "noun" not in html
    assert html.count('class="v0" d=') == 3  # two panels and the legend
    assert map_html(None) == ""


def test_map_png_and_caption():
    assert map_png(token_map()).startswith(b"\x89PNG")
    assert "<" not in caption(token_map())
