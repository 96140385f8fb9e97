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
import os
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

RESULTS = (
    "checkpoint-*",
    "config.json",
    "mm_projector.bin",
    "non_lora_trainables.bin",
    "model*.safetensors*",
    "pytorch_model*.bin*",
    "adapter_*",
    "tokenizer*",
)
"""What a run may leave or another software's checkpoint may consist of."""

PATHS = ("model_name_or_path", "vision_tower", "pretrain_mm_mlp_adapter", "image_folder")
"""Of a run's identity, those that may be spelled in several ways."""


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
            "which can run code: they are loaded only as this run wrote them. Delete the folder to "
            "go on from the checkpoint before it (without one, from the start), or name an older "
            "one with --resume_from_checkpoint"
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


def claim_output_dir(
    output_dir: Path, run: Mapping[str, Any], *, resume_from: object = None, write: bool = True
) -> None:
    """Tie an output folder to a run, or check that it is the same run's.

    A mended data file may be gone on with: where nothing else differs, the number of records with
    and without a picture (``records``) is the same, and a checkpoint of the folder is named.

    Args:
        output_dir: the folder; made if it is not there.
        run: everything that must agree for its checkpoints to be gone on from.
        resume_from: ``--resume_from_checkpoint`` as given.
        write: False only checks, as all ranks but the first do.

    Raises:
        UserError: if checkpoints of another run are there; names what differs.
    """
    path = output_dir / RUN
    found = sorted({p.name for pattern in RESULTS for p in output_dir.glob(pattern)})
    if found:
        if not path.is_file():
            raise UserError(
                f"--output_dir {output_dir}: holds checkpoints or weights of something else "
                f"({', '.join(found[:5])}; no {RUN} beside them). Nothing was changed; choose "
                "another folder"
            )
        _check_same(output_dir, json.loads(path.read_text()), run, resume_from)
    if write:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(dict(run), indent=1).encode())


def _check_same(
    output_dir: Path, former: Mapping[str, Any], run: Mapping[str, Any], resume_from: object
) -> None:
    differing = [
        key
        for key in run
        if key != "records"  # the data's checksum says more
        and former.get(key) != run[key]
        and not (key in PATHS and _same_place(former.get(key), run[key]))
    ]
    if not differing:
        return
    complete = complete_checkpoints(output_dir)
    if differing == ["data_sha256"] and complete:
        if former.get("records") != run.get("records"):
            then = former.get("records", "an unknown number")
            raise UserError(
                f"--output_dir {output_dir}: the data file has changed since this run began, and "
                f"holds {run.get('records')} records now, {then} then: its order "
                "is another and cannot be gone on with. Nothing was changed; choose another folder"
            )
        named = Path(str(resume_from)).resolve()
        if resume_from is None or named not in [path.resolve() for path in complete]:
            raise UserError(
                f"--output_dir {output_dir}: the data file has changed since this run began. To go "
                "on with it as it is now (the same records, mended), name the checkpoint: "
                f"--resume_from_checkpoint {complete[-1]}; else choose another folder. Nothing was "
                "changed"
            )
        logger.warning(
            "%s: going on with a data file that has changed since the run began, as named by "
            "--resume_from_checkpoint; with --group_by_modality_length a changed record may come "
            "twice or not at all in this epoch",
            output_dir,
        )
        return
    details = "; ".join(f"{k}: {former.get(k)!r} there, {run[k]!r} now" for k in differing)
    raise UserError(
        f"--output_dir {output_dir}: holds the results of another run ({details}). "
        "Nothing was changed; choose another folder, or the flags of that run to go on"
    )


def _same_place(one: Any, other: Any) -> bool:
    """Say whether two spellings of a path (relative, absolute, through a link) are one place."""
    try:
        return os.path.samefile(str(one), str(other))
    except OSError:
        return False
