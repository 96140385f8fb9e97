"""Which runs there are, in which order, and under which name each one's result lies.

A result's file name ends in a hash of everything that the run depends on: recipe, arm's flags, how
its labels were mined, the models' checksums, the held-out set, the precision. Not the bytes of its
labels: other CPUs round scores otherwise, in the last bit. A change of any of them makes it another
run; a finished run is never done twice. Seeds come outermost: whenever the study is stopped, the
seeds that are complete form a balanced table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from llava_sea.errors import UserError
from llava_sea.files import sha256_file, write_atomically
from llava_sea.labels.state import plain
from llava_sea.train.arguments import SeaArguments
from playground.study.arms import ARMS, Arm
from playground.study.prepare import World
from playground.study.recipe import VERSION, Recipe

_OF_LABELS = ("words_sha256", "features", "sign", "top_n")
_WEIGHT = ("sea_weight", "sea_weight_schedule")
_FLAGS = (*_WEIGHT, "sea_window", "sea_negatives", "sea_log_scale_init")
_LATER_FLAGS = ("sea_positives", "sea_targets", "sea_mask_own_top_n")
"""Part of an identity only where they are not the default: runs from before them keep theirs."""


@dataclass(frozen=True)
class Run:
    """One training: which LLM, how long, which arm, which seed."""

    llm: Path
    steps: int
    arm: str
    seed: int

    @property
    def cell(self) -> tuple[str, int, str]:
        """What it shares with the same run of other seeds."""
        return self.llm.name, self.steps, self.arm

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.llm.name}-{self.steps}-{self.arm}-seed{self.seed}"


@dataclass(frozen=True)
class Planned:
    """A run, what it depends on, and where its result goes."""

    NEEDED: ClassVar[set[str]] = {"final", "curve", "seconds"}
    """What a finished run's file has."""

    run: Run
    config: dict[str, Any]
    path: Path

    def result(self) -> dict[str, Any] | None:
        """Return the finished run's result, None if it is still to be done.

        Raises:
            UserError: if the file is broken, or holds another run's result.
        """
        if not self.path.is_file():
            return None
        try:
            result: Any = json.loads(self.path.read_text())
        except ValueError:
            result = None
        if not isinstance(result, dict) or not self.is_whole(result):
            raise UserError(f"{self.path}: is no finished run; remove it, and it is done again")
        if result["config"] != json.loads(json.dumps(self.config)):
            raise UserError(
                f"{self.path}: holds the run {result['run']} or one made otherwise, not what its "
                "name says; remove it, and it is done again"
            )
        return result

    def is_whole(self, result: Mapping[str, Any]) -> bool:
        """Say whether a result has what a finished run's has."""
        return result.keys() >= {"run", "config", *self.NEEDED}

    def save(self, measured: dict[str, Any]) -> None:
        """Write the result, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"run": self.run.name, "config": self.config, **measured}
        write_atomically(self.path, json.dumps(content).encode())


def all_runs(
    llms: Sequence[Path], lengths: Sequence[int], arms: Sequence[str], seeds: int
) -> list[Run]:
    """Return the runs in their order: by seed, then length, LLM and arm."""
    return [
        Run(llm, steps, arm, seed)
        for seed in range(seeds)
        for steps in lengths
        for llm in llms
        for arm in arms
    ]


def plan(
    runs: Sequence[Run],
    world: World,
    recipe: Recipe,
    precision: str,
    folder: Path,
    known: Mapping[str, Arm] = ARMS,
) -> list[Planned]:
    """Give every run its config and its file.

    Args:
        runs: what to do.
        world: pictures, labels and held-out scenes.
        recipe: the hyperparameters.
        precision: of the frozen LLM.
        folder: gets the results.
        known: the arms by name.
    """
    shared = {
        "version": VERSION,
        "recipe": plain(asdict(recipe)),
        "precision": precision,
        "world": _identity_of_world(world),
        "heldout": world.heldout.identity(),
    }
    llms = {llm: _identity_of_llm(llm) for llm in {run.llm for run in runs}}
    arms = {arm: _identity_of_arm(world, known[arm]) for arm in {run.arm for run in runs}}
    planned = []
    for run in runs:
        own = {"steps": run.steps, "seed": run.seed, "llm": llms[run.llm], "arm": arms[run.arm]}
        config = shared | own
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        planned.append(Planned(run, config, folder / f"{run.name}-{digest[:12]}.json"))
    return planned


def _identity_of_world(world: World) -> dict[str, str]:
    """Return checksums of the records, of the word list, and (through theirs) of the pictures."""
    clip = world.clip / "model.safetensors"
    return {path.name: sha256_file(path) for path in (world.data, world.words, world.crc32, clip)}


def _identity_of_llm(folder: Path) -> dict[str, str]:
    names = ("config.json", "model.safetensors", "tokenizer.json")
    return {name: sha256_file(folder / name) for name in names}


def _identity_of_arm(world: World, arm: Arm) -> dict[str, Any]:
    labels = world.labels(arm)
    if labels is None:
        return {}
    sea, default = asdict(arm.arguments(None)), asdict(SeaArguments())
    later = [k for k in _LATER_FLAGS if sea[k] != default[k]]
    identity: dict[str, Any] = {"flags": {k: sea[k] for k in (*_FLAGS, *later)}}
    if arm.warm_start:
        identity["warm_start"] = arm.warm_start
    manifest = json.loads((labels / "manifest.json").read_text())
    found = {name: manifest[name] for name in _OF_LABELS}
    return identity | {"labels": found | {"extraction": arm.extraction()}}
