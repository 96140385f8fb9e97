"""Labels that are true, as a label store like any other: what mining could reach at best.

A patch gets the true words that are in the word list, the most frequent first, at most n, all with
the same score: the draw is uniform among them. Limits: needs mined labels of the same pictures,
whose geometry, encoder and checksums of the pictures it takes over.

Shape letters: I pictures of a shard, P patches, N labels a patch.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from llava_sea.alignment import LabelStore, finalize_store, write_shard
from llava_sea.labels.occurrence import Truth
from llava_sea.labels.quality_measures import precision

SHARD = 1024
_OF_THE_PICTURES = ("words_sha256", "images_sha256", "encoder_fingerprint", "grid", "geometry")
_OF_THE_RUN = ("num_words", "encoder", "data_path")


def write_true_labels(folder: Path, mined: LabelStore, truth: Truth, top_n: int) -> LabelStore:
    """Write the store, or return the one that is there with the same words and number.

    Args:
        folder: gets the store; one of other words is replaced.
        mined: labels of the same pictures.
        truth: the true words of every patch.
        top_n: labels kept for a patch.

    Returns:
        The finished store.
    """
    fields = {
        k: mined.manifest[k] for k in (*_OF_THE_PICTURES, *_OF_THE_RUN) if k in mined.manifest
    }
    fields |= {"features": "truth", "sign": 1, "top_n": top_n}
    if (folder / "manifest.json").is_file():
        store = LabelStore(folder)
        if all(store.manifest.get(k) == v for k, v in fields.items()):
            return store
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copyfile(mined.directory / "words.tsv", folder / "words.tsv")
    id_of = {word: number for number, word in enumerate(mined.words())}
    images = mined.images()
    shards = [images[start : start + SHARD] for start in range(0, len(images), SHARD)]
    num_patches = mined.grid[0] * mined.grid[1]
    known: dict[frozenset[str], list[int]] = {}  # patches share their sets of words
    for number, names in enumerate(shards):
        ids_IPN = np.zeros((len(names), num_patches, top_n), np.uint32)
        scores_IPN = np.zeros(ids_IPN.shape, np.float32)
        for row, image in enumerate(names):
            for patch in range(num_patches):
                words = truth.words(image, patch)
                if words not in known:
                    known[words] = true_ids(words, id_of, top_n)
                found = known[words]
                ids_IPN[row, patch, : len(found)] = found
                scores_IPN[row, patch, : len(found)] = 1.0
        crc_I = np.array([mined.read(image).crc32 for image in names], np.uint32)
        write_shard(folder, number, names, ids_IPN, scores_IPN, crc_I)
    finalize_store(folder, fields, len(shards))
    return LabelStore(folder)


def true_ids(words: Iterable[str], id_of: dict[str, int], top_n: int) -> list[int]:
    """Return the ids of the words that are in the list, the most frequent (smallest id) first."""
    return sorted(id_of[word] for word in words if word in id_of)[:top_n]


def label_precision(store: LabelStore, truth: Truth, images: Sequence[str]) -> tuple[float, float]:
    """Return how often a label drawn by its score (eq. 9) is true of its patch.

    Args:
        store: the labels.
        truth: the true words of every patch.
        images: pictures to look at.

    Returns:
        The share for all labelled patches, and for those of things; nan where there is none.
    """
    words = store.words()
    right, scores, objects = [], [], []
    for image in images:
        labels = store.read(image)
        true = [truth.words(image, patch) for patch in range(len(labels.ids_PN))]
        right.append(
            [[words[i] in t for i in ids] for ids, t in zip(labels.ids_PN, true, strict=True)]
        )
        scores.append(labels.scores_PN)
        objects.append([truth.is_object(image, patch) for patch in range(len(true))])
    right_IPN, scores_IPN, object_IP = (np.array(x) for x in (right, scores, objects))
    everywhere = precision(right_IPN, scores_IPN, np.ones_like(object_IP))
    return everywhere.sampled, precision(right_IPN, scores_IPN, object_IP).sampled
