"""A run's folder (config, projectors before and after, log), and whether two runs fit each other.

Three kinds of folders are read: a finished run's, one of its ``checkpoint-N``, and that of a plain
LLaVA run (``mm_projector.bin``, ``config.json``, ``trainer_state.json``). Without a log there are
no curves; without a projector there is no report.

Nearest words and distances mean the same in two runs only if these have the same language model,
the same tower, and read it the same way; other runs are refused. Other settings may differ and are
listed from ``run.json`` where both runs have it. Limit: models are told apart by their names or
folders; a model that was trained again in the same folder looks the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.files import LIST_BYTES, read_json, read_jsonl, read_object
from llava_sea.report.measures import MEASURES

PROJECTOR = "mm_projector.bin"
INITIAL_PROJECTOR = "mm_projector_initial.bin"
METRICS = "metrics.jsonl"
TRAINER_STATE = "trainer_state.json"
_MEASURED = {"loss", *(key for measure in MEASURES for key in measure.keys)}

SEA, PLAIN = "SEA", "plain LLaVA"
MUST_FIT = (
    ("_name_or_path", "language model", "model_name_or_path", None),
    ("mm_vision_tower", "vision tower", "vision_tower", None),
    ("mm_projector_type", "projector", None, "mlp2x_gelu"),
    ("mm_vision_select_layer", "layer of the tower (mm_vision_select_layer)", None, -2),
    ("mm_vision_select_feature", "choice of patches (mm_vision_select_feature)", None, "patch"),
    ("image_aspect_ratio", "image_aspect_ratio", None, "square"),
)
"""Key of config.json, its name in words, the flag that overrules it, LLaVA's default."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Projector:
    """A state of the projector that images are read with."""

    label: str
    path: Path


@dataclass(frozen=True)
class RunFolder:
    """One run, as far as its folder tells."""

    name: str
    root: Path
    config: dict[str, Any]
    projectors: tuple[Projector, ...]
    """Before (where it was kept) and after."""
    step: int | None
    """The step that "after" stands for; None where it cannot be told."""
    rows: list[Row]
    """Lines of the log with their ``step``, ascending."""
    notes: list[str]
    """Missing files, for the reader."""
    settings: dict[str, Any]
    """The flags the run was started with; empty where the folder does not tell."""

    @property
    def kind(self) -> str | None:
        """Return `SEA`, `PLAIN`, or None where the folder does not tell."""
        head = self.projectors[-1].path.parent / "alignment_head.safetensors"
        if head.is_file() or any("sea_loss" in row for row in self.rows):
            return SEA
        return PLAIN if self.rows else None

    def report_name(self) -> str:
        """Return the file name of this report: one a checkpoint, so none replaces another's."""
        after = self.projectors[-1].path
        if after == self.root / PROJECTOR:
            return "report.html"
        where = after.parent.name if after.name == PROJECTOR else after.stem
        return f"report-{where}.html"


def open_run(
    run: str | Path, projector: str | Path | None = None, *, flag: str = "--run"
) -> RunFolder:
    """Find a run's files.

    Args:
        run: the output folder of a run, or a ``checkpoint-N`` in it.
        projector: the "after": an ``mm_projector.bin`` or a folder with one; default: the run's.
        flag: the flag that named the run, for errors.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise UserError(f"{flag} {run}: no such folder")
    is_checkpoint = _checkpoint_step(folder) is not None
    root = folder.resolve().parent if is_checkpoint else folder.resolve()
    config = _read_config(folder if (folder / "config.json").is_file() else root)
    after = _find_projector(folder.resolve(), projector, flag)
    rows, notes = _read_log(root)
    if not any("lm_loss" in row for row in rows):
        # LLaVA's own trainer has the caption loss under the name of the loss.
        rows = [{**row, "lm_loss": row["loss"]} if "loss" in row else row for row in rows]
    step = _step_of(after, root, rows)
    label = "after training"
    if step is not None:
        label = f"after {step:,} steps" if step != 1 else "after 1 step"
    elif projector is not None:
        label = f"with {after.parent.name}/{after.name}"
    projectors = [Projector(label, after)]
    initial = root / INITIAL_PROJECTOR
    if initial.is_file():
        projectors.insert(0, Projector("before training", initial))
    else:
        notes.append(
            f"This run kept no {INITIAL_PROJECTOR}: the images show the trained projector only."
        )
    name = f"{root.name}/{folder.name}" if is_checkpoint else root.name
    try:
        settings = read_json(root / "run.json")
    except UserError:  # it is for the reader alone
        settings = None
    settings = settings if isinstance(settings, dict) else {}
    if start := settings.get("pretrain_mm_mlp_adapter"):
        notes.append(f"The run began from {start}: numbers of step 0 are that projector's.")
    return RunFolder(name, root, config, tuple(projectors), step, rows, notes, settings)


def _checkpoint_step(folder: Path) -> int | None:
    number = re.fullmatch(r"checkpoint-(\d+)", folder.resolve().name)
    return int(number[1]) if number else None


def _find_projector(folder: Path, projector: str | Path | None, flag: str) -> Path:
    path = Path(projector).resolve() if projector is not None else folder
    if path.is_dir():
        path = path / PROJECTOR
    if path.is_file():
        return path
    if projector is not None:
        raise UserError(f"--projector {projector}: there is no file {path}")
    hint = "is it the --output_dir of a stage-1 run?"
    checkpoints = [p for p in folder.glob("checkpoint-*") if (p / PROJECTOR).is_file()]
    if checkpoints:
        latest = max(checkpoints, key=lambda p: _checkpoint_step(p) or 0)
        hint = f"the run is not finished; its latest checkpoint is {flag} {latest}"
    raise UserError(f"{flag} {folder}: holds no {PROJECTOR}; {hint}")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise UserError(
            f"{path}: no such file. A stage-1 run writes it beside {PROJECTOR}; it names the "
            "language model and the vision tower"
        )
    config = read_object(path)
    layer = config.get("mm_vision_select_layer", 0)
    if not isinstance(layer, int):
        raise UserError(f"{path}: mm_vision_select_layer cannot be {layer!r}; fix it")
    return config


def _read_log(root: Path) -> tuple[list[Row], list[str]]:
    """Return the log's rows, and notes for the reader if there is no full log."""
    if (root / METRICS).is_file():
        what, way_out = "a JSON object with a step", "remove the line"
        # A run that is training, or was killed, may have written half a line.
        lines = read_jsonl(root / METRICS, what, _check_numbers, way_out, cut=True)
        return sorted((row for _, row in lines), key=lambda row: int(row["step"])), []
    path = root / TRAINER_STATE
    if not path.is_file():
        return [], [f"The folder holds no {METRICS}, so there are no curves."]
    state = read_json(path, LIST_BYTES)
    try:
        rows = [row for row in state["log_history"] if isinstance(row["step"], int)]
        for row in rows:
            _check_numbers(row)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: not a trainer's state ({error!r})") from None
    return rows, [f"The folder holds no {METRICS}; the curves are those of {TRAINER_STATE}."]


def _check_numbers(row: Row) -> None:
    """Raise an error over a row whose step is none, or that has something else for a measure."""
    if not isinstance(row, dict):
        raise TypeError(f"a {type(row).__name__}")
    for key in ("step", *sorted(_MEASURED & row.keys())):
        value = row[key]
        if value is None and key != "step":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{key} is {value!r}, not a number")
        float(value)  # 400 digits are none that can be drawn
    int(row["step"])


def _step_of(after: Path, root: Path, rows: list[Row]) -> int | None:
    """Return the step of a projector of this run; None for a file from elsewhere."""
    if after.parent == root and after.name == PROJECTOR:
        return int(rows[-1]["step"]) if rows else None
    return _checkpoint_step(after.parent) if after.parent.parent == root else None


def names_of(run: RunFolder, baseline: RunFolder) -> tuple[str, str]:
    """Name two runs: by what was trained, or by folder where that is the same."""
    if {run.kind, baseline.kind} == {SEA, PLAIN}:
        names = str(run.kind), str(baseline.kind)
    elif run.name != baseline.name:
        return run.name, baseline.name
    else:
        return str(run.root), str(baseline.root)
    if run.step != baseline.step:
        steps = ("" if one.step is None else f", step {one.step:,}" for one in (run, baseline))
        return names[0] + next(steps), names[1] + next(steps)
    return names


def check_fit(run: RunFolder, baseline: RunFolder, given: dict[str, Any]) -> None:
    """Raise a `UserError` over two runs whose visual tokens do not live in the same space.

    A model that the flags of the command, `given`, name holds for both runs.
    """
    if run.projectors[-1].path == baseline.projectors[-1].path:
        raise UserError(f"--baseline {baseline.root}: is --run itself; name the plain run")
    for key, thing, flag, default in MUST_FIT:
        if flag is not None and given.get(flag):
            continue
        ours, theirs = (one.config.get(key, default) for one in (run, baseline))
        if _place(ours) != _place(theirs):
            way_out = f" If only its folder has moved, name it: --{flag}" if flag else ""
            raise UserError(
                f"--baseline {baseline.root}: does not fit --run {run.root}: another {thing}, "
                f"{theirs} there and {ours} here. Compare runs that differ in their training "
                f"alone.{way_out}"
            )


def differences(run: RunFolder, baseline: RunFolder) -> dict[str, tuple[str, str]]:
    """Return both values of each setting that differs; none where one run has no ``run.json``."""
    if not run.settings or not baseline.settings:
        return {}
    return {
        key: (str(run.settings.get(key, "-")), str(baseline.settings.get(key, "-")))
        for key in sorted({*run.settings, *baseline.settings})
        if run.settings.get(key) != baseline.settings.get(key)
    }


def _place(value: Any) -> Any:
    """Two spellings of a folder are one place."""
    if isinstance(value, str) and Path(value).is_dir():
        return Path(value).resolve()
    return value
