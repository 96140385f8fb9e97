"""The labels of a corpus on disk: shards of word ids and scores, 5 bytes an entry.

A folder holds ``shard-00000.labels.npy``, a row an image (`llava_sea.alignment.label_rows`), with
a ``shard-00000.json`` that names its images and the checksum, written last: a shard without it
was cut off and is made again. Once all are there (and the caller's ``words.tsv``) `finalize_store`
adds ``index.npy`` (image -> row) and ``manifest.json``, also written last: a folder without it is
not a store. Stores and shards of an earlier format are refused by name.

Images are found by a 64-bit hash of their name (the string of the record's "image"), so a reader
maps 16 bytes an image; the labels of one are read when it is asked for. Each row carries a
checksum of its own, compared at every read, and the CRC-32 of the image file that was labelled;
the loader of the image compares it (`Labels.crc32`), for labels of another image train garbage.

Shape letters: I images of a shard, P patches, N labels a patch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llava_sea.alignment.label_rows import Labels, RowFile, pack_rows, row_dtype, unpack_row
from llava_sea.errors import UserError
from llava_sea.files import (
    LIST_BYTES,
    SETTINGS_BYTES,
    open_atomically,
    read_file,
    sha256_file,
    write_atomically,
)

FORMAT = "llava_sea labels 3"
_SIDECAR = {"format", "images", "sha256", "id_bytes", "skipped"}


class LabelStoreError(UserError):
    """A label store is missing, damaged, or lacks the labels asked for."""


def write_shard(
    directory: Path,
    shard: int,
    images: Sequence[str],
    ids_IPN: NDArray[np.unsignedinteger],
    scores_IPN: NDArray[np.floating],
    crc_I: NDArray[np.unsignedinteger],
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Write one shard; it counts as done only when every byte of it is on disk.

    Args:
        directory: the store's folder.
        shard: the shard's number, from 0.
        images: names of the images, in row order.
        ids_IPN: word ids, below 2**32.
        scores_IPN: their scores; those not above 0 are stored as 0.
        crc_I: CRC-32 of each image file; 0 where it could not be read.
        skipped: images without labels and why.

    Raises:
        ValueError: naming the image, if an id is not in 0 .. 2**32 - 1 or a score is no number.
    """
    assert len(images) == len(ids_IPN) == len(scores_IPN) == len(crc_I)
    rows_I, id_bytes = pack_rows(images, ids_IPN, scores_IPN, crc_I)
    path = _array_path(directory, shard)
    with open_atomically(path) as file:
        np.save(file, rows_I)
    sidecar = {
        "format": FORMAT,
        "images": list(images),
        "sha256": sha256_file(path),
        "id_bytes": id_bytes,
        "skipped": dict(skipped or {}),
    }
    write_atomically(_sidecar_path(directory, shard), json.dumps(sidecar).encode())


def finished_shards(directory: Path) -> set[int]:
    """The shards that were written to their end; the folder is read anew, as NFS needs it."""
    names = (re.fullmatch(r"shard-(\d{5,})\.json", name) for name in os.listdir(directory))
    return {int(name[1]) for name in names if name}


def finalize_store(directory: Path, fields: Mapping[str, Any], num_shards: int) -> None:
    """Verify the checksums of shards ``0 .. num_shards - 1``, then write index and manifest.

    `fields` say what the labels are: words_sha256, encoder, geometry, sign, features, grid, top_n.

    Raises:
        LabelStoreError: if a shard is missing or damaged, or an image occurs twice.
    """
    names: list[str] = []
    skipped: dict[str, str] = {}
    shards = []
    for shard in range(num_shards):
        sidecar = _read_sidecar(directory, shard)
        path = _array_path(directory, shard)
        if not path.exists() or sha256_file(path) != sidecar["sha256"]:
            raise LabelStoreError(
                f"{path}: the file is missing or damaged; delete "
                f"{_sidecar_path(directory, shard)} and run the extraction again, it makes "
                "this shard again"
            )
        about = {name: sidecar[name] for name in ("id_bytes", "sha256")}
        shards.append({"rows": len(sidecar["images"]), **about})
        names += sidecar["images"]
        skipped |= sidecar["skipped"]
    hash_I = np.array([_name_hash(name) for name in names], dtype="<u8")
    row_I = hash_I.argsort()
    index_2I = np.stack([hash_I[row_I], row_I.astype("<u8")])
    if (index_2I[0, 1:] == index_2I[0, :-1]).any():
        raise LabelStoreError(f"{directory}: an image occurs twice in the shards")
    with open_atomically(directory / "index.npy") as file:
        np.save(file, index_2I)
    manifest = {
        "format": FORMAT,
        **fields,
        "num_images": len(names),
        "skipped": skipped,
        "shards": shards,
    }
    write_atomically(directory / "manifest.json", json.dumps(manifest, indent=1).encode())


class LabelStore:
    """Read access to a finished store: the index is mapped, an image's labels read when asked for.

    A copy for another process (pickle) opens the folder there again.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Open the folder of an extraction.

        Raises:
            LabelStoreError: if it is no finished store or was written by another format.
        """
        self.directory = Path(directory)
        path = self.directory / "manifest.json"
        if not path.is_file():
            unfinished = any(self.directory.glob("shard-*.json"))
            way_out = "Make one with `bash scripts/extract_labels.sh`"
            if unfinished:
                way_out = "The extraction was cut off: run it again, it resumes where it stopped"
            raise LabelStoreError(
                f"{self.directory}: no finished label store here (no manifest.json). {way_out}"
            )
        try:
            manifest = json.loads(read_file(path, SETTINGS_BYTES))
        except (ValueError, RecursionError) as error:
            raise LabelStoreError(f"{path}: not readable as JSON ({error})") from None
        self.manifest: dict[str, Any] = manifest if isinstance(manifest, dict) else {}
        if self.manifest.get("format") != FORMAT:
            raise LabelStoreError(
                f"{path}: format {self.manifest.get('format')!r}, this version reads {FORMAT!r} "
                "alone; extract the labels again into a new folder, or use the version that wrote "
                "them"
            )
        try:
            rows, columns = self.manifest["grid"]
            self.grid: tuple[int, int] = (int(rows), int(columns))
            self.top_n = int(self.manifest["top_n"])
            self.num_images = int(self.manifest["num_images"])
            self.num_words = int(self.manifest.get("num_words", 2**32))
            self.skipped: dict[str, str] = dict(self.manifest["skipped"])
            self._ends = np.cumsum([shard["rows"] for shard in self.manifest["shards"]])
            self._files = [self._shard_file(shard) for shard in range(len(self._ends))]
            counted = int(self._ends[-1]) if self._files else 0
            if counted != self.num_images:
                raise ValueError(
                    f"manifest.json has {self.num_images} images, its shards have {counted}"
                )
            index = RowFile(self.directory / "index.npy", np.dtype(("<u8", (2, counted))), 1)
            self._index = np.memmap(index.path, "<u8", "r", index.start, (2, counted))
        except (OSError, EOFError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise LabelStoreError(
                f"{self.directory}: the label store is damaged ({error}); extract the labels again "
                "into a new folder"
            ) from None

    def __contains__(self, image: object) -> bool:
        return isinstance(image, str) and self._row(image) is not None

    def read(self, image: str) -> Labels:
        """Return an image's labels.

        Raises:
            LabelStoreError: if the image is not in the store, or its labels are damaged.
        """
        row = self._row(image)
        if row is None:
            raise LabelStoreError(
                f"{self.directory}: no labels for the image {image!r}; they were mined for other "
                "data. Run the extraction on this data, or pass the --sea_labels that belong to it"
            )
        shard = int(np.searchsorted(self._ends, row, side="right"))
        local = row - (int(self._ends[shard - 1]) if shard else 0)
        file = self._files[shard]
        try:
            labels = unpack_row(file[local], image)
            if labels.ids_PN.max(initial=0) >= self.num_words:
                raise ValueError("they are not in the word list")
        except (OSError, ValueError) as error:
            raise LabelStoreError(
                f"{file.path}: damaged, the labels of {image!r} cannot be read ({error}). Copy the "
                "folder again from where it was made, or extract the labels again into a new folder"
            ) from None
        return labels

    def images(self) -> list[str]:
        """Return the names of all images in row order (reads every shard's side file)."""
        shards = range(len(self._ends))
        return [name for n in shards for name in _read_sidecar(self.directory, n)["images"]]

    def words(self) -> list[str]:
        """Return the word list: label id -> word or phrase.

        Raises:
            LabelStoreError: if the list is missing or not the one the labels were mined with.
        """
        path = self.directory / "words.tsv"
        data = read_file(path, LIST_BYTES) if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != self.manifest.get("words_sha256"):
            raise LabelStoreError(
                f"{path}: missing, or not the word list these labels were mined with"
            )
        return [line.split("\t", 1)[0] for line in data.decode().split("\n")[1:-1]]

    def _row(self, image: str) -> int | None:
        name_hash = np.uint64(_name_hash(image))
        position = int(np.searchsorted(self._index[0], name_hash))
        if position == self.num_images or self._index[0, position] != name_hash:
            return None
        row = int(self._index[1, position])
        if row >= self.num_images:
            raise LabelStoreError(
                f"{self.directory}: index.npy is damaged, it has {image!r} in row {row} of "
                f"{self.num_images}; extract the labels again into a new folder"
            )
        return row

    def _shard_file(self, shard: int) -> RowFile:
        """Return a shard's file; by its size it is whole."""
        about = self.manifest["shards"][shard]
        dtype = row_dtype(self.grid[0] * self.grid[1], self.top_n, about["id_bytes"])
        return RowFile(_array_path(self.directory, shard), dtype, about["rows"])

    def __reduce__(self) -> tuple[Any, ...]:
        return LabelStore, (self.directory,)


def _name_hash(name: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), "little"
    )


def _array_path(directory: Path, shard: int) -> Path:
    return directory / f"shard-{shard:05d}.labels.npy"


def _sidecar_path(directory: Path, shard: int) -> Path:
    return directory / f"shard-{shard:05d}.json"


def _read_sidecar(directory: Path, shard: int) -> dict[str, Any]:
    path = _sidecar_path(directory, shard)
    if not path.exists():
        raise LabelStoreError(f"{path}: shard {shard} was not finished; run the extraction again")
    try:
        sidecar: dict[str, Any] = json.loads(read_file(path, LIST_BYTES))
        if sidecar["format"] == FORMAT and sidecar.keys() >= _SIDECAR:
            return sidecar
        fault = f"its format is {sidecar['format']!r}, not {FORMAT!r}, or it is not whole"
    except (ValueError, KeyError, TypeError) as error:
        fault = f"damaged ({error!r})"
    raise LabelStoreError(
        f"{path}: {fault}; delete it and run the extraction again, it makes this shard again"
    )
