"""The state of an extraction's output folder, and whether this run may resume it.

An unfinished extraction keeps `work/` (its parameters, the encoded words, the measured sign) beside
the shards; a finished one has a manifest and no `work/`. A run with other parameters is refused by
the name of the first field that differs, and so is a folder that holds anything else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_sea.alignment.label_store import LabelStore
from llava_sea.errors import UserError
from llava_sea.files import read_json, refuse_other_things, sha256_file, write_atomically


def work_folder(output: Path) -> Path:
    """The folder of an unfinished extraction's state."""
    return output / "work"


def is_complete(output: Path, parameters: Mapping[str, Any]) -> bool:
    """Say whether the folder holds the finished labels of these parameters."""
    path = output / "manifest.json"
    if not path.is_file():
        return False
    # The shards' size matters to an unfinished folder alone.
    labels = {name: value for name, value in parameters.items() if name != "shard_size"}
    _refuse_difference(labels, read_state(path), output)
    LabelStore(output).words()  # says so if it is damaged
    return True


def check_output(output: Path, parameters: Mapping[str, Any]) -> None:
    """Raise a UserError if the folder was begun with other parameters or holds other things."""
    path = work_folder(output) / "parameters.json"
    if path.is_file():
        _refuse_difference(parameters, read_state(path), output)
        return
    words = output / "words.tsv"
    given = words.is_file() and sha256_file(words) == parameters["words_sha256"]
    refuse_other_things(output, "--output_dir", ("work", words.name) if given else ("work",))
    refuse_other_things(work_folder(output), "--output_dir")  # it is deleted at the end


def begin_or_resume(output: Path, parameters: Mapping[str, Any]) -> None:
    """Make the folder ready for these parameters, with the lock held; raises as `check_output`."""
    check_output(output, parameters)
    work = work_folder(output)
    if not (work / "parameters.json").is_file():
        work.mkdir(exist_ok=True)
        write_atomically(work / "parameters.json", json.dumps(dict(parameters), indent=1).encode())
    for left_over in (*output.glob(".*.tmp*"), *work.glob("*.tmp*")):
        left_over.unlink(missing_ok=True)


def clean_up(output: Path) -> None:
    """Remove the state of a finished store; call it with the lock held, or when complete."""
    shutil.rmtree(work_folder(output), ignore_errors=True)
    (output / ".lock").unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back, so that the two compare equal."""
    return json.loads(json.dumps(value))


def read_state(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON object that an earlier run left."""
    try:
        found: dict[str, Any] = read_json(path)
        if not isinstance(found, dict):
            raise UserError(f"{path}: no JSON object")
        for key in keys:
            if key not in found:
                raise UserError(f"{path}: {key} is missing")
    except UserError as error:
        raise UserError(
            f"{error}; damaged: delete the folder, or extract the labels into another one"
        ) from None
    return found


def _refuse_difference(wanted: Mapping[str, Any], found: Mapping[str, Any], output: Path) -> None:
    for name, value in wanted.items():
        if plain(value) != found.get(name):
            raise UserError(
                f"--output_dir {output} was made with {name} = {found.get(name)!r}, this run has "
                f"{value!r}: choose another folder, delete this one, or run with its parameters"
            )
