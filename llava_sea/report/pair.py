"""Two runs side by side: what each is called, whether they may be compared, where they differ.

Nearest words and distances mean the same in two runs only if these have the same language model,
the same tower, and read it the same way; anything else is refused. Other settings may differ (that
is what comparing is for) and are listed for the reader, from ``run.json`` where both runs have it.
Limit: models are told apart by their names or folders; a model that was trained again in the same
folder looks the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from llava_sea.errors import UserError
from llava_sea.report.folder import RunFolder
from llava_sea.report.measures import has_alignment

MUST_FIT = (
    ("_name_or_path", "language model", "model_name_or_path", None),
    ("mm_vision_tower", "vision tower", "vision_tower", None),
    ("mm_projector_type", "projector", None, "mlp2x_gelu"),
    ("mm_vision_select_layer", "layer of the tower (mm_vision_select_layer)", None, -2),
    ("mm_vision_select_feature", "choice of patches (mm_vision_select_feature)", None, "patch"),
    ("image_aspect_ratio", "image_aspect_ratio", None, "square"),
)
"""Key of config.json, what it is, the flag that overrules it, LLaVA's default."""

SEA, PLAIN = "SEA", "plain LLaVA"


class Difference(NamedTuple):
    """A setting in which two runs differ."""

    name: str
    run: str
    baseline: str


def kind_of(run: RunFolder) -> str | None:
    """Return `SEA`, `PLAIN`, or None where the folder does not tell."""
    head = run.projectors[-1].path.parent / "alignment_head.safetensors"
    if has_alignment(run.rows) or head.is_file():
        return SEA
    return PLAIN if run.rows else None


def names_of(run: RunFolder, baseline: RunFolder) -> tuple[str, str]:
    """Return what the two are called: by what was trained, or by folder where that is the same."""
    kinds = kind_of(run), kind_of(baseline)
    if kinds == (SEA, PLAIN):
        names = SEA, PLAIN
    elif kinds == (PLAIN, SEA):
        names = PLAIN, SEA
    elif run.name != baseline.name:
        return run.name, baseline.name
    else:
        return str(run.root), str(baseline.root)
    if run.step != baseline.step:
        return _with_step(names[0], run.step), _with_step(names[1], baseline.step)
    return names


def check_fit(run: RunFolder, baseline: RunFolder, given: dict[str, Any]) -> None:
    """Refuse two runs whose visual tokens do not live in the same space.

    Args:
        run: the run of ``--run``.
        baseline: the run of ``--baseline``.
        given: flags of the command; a model named there holds for both runs.

    Raises:
        UserError: if they differ, or are one and the same.
    """
    if run.projectors[-1].path == baseline.projectors[-1].path:
        raise UserError(f"--baseline {baseline.root}: is --run itself; name the plain run")
    for key, what, flag, default in MUST_FIT:
        if flag is not None and given.get(flag):
            continue
        ours, theirs = (one.config.get(key, default) for one in (run, baseline))
        if _place(ours) != _place(theirs):
            way_out = f" If only its folder has moved, name it: --{flag}" if flag else ""
            raise UserError(
                f"--baseline {baseline.root}: does not fit --run {run.root}: another {what}, "
                f"{theirs} there and {ours} here. Compare runs that differ in their training "
                f"alone.{way_out}"
            )


def differences(run: RunFolder, baseline: RunFolder) -> list[Difference]:
    """Return the settings in which two runs differ; none where one has no ``run.json``."""
    if not run.settings or not baseline.settings:
        return []
    return [
        Difference(key, str(run.settings.get(key, "-")), str(baseline.settings.get(key, "-")))
        for key in sorted({*run.settings, *baseline.settings})
        if run.settings.get(key) != baseline.settings.get(key)
    ]


def _with_step(name: str, step: int | None) -> str:
    return name if step is None else f"{name}, step {step:,}"


def _place(value: Any) -> Any:
    """Two spellings of a folder are one place."""
    if isinstance(value, str) and Path(value).is_dir():
        return Path(value).resolve()
    return value
