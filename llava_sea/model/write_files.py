"""A folder's files replaced together: made beside it, moved in at the end, put back if that fails.

Whatever ends the making, a full disk or a kill, the former files are untouched. The moving takes
moments; while it lasts the folder has no config.json, so a kill within it leaves a folder that
nothing takes for a checkpoint, never a mixture; the former files are then in ``.saving-*/former``.
Other files in the folder are left alone. The disk must hold both for a moment.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_sea.errors import naming
from llava_sea.files import is_alive

_LAST = ("model.safetensors.index.json", "config.json")
_OF_A_MODEL = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")


@contextmanager
def replaced_together(folder: Path) -> Iterator[Path]:
    """Yield an empty folder; what is in it at the end goes into `folder`, all or nothing.

    Weights of an earlier save that the new one does not have (other shards) are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left_overs = [path for path in folder.glob(".saving-*") if not _is_being_written(path)]
    for left in left_overs:
        if not (left / "former").exists():  # else a kill within the moving: the only copy
            shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f".saving-{os.getpid()}-", dir=folder))
    try:
        with naming(staging, newest=True):
            yield staging
            for path in staging.iterdir():  # moved earlier, a crash could leave it empty
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            _install(staging, folder)
        for left in left_overs:  # now there is a newer one
            shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        if error.filename:
            error.filename = str(error.filename).replace(str(staging), str(folder))
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_being_written(staging: Path) -> bool:
    """Containers give the same id to one process after the other: ours may be a killed one's."""
    pid = staging.name.split("-")[1]
    return pid.isdecimal() and int(pid) != os.getpid() and is_alive(int(pid))


def _install(staging: Path, folder: Path) -> None:
    new = sorted((path.name for path in staging.iterdir()), key=_rank)
    stale = [path.name for path in folder.iterdir() if _OF_A_MODEL.fullmatch(path.name)]
    former = staging / "former"
    former.mkdir()
    moved_in: list[str] = []
    try:
        for name in sorted({*new, *stale}, key=_rank, reverse=True):  # config.json first
            if (folder / name).exists():
                os.replace(folder / name, former / name)
        for name in new:
            os.replace(staging / name, folder / name)
            moved_in.append(name)
    except OSError:
        for name in moved_in:
            (folder / name).unlink()
        for path in sorted(former.iterdir(), key=lambda path: _rank(path.name)):
            os.replace(path, folder / path.name)
        raise


def _rank(name: str) -> int:
    return _LAST.index(name) + 1 if name in _LAST else 0
