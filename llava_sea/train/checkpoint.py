"""Checkpoints: complete, checked, and tied to their run.

``checkpoint-N`` holds what the run's saver writes (in stage 1 the projector and the temperature,
nothing frozen), and the optimizer's, scheduler's, RNG and trainer state of what is trained.
``checksums.json`` is written last, after every rank is done: a folder without it was cut off and is
removed by the run's next start; a file that does not match it is refused. ``run.json`` in the
output folder says which run the checkpoints belong to.

DeepSpeed's optimizer shards are pickles and are loaded as such, and a pickle can run code. The
checksums show damage; they are no signature: whoever changes a shard can write new ones. So a run
is resumed only from its own folder, and only from one that nobody else could write to.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.files import (
    check_folder,
    only_writer,
    refuse_other_things,
    remove,
    sha256_file,
    write_atomically,
)

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
RUN = "run.json"
DRY_SAVE = ".dry-save"

WAIT_S = 60.0
"""Seconds to wait for the former run's processes: told to end, they first save a checkpoint."""

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


def read_checksums(checkpoint: Path) -> dict[str, str]:
    """Return the checksums of a checkpoint's files, by their paths in it.

    Raises:
        UserError: if the checkpoint was not completed, or the file is damaged.
    """
    path = checkpoint / CHECKSUMS
    if not path.is_file():
        raise UserError(
            f"{checkpoint}: not a complete checkpoint of this package ({CHECKSUMS} is missing); "
            "its saving was cut off, or something else wrote it. Resume from another one"
        )
    try:
        sums = json.loads(path.read_bytes())
        if not isinstance(sums, dict):
            raise TypeError("no JSON object")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({error}), so nothing says whether the checkpoint is whole. "
            f"{_OTHER_CHECKPOINT}"
        ) from None
    return sums


_OTHER_CHECKPOINT = (
    "Delete the folder to resume from the checkpoint before it (without one, from the start), or "
    "name an older one with --resume_from_checkpoint"
)


def verify(checkpoint: Path) -> None:
    """Check a checkpoint against its checksums before anything of it is loaded.

    Raises:
        UserError: if it is incomplete, or a file is missing, changed or added.
    """
    sums = read_checksums(checkpoint)
    found = {str(p.relative_to(checkpoint)) for p in checkpoint.rglob("*") if p.is_file()}
    strange = sorted(found - set(sums) - {CHECKSUMS})
    damaged = [n for n, s in sums.items() if n not in found or sha256_file(checkpoint / n) != s]
    if damaged or strange:
        raise UserError(
            f"{checkpoint}: does not match its checksums (changed or missing: "
            f"{damaged or 'none'}; added: {strange or 'none'}). Optimizer files are pickles, which "
            "can run code: resume only from folders of your own, as your run wrote them. "
            f"{_OTHER_CHECKPOINT}"
        )


def _checkpoints(output_dir: Path) -> list[Path]:
    """List all ``checkpoint-N`` folders, oldest first."""
    numbered = []
    for path in output_dir.glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if number and path.is_dir():
            numbered.append((int(number[1]), path))
    return [path for _, path in sorted(numbered)]


def _is_sealed(checkpoint: Path) -> bool:
    return (checkpoint / CHECKSUMS).is_file()


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """List complete ``checkpoint-N`` folders, oldest first; say which were cut off."""
    found = _checkpoints(output_dir)
    for path in found:
        if not _is_sealed(path):
            logger.warning("%s was cut off while it was saved; it is passed over", path)
    return [path for path in found if _is_sealed(path)]


def rotate(output_dir: Path, keep: int | None) -> None:
    """Delete all but the `keep` latest complete checkpoints, and older cut-off ones."""
    if not keep or keep < 1:
        return
    found = _checkpoints(output_dir)
    kept = [path for path in found if _is_sealed(path)][-keep:]
    for path in found[: found.index(kept[0])] if kept else []:
        # unsealed first: a deletion that is cut off leaves no checkpoint that looks whole
        (path / CHECKSUMS).unlink(missing_ok=True)
        remove(path)


@contextmanager
def only_run(
    output_dir: Path, run: Mapping[str, Any], *, resume_from: object = None, write: bool = True
) -> Iterator[bool]:
    """Claim an output folder and hold it against a second run.

    Args:
        output_dir: as `claim_output_dir`, like the others.
        run: as there.
        resume_from: as there.
        write: as there; without it nothing is held.

    Yields:
        Whether it is held; False also on a file system without locks.

    Raises:
        UserError: as `claim_output_dir`, or if another process writes into the folder.
    """
    claim_output_dir(output_dir, run, resume_from=resume_from, write=False)
    if not write:
        yield False
        return
    busy = (
        f"--output_dir {output_dir}: another process is writing there; a run that was just ended "
        "may need a minute to save. Wait for its end, or choose another folder"
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    with only_writer(output_dir / ".lock", busy, patience=WAIT_S) as held:
        claim_output_dir(output_dir, run, resume_from=resume_from)
        yield held


def clean_up(output_dir: Path) -> None:
    """Remove what killed runs left in an output folder that this run has claimed and holds."""
    found = [path for path in _checkpoints(output_dir) if not _is_sealed(path)]
    found += [p for p in output_dir.iterdir() if re.fullmatch(r"\..+\.\d+\.tmp", p.name)]
    for path in (output_dir / DRY_SAVE, *output_dir.glob(".saving-*")):
        # With files in `former` it was cut off while the new ones took their place: the only copy.
        if path.exists() and not any(path.glob("former/*")):
            found.append(path)
    for path in found:
        logger.warning("%s was cut off while it was written; it is removed", path)
        remove(path)


def claim_output_dir(
    output_dir: Path, run: Mapping[str, Any], *, resume_from: object = None, write: bool = True
) -> None:
    """Tie an output folder to a run, or check that it is the same run's.

    A folder that holds other things is refused. A mended data file may be gone on with: where
    nothing else differs, the number of records with and without a picture (``records``) is the
    same, and a checkpoint of the folder is named.

    Args:
        output_dir: the folder; made if it is not there.
        run: everything that must agree for its checkpoints to be gone on from.
        resume_from: ``--resume_from_checkpoint`` as given.
        write: False only checks, as all ranks but the first do.

    Raises:
        UserError: if checkpoints of another run are there; names what differs.
    """
    path = output_dir / RUN
    check_folder(output_dir, "--output_dir")
    if not path.is_file():
        refuse_other_things(output_dir, "--output_dir", (RUN,))  # another rank may just write it
    elif any(True for pattern in RESULTS for _ in output_dir.glob(pattern)):
        mended = _check_same(output_dir, _read_run(path), run, resume_from)
        if mended and write:
            logger.warning(
                "%s: going on with a data file that has changed since the run began, as named by "
                "--resume_from_checkpoint; with --group_by_modality_length a changed record may "
                "come twice or not at all in this epoch",
                output_dir,
            )
    if write:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(dict(run), indent=1).encode())


def _read_run(path: Path) -> dict[str, Any]:
    try:
        former = json.loads(path.read_bytes())
        if not isinstance(former, dict):
            raise TypeError("no JSON object")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({error}), so nothing says which run the results beside it belong "
            "to. Nothing was changed; put a copy of the file there, or choose another --output_dir"
        ) from None
    return former


def _check_same(
    output_dir: Path, former: Mapping[str, Any], run: Mapping[str, Any], resume_from: object
) -> bool:
    """Refuse another run's folder; say whether the data file alone has changed, as is allowed."""
    differing = [
        key
        for key in dict.fromkeys([*run, *(former.keys() & {"command"})])
        if key != "records"  # the data's checksum says more
        and former.get(key) != run.get(key)
        and not (key in PATHS and _same_place(former.get(key), run[key]))
    ]
    if not differing:
        return False
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
        return True
    details = "; ".join(f"{k}: {former.get(k)!r} there, {run.get(k)!r} now" for k in differing)
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
