"""Files that are made once from others and kept: by one process, for all, as long as they fit."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from llava_sea.errors import UserError, cannot_write
from llava_sea.files import only_writer, open_atomically, read_json

logger = logging.getLogger(__name__)
Cached = TypeVar("Cached")

SMALL_BYTES = 16 * 2**20
"""What is made of a smaller file is held in memory and leaves no cache."""
PATIENCE_S = 24 * 3600.0
"""Another process is making the cache."""


def cache_folder() -> Path:
    """Return the folder of the caches: ``LLAVA_SEA_CACHE``, else ``~/.cache/llava_sea``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LLAVA_SEA_CACHE") or Path(base) / "llava_sea")


def cached(
    cache: Path,
    stamp: list[Any],
    load: Callable[[Path], Cached | None],
    make: Callable[[IO[bytes]], object],
    still_fits: Callable[[Cached], bool] = lambda _: False,
) -> Cached:
    """Return what `load` reads from `cache`, which is made first where it is not there.

    Args:
        cache: the file; its stamp lies beside it.
        stamp: paths, sizes and times of the files that it is made from; of JSON's types.
        load: reads the cache; None if it cannot.
        make: writes the cache.
        still_fits: says whether a cache of another stamp may stay.

    Raises:
        UserError: if it cannot be written or is damaged.
    """
    about = cache.with_suffix(".json")

    def found() -> Cached | None:
        try:
            return load(cache) if read_json(about) == stamp else None
        except UserError:
            return None

    if (there := found()) is not None:
        return there
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(cache.with_suffix(".lock"), f"{cache}: is being made", PATIENCE_S):
            if (there := found()) is not None:
                return there
            if (there := load(cache)) is None or not still_fits(there):
                logger.info("%s: made from %s, once", cache, stamp[0][0])
                about.unlink(missing_ok=True)
                with open_atomically(cache) as file:
                    make(file)
            with open_atomically(about) as file:
                file.write(json.dumps(stamp).encode())
    except OSError as error:
        way_out = f"Caches are kept in {cache.parent}; name another folder by LLAVA_SEA_CACHE"
        raise UserError(cannot_write(error, way_out)) from None
    if (there := found()) is None:
        raise UserError(f"{cache}: damaged; remove it and start again")
    return there
