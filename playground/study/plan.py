"""Which runs there are, and their results: one JSON line each, in files that are read together.

A line says its LLM, arm, seed and last stage, its measures, and with what it was made: digests of
the recipe (`recipe.json`, beside the lines), of its arm and of the scorers' sources, and the
commit. Machines that share no disk write files of their own (``--results results/other.jsonl``);
lines of another recipe, of another arm under the same name or of other scorers are refused, never
mixed.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from llava_sea.errors import UserError
from llava_sea.files import sha256_file, write_atomically
from playground.smollm2 import MODEL, PACKAGES
from playground.study.arms import ARMS
from playground.study.recipe import Recipe

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULTS = HERE / "results" / "runs.jsonl"
SCORERS = {
    1: (
        *("playground/questions.py", "playground/captions.py", "playground/study/learned.py"),
        *("playground/study/bench.py", "llava_sea/alignment/metrics.py"),
    ),
    2: ("playground/study/eight.py", "llava_sea/eval/normalise.py", "llava_sea/eval/scorers"),
}
"""Sources whose change makes other numbers of the same models, by stage."""


class Run(NamedTuple):
    """One training: which LLM and arm, which seed, through which last stage."""

    llm: str
    arm: str
    seed: int
    stage: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.llm}, {self.arm}, seed {self.seed}, stage {self.stage}"


class Made(NamedTuple):
    """With what a run was made: digests, and the commit."""

    recipe: str
    """Of all numbers that this LLM's runs through this stage depend on."""
    arm: str
    scorers: str
    commit: str

    def must_agree(self, run: Run) -> dict[str, str]:
        """Return what must be equal in all lines that have it; the commit may differ."""
        return {
            f"recipe of {run.llm}, stage {run.stage}": self.recipe,
            f"arm {run.arm}": self.arm,
            f"scorers of stage {run.stage}": self.scorers,
        }


def all_runs(
    llms: Sequence[str], arms: dict[int, Sequence[str]], seeds: Iterable[int]
) -> list[Run]:
    """Return the runs, seeds outermost: whenever the study is stopped, whole seeds are balanced.

    Args:
        llms: names of the LLMs' folders.
        arms: by the last stage, 1 or 2; a run of both stages also counts as one of stage 1.
        seeds: of the runs.
    """
    runs = []
    for seed in seeds:
        for llm in llms:
            for arm in ARMS:
                if arm in arms.get(2, ()):
                    runs.append(Run(llm, arm, seed, 2))
                elif arm in arms.get(1, ()):
                    runs.append(Run(llm, arm, seed, 1))
    return runs


def content_of(recipe: Recipe) -> dict[str, Any]:
    """Return all that the runs' numbers depend on beside LLM, arm and seed."""
    arms = {
        arm.name: {
            "labels": "true" if arm.truth else arm.extraction(),
            "training": {
                key: value
                for key, value in asdict(arm.arguments("labels" if arm.preset else None)).items()
                if key.startswith("sea_") and not key.startswith("sea_eval") and key != "sea_labels"
            }
            | ({"warm_start": arm.warm_start} if arm.warm_start else {}),
        }
        for arm in ARMS.values()
    }
    models = HERE.parent / "models"
    weights: dict[str, Any] = {
        name: sha256_file(models / name / "model.safetensors")
        for name in ("clip", *dict(recipe.stage1))
        if (models / name / "model.safetensors").is_file() and name != MODEL.name
    }
    weights |= {MODEL.name: PACKAGES}  # its folder may be without it: it is made when it is run
    return json.loads(json.dumps({"recipe": asdict(recipe), "arms": arms, "weights": weights}))


def commit_of(root: Path) -> str:
    """Return a checkout's commit, marked if a file is changed; results grow while runs go on."""
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.check_output(
            [*git, "rev-parse", "--short=12", "HEAD"], stderr=subprocess.DEVNULL
        )
        diff = [*git, "diff", "--quiet", "HEAD", "--", ".", ":!playground/study/results"]
        return head.decode().strip() + "-dirty" * bool(subprocess.call(diff))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def made_with(recipe: Recipe, runs: Iterable[Run]) -> dict[Run, Made]:
    """Return what runs of this checkout, and the first stages of those of two, are made with."""
    commit = commit_of(ROOT)
    content = content_of(recipe)
    scorers = {stage: _digest(_sources(names)) for stage, names in SCORERS.items()}
    made = {}
    for run in runs:
        for stage in range(1, run.stage + 1):
            used = {
                key: value for key, value in content["recipe"].items() if key not in AFTER[stage]
            }
            for key in ("stage1", "stage2"):
                if key in used:
                    used[key] = dict(used[key])[run.llm]
            weights = [content["weights"][name] for name in ("clip", run.llm)]
            made[run._replace(stage=stage)] = Made(
                _digest([used, weights]), _digest(content["arms"][run.arm]), scorers[stage], commit
            )
    return made


AFTER = {1: ("stage2", "max_new_tokens", "answer_batch"), 2: ()}
"""Numbers of the recipe that a stage does not depend on."""


def _sources(names: Iterable[str]) -> list[str]:
    files = (sorted((ROOT / name).glob("*.py")) or [ROOT / name] for name in names)
    return [sha256_file(path) for some in files for path in some]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def append(path: Path, run: Run, made: Made, result: dict[str, Any]) -> None:
    """Add a run's line to a file, whole."""
    line = json.dumps({**run._asdict(), "made": made._asdict(), **result}) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write ``recipe.json`` beside the results."""
    content = json.dumps(content_of(recipe), indent=1)
    write_atomically(folder / "recipe.json", f"{content}\n".encode())


def read_results(folder: Path, made: Mapping[Run, Made] | None = None) -> dict[Run, dict[str, Any]]:
    """Return the finished runs of all files of a folder.

    Args:
        folder: holds ``*.jsonl``.
        made: with what some of them must have been made.

    Raises:
        UserError: for a line that is broken, that was made with something else than the others, or
            that is there twice with different measures.
    """
    found: dict[Run, dict[str, Any]] = {}
    wanted: dict[str, str] = {}
    for run, own in (made or {}).items():
        wanted |= own.must_agree(run)
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
                run = Run(*(row[key] for key in Run._fields))
                own, measures = Made(**row["made"]), row["measures"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{where}: is no finished run ({error!r}); remove it, and it is done again"
                ) from None
            for key, digest in own.must_agree(run).items():
                if wanted.setdefault(key, digest) != digest:
                    raise UserError(
                        f"{where}: made with {key} {digest} (commit {own.commit}), not with "
                        f"{wanted[key]}: they do not go together; keep them in folders of their "
                        "own, or remove the line"
                    )
            if run in found and found[run]["measures"] != measures:
                raise UserError(f"{where}: {run.name} is there twice with different measures")
            found[run] = row
    return found
