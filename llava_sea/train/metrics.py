"""metrics.jsonl and a line of progress while a run runs, a table of numbers at its end."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from llava_sea.errors import naming
from llava_sea.files import write_atomically
from llava_sea.progress import Progress

logger = logging.getLogger(__name__)


class MetricsFile(TrainerCallback):
    """Appends every log to ``metrics.jsonl``; a resumed run first takes out what it will redo."""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Open the file at the step that the run resumes from."""
        self._path = Path(args.output_dir or ".") / "metrics.jsonl"
        if not state.is_world_process_zero:
            return
        kept = []
        if state.global_step:
            rows = read_metrics(self._path)
            kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= state.global_step]
        write_atomically(self._path, "".join(kept).encode())

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any
    ) -> None:
        """Append one line."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            with naming(self._path), open(self._path, "a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class ProgressLine(TrainerCallback):
    """The losses behind the steps: one live line on a terminal, a line every 5 seconds in a log."""

    _progress: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Start at the step that the run resumes from."""
        self._progress = Progress(
            "steps",
            state.max_steps,
            done=state.global_step,
            every=5.0,
            shown=state.is_world_process_zero,
        )

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any
    ) -> None:
        """Show the latest losses."""
        if not logs or "loss" not in logs:
            return
        names = {"lm_loss": "L_g", "sea_loss": "L_a", "temperature": "tau", "sea_pairs": "N"}
        parts = [f"loss {logs['loss']:.3f}"]
        parts += [f"{short} {logs[key]:.4g}" for key, short in names.items() if key in logs]
        self._progress.set_postfix_str("  ".join(parts), refresh=False)
        self._progress.update(state.global_step - self._progress.n)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Take the bar down."""
        self.close()

    def close(self) -> None:
        """Take the bar down, also after an error: nothing of it may follow the error's line."""
        if self._progress is not None:
            self._progress.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the log; it may be gone, or a line of it half written, and the results are whole."""
    rows = []
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["step"] + 0  # a number
            rows.append(row)
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("%s, line %d: cannot be read (%s); left out", path, number, error)
    return rows


def summary(output_dir: Path) -> str:
    """Return the numbers before and after, read back from metrics.jsonl."""
    rows = read_metrics(output_dir / "metrics.jsonl")
    names = {
        "lm_loss": "L_g (training)",
        "sea_loss": "L_a",
        "temperature": "tau",
        "eval_lm_loss": "L_g (held out)",
        "eval_tacs": "TACS",
        "eval_gap": "modality gap",
        "eval_gap_unit": "  between unit vectors",
        "eval_visual_length": "visual tokens' length",
        "eval_embedding_length": "embedding rows' length",
        "eval_nearest_word_precision": "nearest word right",
        "eval_nearest_word_precision_objects": "  on objects",
        "eval_nearest_word_in_caption": "nearest word in caption",
    }
    lines = [f"{'':24s}{'first':>10s}{'last':>10s}"]
    for key, name in names.items():
        values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        if values:
            lines.append(f"{name:24s}{values[0]:10.4f}{values[-1]:10.4f}")
    projector = output_dir / "mm_projector.bin"
    result = f"projector: {projector}" if projector.exists() else f"model: {output_dir}"
    return "\n".join([*lines, result])
