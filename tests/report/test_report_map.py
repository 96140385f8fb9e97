"""The t-SNE of figure 2, its counts, its drawing."""

import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from llava_sea.data.records import Record, Turn
from llava_sea.report.charts import map_figure, png, svg
from llava_sea.report.token_map import (
    Source,
    choose_patches,
    nouns_hit,
    perplexity,
    share_near,
    tsne,
    unit,
)
from tests.report.report_world import token_map


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
    assert perplexity(10) == 3 and perplexity(5000) == 30


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


def test_patches_are_drawn_half_on_objects_and_always_alike():
    records = [Record(i, i, f"{i}.png", (Turn("gpt", "x"),)) for i in range(4)]
    reader = SimpleNamespace(num_patches=16, truth=None)
    everywhere = choose_patches(reader, records, 20)
    assert everywhere == choose_patches(reader, records, 20) and len(everywhere) == 20
    assert len(choose_patches(reader, records, 1000)) == 64
    reader.truth = SimpleNamespace(is_object=lambda image, patch: patch < 3)
    chosen = choose_patches(reader, records, 20)
    assert sum(patch < 3 for _, patch in chosen) == 10
    assert len(set(chosen)) == 20 and chosen == sorted(chosen)
    many = choose_patches(reader, records, 40)  # there are but 12 on objects
    assert sum(patch < 3 for _, patch in many) == 12 and len(many) == 40


def marks(text):
    """Return how many points of each colour a map has, and the words written into it."""
    uses = re.findall(r'<use [^>]*style="fill: var\(--(\w+)\)', text)
    return Counter(uses), re.findall(r">([^<>]+)</text>", text)


def test_map_draws_every_point():
    tokens = token_map()
    points, names = marks(svg(map_figure(tokens), "map", "all"))
    assert points == {"s1": 6, "s0": 6, "word": 3} and names == []
    for which in range(2):
        points, names = marks(svg(map_figure(tokens, which), "map", f"map {which}"))
        # The large marks are the two groups' words.
        assert points == {"g0": 2 + 1, "g1": 2 + 1, "rest": 2, "word": 3}
        assert names == ["ball", "grass"]


def test_map_without_truth_has_no_groups():
    bare = Source("SEA", token_map().sources[0].places_N2, 0.25, None, None)
    tokens = token_map(sources=(bare,), groups=(None,) * 6, shown_groups=())
    points, names = marks(svg(map_figure(tokens, 0), "map", "SEA"))
    assert points == {"s1": 6, "word": 3} and names == []
    assert png(map_figure(tokens, 0), "plain <LLaVA>").startswith(b"\x89PNG")
