"""The state of an extraction's output folder, and whether this run may resume it.

An unfinished extraction keeps `work/` (its parameters, the encoded words, the measured sign, the
claims of its ranks) beside the shards; a finished one has a manifest and no `work/`. A run with
other parameters is refused by the name of the first field that differs, and so is a folder that
holds anything else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llava_sea.alignment.label_store import LabelStore
from llava_sea.errors import UserError
from llava_sea.files import (
    read_object,
    refuse_other_things,
    remove,
    sha256_file,
    write_atomically,
)
from llava_sea.labels.claims import Claims, is_there

_WAY_OUT = "delete the folder, or extract the labels into another one"


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
    _refuse_difference(labels, read_object(path, _WAY_OUT), output)
    LabelStore(output).words()  # says so if it is damaged
    return True


def check_output(output: Path, parameters: Mapping[str, Any]) -> None:
    """Raise a UserError if the folder was begun with other parameters or holds other things."""
    path = work_folder(output) / "parameters.json"
    words = output / "words.tsv"
    if not path.is_file():
        given = words.is_file() and sha256_file(words) == parameters["words_sha256"]
        try:
            refuse_other_things(
                output, "--output_dir", ("work", words.name) if given else ("work",)
            )
            # it is deleted at the end
            refuse_other_things(work_folder(output), "--output_dir", ("claims",))
        except UserError:
            if not is_there(path):  # another rank has begun just now
                raise
    if path.is_file():
        _refuse_difference(parameters, read_object(path, _WAY_OUT), output)


def begin_or_resume(output: Path, parameters: Mapping[str, Any], claims: Claims) -> bool:
    """Make the folder ready for these parameters; False if its labels are complete."""
    begun = work_folder(output) / "parameters.json"
    data = json.dumps(dict(parameters), indent=1).encode()
    if not is_complete(output, parameters):
        try:
            check_output(output, parameters)
            claims.folder.mkdir(parents=True, exist_ok=True)
            claims.once("begin", lambda: is_there(begun), lambda: write_atomically(begun, data))
            check_output(output, parameters)
            claims.listen()
        except (UserError, FileNotFoundError):
            if not is_complete(output, parameters):  # another rank has ended just now
                raise
    if is_complete(output, parameters):
        clean_up(output)  # a kill may have come just before it
        return False
    return True


def keep_once(
    note: Path, claims: Claims, make: Callable[[], dict[str, Any]], *files: Path
) -> dict[str, Any]:
    """Have one rank make something; return what it says of it, in each rank and when resumed.

    Args:
        note: a file in `work/` for what it says and for all hashes, written last.
        claims: this process's.
        make: writes `files` and returns what JSON can hold.
        files: verified by their hashes, as the note is.
    """

    def sums(found: Any) -> dict[str, str]:
        said = hashlib.sha256(json.dumps(found).encode()).hexdigest()
        return {note.name: said} | {file.name: sha256_file(file) for file in files}

    def work() -> None:
        found = plain(make())
        write_atomically(note, json.dumps({"found": found, "sha256": sums(found)}).encode())

    claims.once(note.stem, lambda: is_there(note), work)
    way_out = f"delete {note}, it is made again"
    kept = read_object(note, way_out)
    found: dict[str, Any] = kept.get("found", {})
    for file in (file for file in files if not file.is_file()):
        raise UserError(f"{file}: missing; {way_out}")
    if sums(found) != kept.get("sha256"):
        names = ", ".join(str(path) for path in (note, *files))
        raise UserError(f"{names}: damaged, not as they were made; {way_out}")
    return found


def clean_up(output: Path) -> None:
    """Remove the state of a finished store, and what killed ranks left half written.

    Each rank does: one that is late may have begun something in a folder that others have removed.
    """
    with suppress(OSError):  # all at once, so that no rank works in half of it
        os.rename(work_folder(output), output / ".work.tmp")
    for left_over in output.glob(".*.tmp"):
        remove(left_over)


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back, so that the two compare equal."""
    return json.loads(json.dumps(value))


def _refuse_difference(wanted: Mapping[str, Any], found: Mapping[str, Any], output: Path) -> None:
    for name, value in wanted.items():
        if plain(value) != found.get(name):
            raise UserError(
                f"--output_dir {output} was made with {name} = {found.get(name)!r}, this run has "
                f"{value!r}: choose another folder, delete this one, or run with its parameters"
            )
