"""Token vectors on a plane, and whether they mix: pure functions of arrays.

The plane is t-SNE's (van der Maaten and Hinton, 2008; scikit-learn's Barnes-Hut), which keeps
neighbours together and tells nothing by the distance between far groups. So what a map seems to
show is counted as well, in the full space: `share_near`.

Shape letters: N vectors, D hidden size, Q those that ask, K neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERPLEXITY = 30.0
NEIGHBOURS = 10
SEED = 0
FEWEST = 8
"""With fewer points a map shows nothing."""

Floats = NDArray[np.float32]


def tsne(vectors_ND: Floats, seed: int = SEED) -> Floats:
    """Lay vectors out on a plane by t-SNE with the cosine as metric.

    Args:
        vectors_ND: at least `FEWEST` vectors of any length ``(N, D)``.
        seed: of what is random; the same vectors and seed give the same map.

    Returns:
        Places ``(N, 2)``, each axis between 0 and 1, one scale for both.

    Raises:
        ValueError: if there are too few vectors.
    """
    if len(vectors_ND) < FEWEST:
        raise ValueError(f"{len(vectors_ND)} vectors are too few for a map")
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


def share_near(
    asking_QD: Floats, others_ND: Floats, wanted_QN: NDArray[np.bool_], neighbours: int = NEIGHBOURS
) -> float:
    """Return what share of the nearest neighbours (cosine, full space) is wanted.

    Args:
        asking_QD: the vectors whose neighbours are looked at.
        others_ND: the vectors that may be neighbours; the first Q of them are `asking_QD`
            themselves, and none is its own neighbour.
        wanted_QN: which neighbours count.
        neighbours: how many nearest ones are looked at.
    """
    cosine_QN = unit(asking_QD) @ unit(others_ND).T
    own_Q = np.arange(len(asking_QD))
    cosine_QN[own_Q, own_Q] = -np.inf
    order_QK = np.argsort(-cosine_QN, axis=1, kind="stable")[:, :neighbours]
    return float(np.take_along_axis(wanted_QN, order_QK, axis=1).mean())


def unit(vectors_ND: Floats) -> Floats:
    """Scale vectors to length 1; one of length 0 stays."""
    length_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    scaled: Floats = (vectors_ND / np.maximum(length_N1, 1e-12)).astype(np.float32)
    return scaled
