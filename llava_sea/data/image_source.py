"""Images by name, from other places than plain files: tar shards, and data files that hold them.

`open_images` says which; `llava_sea.data.images.load_image` reads from either. Tar shards
(WebDataset's, LLaVA-558K-WebDataset) are uncompressed; a member's name is the record's image. Where
each member lies is looked up in an index that is made once and mapped into memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from llava_sea.data import problems
from llava_sea.data.cached import SMALL_BYTES, cache_folder, cached
from llava_sea.data.problems import ImageError
from llava_sea.data.records import Record, Records
from llava_sea.errors import UserError
from llava_sea.files import open_file
from llava_sea.progress import Progress


def open_images(folder: str | None, records: Sequence[Record]) -> str | ImageSource:
    """Return the images of some records: a folder's name, unless they lie elsewhere.

    Args:
        folder: ``--image_folder``: a folder of files or of ``.tar`` shards, or one ``.tar``; None
            where the data files hold all images.
        records: what they belong to.

    Raises:
        UserError: if there is no folder though images are named, or a shard is no uncompressed tar.
    """
    held = records if isinstance(records, Records) and records.has_bytes else None
    place = Path(folder or ".")
    shards = sorted(path for path in place.glob("*.tar") if not path.is_dir())
    if place.suffix.lower() == ".tar" and not place.is_dir():
        shards = [place]
    if folder is None and _names_images(records):
        raise UserError("--image_folder is missing: the records name images")
    if held is None and not (folder and shards):
        return folder or "."
    return ImageSource(folder or ".", shards if folder else [], held)


def _names_images(records: Sequence[Record]) -> bool:
    """Say whether some images lie in no data file."""
    if isinstance(records, Records):
        return any(file.num_images.any() for file in records.files if not file.has_bytes)
    return any(record.images for record in records)


class ImageSource(os.PathLike[str]):
    """Images of tar shards and of data files, before those of a folder."""

    def __init__(self, folder: str, shards: Sequence[Path], records: Records | None) -> None:
        self.folder = folder
        self.records = records
        self._shards = [str(path) for path in shards]
        self._index = _open_index(self._shards) if shards else None

    def __fspath__(self) -> str:
        return self.folder

    def __str__(self) -> str:
        return self.folder

    def __contains__(self, name: str) -> bool:
        held = self.records is not None and self.records.image_bytes(name) is not None
        return held or self._member(name) is not None or (Path(self.folder) / name).is_file()

    def read(self, name: str, limit: int) -> tuple[bytes, str] | None:
        """Return an image's bytes and its name in messages; None if it is a file of its own.

        Raises:
            ImageError: if it is nowhere, or larger than the limit, or its shard is not as it was.
        """
        data = self.records.image_bytes(name) if self.records is not None else None
        if data is not None:
            _check_size(len(data), name, limit)
            return data, name
        if self._index is None:
            return None
        if (member := self._member(name)) is None:
            if os.path.lexists(Path(self.folder) / name):
                return None
            raise ImageError(f"{self.folder}: no shard holds {name}", problems.IMAGE_MISSING)
        shard, offset, size = member
        _check_size(size, f"{shard}: {name}", limit)
        with open_file(shard) as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise ImageError(f"{shard}: ends within {name}; copy or download the shard again")
        return data, f"{shard}: {name}"

    def _member(self, name: str) -> tuple[str, int, int] | None:
        """Return where a member lies: its shard, its first byte, its bytes."""
        if self._index is None:
            return None
        row = int(np.searchsorted(self._index[0], key := _key(name)))
        if row == self._index.shape[1] or self._index[0, row] != key:
            return None
        shard, offset, size = (int(value) for value in self._index[1:, row])
        return self._shards[shard], offset, size


def _check_size(size: int, name: str, limit: int) -> None:
    if size > limit:
        text = f"{name} has {size:,} bytes, the limit is {limit:,}"
        raise ImageError(text, problems.IMAGE_TOO_LARGE)


def _key(name: str) -> np.uint64:
    digest = hashlib.blake2b(os.path.normpath(name).encode(errors="surrogatepass"), digest_size=8)
    return np.uint64(int.from_bytes(digest.digest(), "little"))


def _open_index(shards: Sequence[str]) -> NDArray[np.uint64]:
    """Return hash, shard, first byte and size of each member, ordered by hash ``(4, M)``."""
    for path in shards:
        open_file(path).close()  # a regular file, and there
    stamp: list[Any] = [[path, os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in shards]
    if sum(size for _, size, _ in stamp) <= SMALL_BYTES:
        return _make_index(shards)
    name = hashlib.sha256(json.dumps([os.path.realpath(path) for path in shards]).encode())
    cache = cache_folder() / "shards" / f"{name.hexdigest()[:16]}.npy"
    return cached(cache, stamp, _mapped, lambda file: np.save(file, _make_index(shards)))


def _mapped(cache: Path) -> NDArray[np.uint64] | None:
    """Map an index; None if there is none."""
    try:
        index: NDArray[np.uint64] = np.load(cache, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return index if index.dtype == np.uint64 and index.ndim == 2 and len(index) == 4 else None


def _make_index(shards: Sequence[str]) -> NDArray[np.uint64]:
    rows: list[tuple[int, int, int, int]] = []
    with Progress("images", shown=len(shards) > 1) as progress:
        for number, path in enumerate(shards):
            for name, offset, size in _members(path):
                rows.append((int(_key(name)), number, offset, size))
                progress.update()
    index = np.array(sorted(rows), np.uint64).reshape(-1, 4).T.copy()
    if (twice := np.flatnonzero(index[0, 1:] == index[0, :-1])).size:
        _refuse_twice(shards, index[:, twice[0] : twice[0] + 2], len(twice))
    return index


def _members(path: str) -> Iterator[tuple[str, int, int]]:
    """Yield each member's name, first byte and size."""
    try:
        with open_file(path) as file, tarfile.TarFile(fileobj=file) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it keeps every one it has seen
                if member.isfile():
                    yield member.name, member.offset_data, member.size
            file.seek(tar.offset)
            if file.read(512).strip(b"\0"):  # tarfile takes a broken header for the end
                raise tarfile.ReadError(f"a broken header at byte {tar.offset:,}")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{path}: no uncompressed tar, or a torn one ({error}); unpack it, or copy it again"
        ) from None


def _refuse_twice(shards: Sequence[str], two: NDArray[np.uint64], count: int) -> NoReturn:
    """Name the first of the names that are in two places."""
    paths = [shards[int(number)] for number in two[1]]
    name = next(name for name, offset, _ in _members(paths[0]) if offset == int(two[2, 0]))
    place = (
        f"{paths[0]}: holds {name!r} twice"
        if paths[0] == paths[1]
        else f"{paths[0]} and {paths[1]}: {name!r} is in both"
    )
    more = f", as are {count - 1} more names" if count > 1 else ""
    raise UserError(f"{place}{more}; give each image a name of its own")
