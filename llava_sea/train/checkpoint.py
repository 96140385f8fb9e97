"""Checkpoints: complete, checked, and tied to their run.

``checkpoint-N`` holds what the run's saver writes (in stage 1 the projector and the temperature,
nothing frozen), and the optimizer's, scheduler's, RNG and trainer state of what is trained.
``checksums.json`` is written last, after every rank is done: a folder without it was cut off and is
passed over; a file that does not match it is refused, which matters because DeepSpeed's optimizer
shards are pickles and are loaded as such. ``run.json`` in the output folder says which run the
checkpoints belong to.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.files import sha256_file, write_atomically

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
RUN = "run.json"


def seal(checkpoint: Path) -> None:
    """Write the checksums of all files of a checkpoint; from now on it is complete."""
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    sums = {str(path.relative_to(checkpoint)): sha256_file(path) for path in files}
    write_atomically(checkpoint / CHECKSUMS, json.dumps(sums, indent=1).encode())


def verify(checkpoint: Path) -> None:
    """Check a checkpoint against its checksums before anything of it is loaded.

    Raises:
        UserError: if it is incomplete, or a file is missing, changed or added.
    """
    if not (checkpoint / CHECKSUMS).is_file():
        raise UserError(
            f"{checkpoint}: not a complete checkpoint of this package ({CHECKSUMS} is missing); "
            "its saving was cut off, or something else wrote it. Resume from another one"
        )
    sums: dict[str, str] = json.loads((checkpoint / CHECKSUMS).read_text())
    found = {str(p.relative_to(checkpoint)) for p in checkpoint.rglob("*") if p.is_file()}
    strange = sorted(found - set(sums) - {CHECKSUMS})
    damaged = [n for n, s in sums.items() if n not in found or sha256_file(checkpoint / n) != s]
    if damaged or strange:
        raise UserError(
            f"{checkpoint}: does not match its checksums (changed or missing: "
            f"{damaged or 'none'}; added: {strange or 'none'}). Optimizer files are pickles, "
            "which can run code: they are loaded only as this run wrote them"
        )


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """List complete ``checkpoint-N`` folders, oldest first; say which were cut off."""
    numbered = []
    for path in output_dir.glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if number and path.is_dir():
            numbered.append((int(number[1]), path))
    complete = []
    for _, path in sorted(numbered):
        if (path / CHECKSUMS).is_file():
            complete.append(path)
        else:
            logger.warning("%s was cut off while it was saved; it is passed over", path)
    return complete


def rotate(output_dir: Path, keep: int | None) -> None:
    """Delete all but the `keep` latest complete checkpoints, and older cut-off ones."""
    if not keep or keep < 1:
        return
    complete = complete_checkpoints(output_dir)
    for path in complete[:-keep]:
        # unsealed first: a deletion that is cut off leaves no checkpoint that looks whole
        (path / CHECKSUMS).unlink()
        shutil.rmtree(path)


def claim_output_dir(output_dir: Path, run: Mapping[str, Any], *, write: bool = True) -> None:
    """Tie an output folder to a run, or check that it is the same run's.

    Args:
        output_dir: the folder; made if it is not there.
        run: everything that must agree for its checkpoints to be gone on from.
        write: False only checks, as all ranks but the first do.

    Raises:
        UserError: if checkpoints of another run are there; names what differs.
    """
    path = output_dir / RUN
    results = (*output_dir.glob("checkpoint-*"), output_dir / "mm_projector.bin")
    if any(path.exists() for path in (*results, output_dir / "config.json")):
        if not path.is_file():
            raise UserError(
                f"--output_dir {output_dir}: holds checkpoints or weights of something else (no "
                f"{RUN} beside them). Nothing was changed; choose another folder"
            )
        former = json.loads(path.read_text())
        differing = [key for key in run if former.get(key) != run[key]]
        if differing:
            details = "; ".join(f"{k}: {former.get(k)!r} there, {run[k]!r} now" for k in differing)
            raise UserError(
                f"--output_dir {output_dir}: holds the results of another run ({details}). "
                "Nothing was changed; choose another folder, or the flags of that run to go on"
            )
    if write:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(dict(run), indent=1).encode())
