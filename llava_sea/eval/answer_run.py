"""How a file's answers were made, in a file beside it, so that only the same run goes on with it.

``NAME.run.json`` holds the checkpoint's fingerprint, the template and the decoding. The
fingerprint samples large files, so that it takes seconds: a checkpoint that was trained further
under the same name is told apart, a change of a few bytes of its weights need not be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError, naming
from llava_sea.eval.answer_file import WAY_OUT, AnswerFile
from llava_sea.files import check_folder, only_writer, open_file, read_json

_FILES = (
    "*.safetensors",
    "*.bin",
    "adapter_config.json",
    "config.json",
    "*processor*config.json",
    "tokenizer*",
)
_WHOLE, _STEP, _SAMPLE = 64 << 20, 4 << 20, 4096


def fingerprint(folder: Path) -> str:
    """Return a hash of a checkpoint's weights and settings.

    Files up to 64 MiB enter whole, larger ones with their size, their end and 4 KiB of every 4 MiB.
    """
    digest = hashlib.sha256()
    found = {path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(found):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with open_file(path) as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for start in [*range(0, size, _STEP), size - _SAMPLE]:
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:32]


def model_id(path: str) -> str:
    """Return LLaVA's name of a checkpoint: its folder's, with the one above for checkpoint-N."""
    parts = Path(path).parts if Path(path).name else Path(path).resolve().parts
    is_step = len(parts) > 1 and parts[-1].startswith("checkpoint-")
    return "_".join(parts[-2:]) if is_step else parts[-1]


def check_same_run(file: AnswerFile, run: Mapping[str, Any]) -> None:
    """See that the answers that are there were made as this run makes its own; note how.

    To be called under `only_run`: of two runs that start together, one must not note its own way
    over the other's.

    Args:
        file: the answer file.
        run: name to value of everything that must agree; names are flags, with ``_`` for ``-``.

    Raises:
        UserError: if they were not, or nothing says how they were made.
    """
    if file.is_begun():
        try:
            before = read_json(file.run_file)
            differing = [name for name in run if before[name] != run[name]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file.run_file}: does not say how {file.path.name} was made ({error!r}). "
                f"{WAY_OUT}"
            ) from None
        if differing:
            both = [f"{_flag(name)} {before[name]} and now {run[name]}" for name in differing]
            raise UserError(
                f"{file.path}: holds answers that were made otherwise: {'; '.join(both)}. {WAY_OUT}"
            )
        return
    # In place: another file under this name would not be the one that is locked. A kill in the
    # middle leaves a broken one and no answers, and the next run writes it anew.
    with naming(file.run_file):
        file.run_file.write_bytes(json.dumps(run, indent=2).encode() + b"\n")


@contextmanager
def only_run(file: AnswerFile) -> Iterator[None]:
    """Keep a second run off the answer file; make the file that is locked, where it is not there.

    Raises:
        UserError: if there is a run that writes into it, or answers of which nothing says how they
            were made.
    """
    if file.path.is_dir():
        raise UserError(f"{file.path}: is a folder, and the answers' file is to be there; move it")
    if file.is_begun() and not file.run_file.is_file():
        raise UserError(
            f"{file.path}: holds answers, and no {file.run_file.name} beside it says how they "
            f"were made, so they cannot be gone on from. {WAY_OUT}"
        )
    check_folder(file.path.parent, "--answers-file")
    file.path.parent.mkdir(parents=True, exist_ok=True)
    busy = (
        f"{file.path}: another process is writing into it; wait for its end, or give another "
        "--answers-file (of llava_sea.eval: --output_dir)"
    )
    with only_writer(file.run_file, busy):
        yield


def _flag(name: str) -> str:
    named = {"checkpoint": "the checkpoint's contents", "model_id": "the checkpoint's name"}
    return named.get(name, f"--{name.replace('_', '-')}")
