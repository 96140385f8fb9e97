"""The map of figure 2: visual tokens of each projector shown, and words, in one t-SNE.

The same patches of the same pictures stand for every projector, drawn at random with a fixed seed,
half of them on objects where the truth is known. The words are those of the list that occur in
these pictures' captions. A patch's group is the most frequent noun that is true of it.

Shape letters: N visual tokens of one projector, T words, D hidden size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from llava_sea.data.records import Record
from llava_sea.labels.occurrence import find_occurrences
from llava_sea.report.folder import Projector
from llava_sea.report.reading import PictureReader
from llava_sea.report.tsne import (
    FEWEST,
    NEIGHBOURS,
    SEED,
    Floats,
    perplexity,
    share_near,
    tsne,
    unit,
)

MAP_PICTURES = 64
NUM_OBJECT_GROUPS, NUM_OTHER_GROUPS = 4, 2


@dataclass(frozen=True)
class Source:
    """The visual tokens of one projector."""

    name: str
    places_N2: Floats
    words_near: float
    """Which share of a token's nearest neighbours, among these tokens and the words, is words."""
    group_near: float | None
    """Which share of a token's nearest visual tokens is of its own group; None without truth."""
    nouns_hit: float | None
    """Which share of the visual tokens nearest to a group's word is of that group."""


@dataclass(frozen=True)
class TokenMap:
    """All that the map's drawing and its caption say."""

    sources: tuple[Source, ...]
    words: tuple[str, ...]
    words_T2: Floats
    groups: tuple[str | None, ...]
    """For each visual token its group, of any source; None where none is known."""
    shown_groups: tuple[str, ...]
    """The groups that get a colour, objects' first."""
    num_pictures: int
    perplexity: float
    words_by_chance: float
    """`Source.words_near` if tokens and words were mixed at random."""
    groups_by_chance: float | None
    nouns_by_chance: float | None
    num_nouns: int
    """The groups that `Source.nouns_hit` is a mean over: those with `NEIGHBOURS` tokens or more."""

    @property
    def num_tokens(self) -> int:
        """How many visual tokens each source has."""
        return len(self.groups)


def make_map(
    reader: PictureReader,
    records: Sequence[Record],
    projectors: Sequence[Projector],
    nouns: Sequence[str],
    count: int,
) -> TokenMap | None:
    """Read tokens and lay them out.

    Args:
        reader: reads pictures; its words are the list.
        records: records with pictures, of which the first `MAP_PICTURES` are read.
        projectors: states of the projector, each a source.
        nouns: the list's nouns, the most frequent first.
        count: how many visual tokens each source gets, and how many words at most.

    Returns:
        The map; None if there are too few points for one, or `count` is 0.

    Raises:
        UserError: if a picture can't be read or a projector does not fit.
    """
    records = records[:MAP_PICTURES]
    reader.check_truth(records)
    patches = choose_patches(reader, records, count)
    places = words_of_captions(reader, records, count)
    num_tokens = sum(map(len, patches))
    if count == 0 or len(projectors) * num_tokens + len(places) < FEWEST or not places:
        return None
    tokens = [t.numpy() for t in reader.tokens(records, projectors, patches)]
    with torch.no_grad():
        words_TD = reader.words.some(reader.model, places, reader.device).float().cpu().numpy()
    words = [reader.words.words[place] for place in places]
    groups = _groups(reader, records, patches, nouns)
    counted = {g: n for g, n in Counter(groups).items() if g in words and n >= NEIGHBOURS}
    all_N2 = tsne(np.concatenate([*tokens, words_TD]))
    parts = np.split(all_N2, np.cumsum([num_tokens] * len(tokens)))
    known = [group for group in groups if group is not None]
    by_chance = None
    if known:
        by_chance = sum(n * (n - 1) for n in Counter(known).values()) / max(
            len(known) * (len(known) - 1), 1
        )
    return TokenMap(
        sources=tuple(
            Source(
                p.label,
                parts[i],
                *_shares(tokens[i], words_TD, groups),
                nouns_hit(
                    words_TD[[words.index(g) for g in counted]], list(counted), tokens[i], groups
                ),
            )
            for i, p in enumerate(projectors)
        ),
        words=tuple(words),
        words_T2=parts[-1],
        groups=tuple(groups),
        shown_groups=_shown(reader, records, patches, groups),
        num_pictures=len(records),
        perplexity=perplexity(len(all_N2)),
        words_by_chance=len(places) / max(len(places) + num_tokens - 1, 1),
        groups_by_chance=by_chance,
        nouns_by_chance=sum(counted.values()) / len(counted) / num_tokens if counted else None,
        num_nouns=len(counted),
    )


def choose_patches(reader: PictureReader, records: Sequence[Record], count: int) -> list[list[int]]:
    """Draw patches with a fixed seed: half on objects where the truth is known, else all alike."""
    everywhere = [(i, p) for i in range(len(records)) for p in range(reader.num_patches)]
    rng = np.random.default_rng(SEED)
    order = [everywhere[k] for k in rng.permutation(len(everywhere))]
    if reader.truth is not None:
        truth = reader.truth
        on = [(i, p) for i, p in order if truth.is_object(str(records[i].image), p)]
        chosen_on = on[: max(count // 2, count - (len(order) - len(on)))]
        beside = set(on)
        off = [place for place in order if place not in beside]
        order = chosen_on + off[: count - len(chosen_on)]
    chosen: list[list[int]] = [[] for _ in records]
    for i, patch in sorted(order[:count]):
        chosen[i].append(patch)
    return chosen


def words_of_captions(reader: PictureReader, records: Sequence[Record], count: int) -> list[int]:
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
    group_near = share_near(tokens_ND[known], tokens_ND[known], names[:, None] == names[None, :])
    return words_near, group_near


def nouns_hit(
    nouns_QD: Floats,
    names: Sequence[str | None],
    tokens_ND: Floats,
    groups: Sequence[str | None],
) -> float | None:
    """Return which share of the visual tokens nearest to each noun show it; None without nouns."""
    if not names:
        return None
    cosine_QN = unit(nouns_QD) @ unit(tokens_ND).T
    nearest_QK = np.argsort(-cosine_QN, axis=1, kind="stable")[:, :NEIGHBOURS]
    hits = [
        groups[k] == name for name, row in zip(names, nearest_QK.tolist(), strict=True) for k in row
    ]
    return sum(hits) / len(hits)


def _groups(
    reader: PictureReader,
    records: Sequence[Record],
    patches: Sequence[Sequence[int]],
    nouns: Sequence[str],
) -> list[str | None]:
    """Name each patch by the most frequent noun that is true of it."""
    if reader.truth is None:
        return [None for chosen in patches for _ in chosen]
    rank = {noun: place for place, noun in enumerate(nouns)}
    return [
        min(
            (word for word in reader.truth.words(str(record.image), patch) if word in rank),
            key=rank.__getitem__,
            default=None,
        )
        for record, chosen in zip(records, patches, strict=True)
        for patch in chosen
    ]


def _shown(
    reader: PictureReader,
    records: Sequence[Record],
    patches: Sequence[Sequence[int]],
    groups: Sequence[str | None],
) -> tuple[str, ...]:
    """Return the largest groups: some of objects, some of backgrounds."""
    if reader.truth is None:
        return ()
    where = [
        (record, patch) for record, chosen in zip(records, patches, strict=True) for patch in chosen
    ]
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for (record, patch), group in zip(where, groups, strict=True):
        if group is not None:
            counts[reader.truth.is_object(str(record.image), patch)][group] += 1
    objects = [name for name, _ in counts[True].most_common(NUM_OBJECT_GROUPS)]
    others = [name for name, _ in counts[False].most_common() if name not in objects]
    return (*objects, *others[:NUM_OTHER_GROUPS])
