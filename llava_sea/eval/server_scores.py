"""Scores that servers returned, from a file that the user keeps.

``{"CHECKPOINT": {"vqav2-test-dev2015": 78.5, "mmbench-test": 64.3}}``, with the table's names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.eval.benchmarks import TASKS
from llava_sea.eval.score import Score
from llava_sea.files import SETTINGS_BYTES, read_text


def read_server_scores(path: Path, checkpoints: Collection[str]) -> dict[str, dict[str, Score]]:
    """Return the scores by checkpoint and task.

    Args:
        path: the file.
        checkpoints: the names that it may use.

    Raises:
        UserError: if it is not of this form, or names a checkpoint or a task that there is not.
    """
    form = '{"CHECKPOINT": {"vqav2-test-dev2015": 78.5, ...}, ...}'
    try:
        content = json.loads(read_text(path, SETTINGS_BYTES), object_pairs_hook=_once)
    except UserError as error:
        raise UserError(f"--server_scores {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--server_scores {path}: not JSON ({error}); write {form}") from None
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UserError(f"--server_scores {path}: must be {form}")
    tasks = {task.name: task for task in TASKS}
    found: dict[str, dict[str, Score]] = {}
    for checkpoint, values in content.items():
        if checkpoint not in checkpoints:
            raise UserError(
                f"--server_scores {path}: {checkpoint!r} is none of the checkpoints "
                f"{', '.join(checkpoints)}"
            )
        for name, value in values.items():
            if name not in tasks:
                raise UserError(
                    f"--server_scores {path}: {checkpoint}: there is no task {name!r}; there are "
                    f"{', '.join(tasks)}"
                )
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= 100:
                raise UserError(
                    f"--server_scores {path}: {checkpoint}: {name}: {value!r} is no score of 0 to "
                    "100"
                )
            found.setdefault(checkpoint, {})[name] = Score(
                benchmark=tasks[name].benchmark,
                value=float(value),
                metric="as the server returned it",
                split=tasks[name].split,
                questions=0,
                missing=0,
                protocol={"scored by": "the server"},
            )
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of the JSON; its names must differ, or the last would hide the others."""
    if twins := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise ValueError(f"of an object's names {twins[0]!r} is there twice")
    return dict(pairs)
