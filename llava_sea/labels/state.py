"""The state of an extraction's output folder, and whether this run may resume it.

An unfinished extraction keeps `work/` (its parameters, the encoded words, the measured sign) beside
the shards; a finished one has a manifest and no `work/`. A run with other parameters is refused by
the name of the first field that differs, and so is a folder that holds anything else.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_sea.alignment.label_store import LabelStore
from llava_sea.errors import UserError
from llava_sea.files import read_json, write_atomically

_OURS = ("shard-", "words.tsv", "center.npy", "index.npy", "manifest.json", "work", ".")
_LAYOUT_ONLY = ("shard_size",)  # matters to an unfinished folder, not to a finished store


def work_folder(output: Path) -> Path:
    """The folder of an unfinished extraction's state."""
    return output / "work"


def is_complete(output: Path, parameters: Mapping[str, Any]) -> bool:
    """Say whether the folder holds the finished labels of these parameters.

    Raises:
        UserError: if it holds the labels of other parameters.
    """
    path = output / "manifest.json"
    if not path.is_file():
        return False
    labels = {k: v for k, v in parameters.items() if k not in _LAYOUT_ONLY}
    _refuse_difference(labels, _read_json(path), output)
    LabelStore(output).words()  # says so if it is damaged
    return True


def begin_or_resume(output: Path, parameters: Mapping[str, Any]) -> None:
    """Make the folder ready for these parameters; call it with the lock held.

    Raises:
        UserError: if the folder was begun with other parameters or holds other things.
    """
    path = work_folder(output) / "parameters.json"
    if path.is_file():
        _refuse_difference(parameters, _read_json(path), output)
    else:
        foreign = [item.name for item in output.iterdir() if not item.name.startswith(_OURS)]
        shards = any(output.glob("shard-*"))
        if foreign or shards:
            found = foreign[0] if foreign else "shards of an extraction whose work/ is gone"
            raise UserError(
                f"--output_dir {output} holds {found}: choose an empty folder, for nothing is "
                "overwritten"
            )
        work_folder(output).mkdir(exist_ok=True)
        write_atomically(path, json.dumps(dict(parameters), indent=1).encode())
    for left_over in (*output.glob(".*.tmp*"), *work_folder(output).glob("*.tmp*")):
        left_over.unlink(missing_ok=True)


def clean_up(output: Path) -> None:
    """Remove the state of a finished store; call it with the lock held, or when complete."""
    shutil.rmtree(work_folder(output), ignore_errors=True)
    (output / ".lock").unlink(missing_ok=True)


@contextlib.contextmanager
def only_writer(output: Path) -> Iterator[None]:
    """Hold the folder against a second extraction; the system lets go when this process ends.

    Raises:
        UserError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such lock on this system
        yield
        return
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"--output_dir {output}: another extraction is writing there; wait for it to end"
            ) from None
        yield


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back, so that the two compare equal."""
    return json.loads(json.dumps(value))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_json(path)
    except UserError as error:
        raise UserError(f"{error}; delete the folder") from None
    return found


def _refuse_difference(wanted: Mapping[str, Any], found: Mapping[str, Any], output: Path) -> None:
    for name, value in wanted.items():
        if plain(value) != found.get(name):
            raise UserError(
                f"--output_dir {output} was made with {name} = {found.get(name)!r}, this run has "
                f"{value!r}: choose another folder, delete this one, or run with its parameters"
            )
