"""The map of figure 2: visual tokens of each projector shown, and words, in one t-SNE.

The same patches of the same images stand for every projector, drawn at random with a fixed seed,
half of them on objects where the truth is known. The words are those of the list that occur in
these images' captions. A patch's group is the most frequent noun that is true of it.

t-SNE (van der Maaten and Hinton, 2008) keeps neighbours together and tells nothing by the distance
between far groups. So the map's message is counted as well, in the full space: `share_near`.

Shape letters: N visual tokens of one projector or any vectors, T words, D hidden size, Q vectors
whose neighbours are sought, K neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llava_sea.data.records import Record
from llava_sea.labels.occurrence import Truth, find_occurrences
from llava_sea.report.reading import PatchReader
from llava_sea.report.runs import Projector

MAP_IMAGES = 64
NUM_OBJECT_GROUPS, NUM_OTHER_GROUPS = 4, 2
PERPLEXITY = 30.0
NEIGHBOURS = 10
SEED = 0
FEWEST = 8
"""With fewer points a map shows nothing."""

Floats = NDArray[np.float32]


class Source(NamedTuple):
    """The visual tokens of one projector.

    The shares are those of words among a token's nearest neighbours, of its own group among its
    nearest tokens, and of a noun's group among the tokens nearest to it; None without truth.
    """

    name: str
    places_N2: Floats
    words_near: float
    group_near: float | None
    nouns_hit: float | None


class TokenMap(NamedTuple):
    """All that the map's drawing and its caption say.

    `groups` has the group of each visual token, of any source; `shown_groups` get a colour, objects
    first. `..._by_chance` are the sources' shares if all were mixed at random. `nouns_hit` is a
    mean over `num_nouns` groups, those with `NEIGHBOURS` tokens or more.
    """

    sources: tuple[Source, ...]
    words: tuple[str, ...]
    words_T2: Floats
    groups: tuple[str | None, ...]
    shown_groups: tuple[str, ...]
    num_images: int
    perplexity: float
    words_by_chance: float
    groups_by_chance: float | None
    nouns_by_chance: float | None
    num_nouns: int


def make_map(
    reader: PatchReader,
    records: Sequence[Record],
    projectors: Sequence[Projector],
    nouns: Sequence[str],
    count: int,
) -> TokenMap | None:
    """Read tokens and lay them out.

    Args:
        reader: reads images; its words are the list.
        records: records with images, of which the first `MAP_IMAGES` are read.
        projectors: states of the projector, each a source.
        nouns: the list's nouns, the most frequent first.
        count: the visual tokens of each source, and the most words.

    Returns:
        The map; None if there are too few points for one, or `count` is 0.
    """
    records = records[:MAP_IMAGES]
    reader.check_truth(records)
    patches = choose_patches(reader, records, count)
    places = words_of_captions(reader, records, count)
    if count == 0 or len(projectors) * len(patches) + len(places) < FEWEST or not places:
        return None
    tokens = [t.numpy() for t in reader.tokens(records, projectors, patches)]
    words_TD = reader.word_vectors(places).numpy()
    words = tuple(reader.words.words[place] for place in places)
    groups: list[str | None] = [None] * len(patches)
    shown: tuple[str, ...] = ()
    if reader.truth is not None:
        where = [(str(records[i].image), patch) for i, patch in patches]
        groups = _groups(reader.truth, where, nouns)
        shown = _shown(reader.truth, where, groups)
    counted = {g: n for g, n in Counter(groups).items() if g in words and n >= NEIGHBOURS}
    nouns_QD = words_TD[[words.index(str(g)) for g in counted]]
    known = Counter(group for group in groups if group is not None)
    pairs = max(known.total() * (known.total() - 1), 1)
    all_N2 = tsne(np.concatenate([*tokens, words_TD]))
    parts = np.split(all_N2, np.cumsum([len(patches)] * len(tokens)))
    sources = []
    for projector, places_N2, tokens_ND in zip(projectors, parts[:-1], tokens, strict=True):
        shares = _shares(tokens_ND, words_TD, groups)
        hit = nouns_hit(nouns_QD, list(counted), tokens_ND, groups)
        sources.append(Source(projector.label, places_N2, *shares, hit))
    return TokenMap(
        sources=tuple(sources),
        words=words,
        words_T2=parts[-1],
        groups=tuple(groups),
        shown_groups=shown,
        num_images=len(records),
        perplexity=perplexity(len(all_N2)),
        words_by_chance=len(places) / max(len(places) + len(patches) - 1, 1),
        groups_by_chance=sum(n * (n - 1) for n in known.values()) / pairs if known else None,
        nouns_by_chance=sum(counted.values()) / len(counted) / len(patches) if counted else None,
        num_nouns=len(counted),
    )


def choose_patches(
    reader: PatchReader, records: Sequence[Record], count: int
) -> list[tuple[int, int]]:
    """Draw patches with a fixed seed: half on objects where the truth is known, else all alike.

    Returns numbers of the record and of the patch in it, ascending.
    """
    everywhere = [(i, p) for i in range(len(records)) for p in range(reader.num_patches)]
    rng = np.random.default_rng(SEED)
    order = [everywhere[k] for k in rng.permutation(len(everywhere))]
    if (truth := reader.truth) is not None:
        on = [(i, p) for i, p in order if truth.is_object(str(records[i].image), p)]
        beside = set(on)
        off = [place for place in order if place not in beside]
        on = on[: max(count // 2, count - len(off))]
        order = on + off[: count - len(on)]
    return sorted(order[:count])


def words_of_captions(reader: PatchReader, records: Sequence[Record], count: int) -> list[int]:
    """Return the places of the list's words that the captions hold, the most frequent first."""
    captions = [record.turns[-1].text.strip() for record in records]
    found = {int(n) for ids in find_occurrences(captions, reader.words.words) for n in ids}
    return sorted(found)[:count]


def _shares(
    tokens_ND: Floats, words_TD: Floats, groups: Sequence[str | None]
) -> tuple[float, float | None]:
    both = np.concatenate([tokens_ND, words_TD])
    is_word = np.arange(len(both)) >= len(tokens_ND)
    words_near = share_near(tokens_ND, both, np.broadcast_to(is_word, (len(tokens_ND), len(both))))
    known = np.array([group is not None for group in groups])
    if known.sum() <= NEIGHBOURS:
        return words_near, None
    names: NDArray[np.str_] = np.array([group for group in groups if group is not None])
    return words_near, share_near(
        tokens_ND[known], tokens_ND[known], names[:, None] == names[None, :]
    )


def nouns_hit(
    nouns_QD: Floats,
    names: Sequence[str | None],
    tokens_ND: Floats,
    groups: Sequence[str | None],
) -> float | None:
    """Return the share of the visual tokens nearest to each noun that show it."""
    if not names:
        return None
    wanted_QN = np.array([[group == name for group in groups] for name in names])
    return share_near(nouns_QD, tokens_ND, wanted_QN, among_them=False)


def share_near(
    asking_QD: Floats,
    others_ND: Floats,
    wanted_QN: NDArray[np.bool_],
    neighbours: int = NEIGHBOURS,
    *,
    among_them: bool = True,
) -> float:
    """Return the share of the nearest neighbours (cosine, full space) that is wanted.

    Args:
        asking_QD: the vectors whose neighbours are sought.
        others_ND: the vectors that may be neighbours.
        wanted_QN: the neighbours that count.
        neighbours: the number of nearest ones.
        among_them: the first Q of the others are `asking_QD` itself; none is its own neighbour.
    """
    cosine_QN = unit(asking_QD) @ unit(others_ND).T
    if among_them:
        np.fill_diagonal(cosine_QN, -np.inf)
    order_QK = np.argsort(-cosine_QN, axis=1, kind="stable")[:, :neighbours]
    return float(np.take_along_axis(wanted_QN, order_QK, axis=1).mean())


def _groups(
    truth: Truth, patches: Sequence[tuple[str, int]], nouns: Sequence[str]
) -> list[str | None]:
    """Name each patch by the most frequent noun that is true of it."""
    rank = {noun: place for place, noun in enumerate(nouns)}
    true = ([word for word in truth.words(*patch) if word in rank] for patch in patches)
    return [min(words, key=rank.__getitem__, default=None) for words in true]


def _shown(
    truth: Truth, patches: Sequence[tuple[str, int]], groups: Sequence[str | None]
) -> tuple[str, ...]:
    """Return the largest groups: some of objects, some of backgrounds."""
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for patch, group in zip(patches, groups, strict=True):
        if group is not None:
            counts[truth.is_object(*patch)][group] += 1
    objects = [name for name, _ in counts[True].most_common(NUM_OBJECT_GROUPS)]
    others = [name for name, _ in counts[False].most_common() if name not in objects]
    return (*objects, *others[:NUM_OTHER_GROUPS])


def tsne(vectors_ND: Floats, seed: int = SEED) -> Floats:
    """Lay at least `FEWEST` vectors out on a plane by t-SNE with the cosine as metric.

    The same vectors and seed give the same places ``(N, 2)``, each axis between 0 and 1, one scale
    for both.
    """
    from sklearn.manifold import TSNE

    unit_ND = unit(vectors_ND)
    # Its start, two principal components, does not exist where all are alike or have one number.
    start = "pca" if unit_ND.shape[1] > 1 and np.ptp(unit_ND, axis=0).max() > 0 else "random"
    places_N2 = TSNE(
        metric="cosine", init=start, perplexity=perplexity(len(unit_ND)), random_state=seed
    ).fit_transform(unit_ND)
    low_2, high_2 = places_N2.min(axis=0), places_N2.max(axis=0)
    scaled: Floats = (places_N2 - (low_2 + high_2) / 2) / max(float((high_2 - low_2).max()), 1e-9)
    return (scaled + 0.5).astype(np.float32)


def perplexity(num_points: int) -> float:
    """Return the perplexity used for so many points: 30, less for a few."""
    return min(PERPLEXITY, (num_points - 1) / 3)


def unit(vectors_ND: Floats) -> Floats:
    """Scale vectors to length 1; one of length 0 stays."""
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    scaled: Floats = (vectors_ND / np.maximum(length_N1, 1e-12)).astype(np.float32)
    return scaled
