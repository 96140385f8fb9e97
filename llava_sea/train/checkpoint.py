"""Checkpoints: complete and checked; which one a run resumes from.

``checkpoint-N`` holds what the run's saver writes (in stage 1 the projector and the temperature,
nothing frozen), and the optimizer's, scheduler's, RNG and trainer state of what is trained.
``checksums.json`` is written last, after every rank is done: a folder without it was cut off and is
removed by the run's next start; a file that does not match it is refused.

DeepSpeed's optimizer shards are pickles and are loaded as such, and a pickle can run code. The
checksums show damage; they are no signature: whoever changes a shard can write new ones. So a run
is resumed only from its own folder, and only from one that nobody else could write to.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from contextlib import suppress
from pathlib import Path

from llava_sea.errors import UserError
from llava_sea.files import (
    open_atomically,
    read_json,
    read_object,
    remove,
    sha256_file,
    write_atomically,
)

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"

TRAINER_FILES = (
    "checksums.json",
    "latest",
    "optimizer*",
    "rng_state*",
    "scheduler.pt",
    "training_args.bin",
    "zero_to_fp32.py",
)
"""Files of a checkpoint that are for resuming, not for using the model."""


def seal(checkpoint: Path) -> None:
    """Write the checksums of all files of a checkpoint; from now on it is complete."""
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    sums = {str(path.relative_to(checkpoint)): sha256_file(path) for path in files}
    write_atomically(checkpoint / CHECKSUMS, json.dumps(sums, indent=1).encode())


def read_checksums(checkpoint: Path) -> dict[str, str]:
    """Return the checksums of a checkpoint's files, by their paths in it."""
    path = checkpoint / CHECKSUMS
    if not path.is_file():
        raise UserError(
            f"{checkpoint}: not a complete checkpoint of this package ({CHECKSUMS} is missing); "
            "its saving was cut off, or something else wrote it. Resume from another one"
        )
    nothing = f"so nothing says whether the checkpoint is whole. {_OTHER_CHECKPOINT}"
    return read_object(path, nothing)


_OTHER_CHECKPOINT = (
    "Delete the folder to resume from the checkpoint before it (without one, from the start), or "
    "name an older one with --resume_from_checkpoint"
)


def verify(checkpoint: Path) -> None:
    """Check a checkpoint against its checksums before anything of it is loaded."""
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
    found = [path for path in output_dir.glob("checkpoint-*") if path.is_dir()]
    numbered = [path for path in found if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(numbered, key=lambda path: int(path.name.removeprefix("checkpoint-")))


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


def clean_up(output_dir: Path) -> None:
    """Remove what killed runs left in an output folder that this run has claimed and holds."""
    found = [path for path in _checkpoints(output_dir) if not _is_sealed(path)]
    found += [p for p in output_dir.iterdir() if re.fullmatch(r"\..+\.\d+\.tmp", p.name)]
    for path in output_dir.glob(".saving-*"):
        # With files in `former` it was cut off while the new ones took their place: the only copy.
        if path.exists() and not any(path.glob("former/*")):
            found.append(path)
    for path in found:
        logger.warning("%s was cut off while it was written; it is removed", path)
        remove(path)


def find_checkpoint(output_dir: Path, requested: str | bool | None) -> Path | None:
    """Return the checkpoint to resume from: the one asked for, else the latest complete one.

    What is returned here is loaded, DeepSpeed's pickles too: only this run's own folder is taken.
    """
    wanted = str(requested) if requested is not None else "true"
    if wanted.lower() in ("false", "0", "no"):
        if complete_checkpoints(output_dir):
            raise UserError(
                f"--resume_from_checkpoint {requested}: {output_dir} holds checkpoints, which a "
                "fresh run would overwrite; choose another --output_dir"
            )
        return None
    if wanted.lower() in ("true", "1", "yes"):
        complete = complete_checkpoints(output_dir)
        if not complete:
            return None
        path = complete[-1]
    else:
        path = Path(wanted)
        if not path.is_dir():
            raise UserError(f"--resume_from_checkpoint {path}: no such folder")
        if path.resolve().parent != output_dir.resolve():
            raise UserError(
                f"--resume_from_checkpoint {path}: not a checkpoint of --output_dir {output_dir}. "
                "A run is resumed in its own folder; to start from another one's weights pass its "
                "mm_projector.bin as --pretrain_mm_mlp_adapter"
            )
    verify(path)
    logger.info("resuming from %s", path)
    return path


def is_finished(checkpoint: Path) -> bool:
    """Say whether a checkpoint is its run's last: Trainer would go one past --max_steps."""
    state = read_json(checkpoint / "trainer_state.json")
    return int(state["global_step"]) >= int(state["max_steps"])


def finish_from(checkpoint: Path, output_dir: Path) -> None:
    """Put a last checkpoint's results into the output folder, those that are not there or damaged.

    The checkpoint is verified; its checksums are those of the results too.
    """
    sums = read_checksums(checkpoint)
    for path in checkpoint.iterdir():
        target = output_dir / path.name
        of_the_trainer = any(path.match(pattern) for pattern in TRAINER_FILES)
        if not path.is_file() or of_the_trainer or _is_whole(target, sums[path.name]):
            continue
        if target.exists():
            logger.warning("%s is not as the run left it; copied from %s", target, checkpoint.name)
        with path.open("rb") as source, open_atomically(target) as copy:
            shutil.copyfileobj(source, copy)
    for left in output_dir.glob(".saving-*"):  # of a run killed while it wrote the results
        remove(left)
    logger.info("%s: this run has finished; nothing is left to train", output_dir)


def _is_whole(path: Path, sha256: str) -> bool:
    """Compare a result with its checksum; the trainer's state changes after the checkpoint."""
    with suppress(OSError, ValueError):
        if path.name == "trainer_state.json":
            return isinstance(read_json(path), dict)
        return sha256_file(path) == sha256
    return False
