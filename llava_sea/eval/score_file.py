"""``scores.json``: what a checkpoint came to in each task, beside its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llava_sea.errors import UserError
from llava_sea.eval.outcome import Outcome
from llava_sea.eval.score import Score
from llava_sea.files import read_json, write_atomically

NAME = "scores.json"


def read_scores(folder: Path) -> dict[str, Any]:
    """Return the entries by task; none where there is no file.

    Raises:
        UserError: if the file is something else.
    """
    path = folder / NAME
    if not path.exists():
        return {}
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise UserError("no object of tasks")
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(
            f"{path}: is no scores.json of this command ({reason}); move it away"
        ) from None
    return content


def add_score(folder: Path, task: str, outcome: Outcome) -> None:
    """Note a task's outcome; those of other tasks stay.

    Raises:
        UserError: as `read_scores`.
    """
    content = read_scores(folder)
    content[task] = (
        outcome.to_json()
        if isinstance(outcome, Score)
        else {"submission": str(outcome.path), "server": outcome.server}
    )
    write_atomically(folder / NAME, (json.dumps(content, indent=2) + "\n").encode())
