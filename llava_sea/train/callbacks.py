"""What a run writes while it runs: metrics.jsonl, a progress line, held-out measurements."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llava_sea.errors import naming
from llava_sea.files import write_atomically
from llava_sea.progress import Progress
from llava_sea.train.evaluation import AlignmentEvaluator

logger = logging.getLogger(__name__)


class MetricsFile(TrainerCallback):
    """Appends every log to ``metrics.jsonl``; a resumed run first takes out what it will redo."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the file at the step that the run goes on from."""
        self._path = Path(args.output_dir or ".") / "metrics.jsonl"
        if not state.is_world_process_zero:
            return
        kept = []
        if self._path.exists() and state.global_step:
            for line in self._path.read_text().splitlines():
                try:
                    step = json.loads(line)["step"]
                except (ValueError, KeyError):
                    continue  # the last line of a killed run may be half a line
                if step <= state.global_step:
                    kept.append(line + "\n")
        write_atomically(self._path, "".join(kept).encode())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Append one line."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            with naming(self._path), open(self._path, "a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class ProgressLine(TrainerCallback):
    """The losses behind the steps: one live line on a terminal, a line every 5 seconds in a log."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start at the step that the run goes on from."""
        self._progress = Progress(seconds_between_lines=5.0)
        if state.is_world_process_zero:
            self._progress.start()
            self._progress("steps", state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Show the latest losses."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        names = {"lm_loss": "L_g", "sea_loss": "L_a", "temperature": "tau", "sea_pairs": "N"}
        parts = [f"loss {logs['loss']:.3f}"]
        parts += [f"{short} {logs[key]:.4g}" for key, short in names.items() if key in logs]
        self._progress("steps", state.global_step, state.max_steps, "  ".join(parts))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take the bar down."""
        self._progress.stop()


class MeasureAlignment(TrainerCallback):
    """Runs the evaluator before the first step, every K steps, and after the last."""

    def __init__(self, evaluator: AlignmentEvaluator, every: int) -> None:
        """Measure with `evaluator` every `every` steps."""
        self.evaluator = evaluator
        self.every = every
        self.trainer: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure the untrained projector; a resumed run has done so before."""
        if state.global_step == 0:
            logger.info("measuring the untrained projector")
            self._measure(args, state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure at the right steps."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            should_log = control.should_log
            self._measure(args, state)
            control.should_log = should_log  # logging a measurement takes the step's own log back

    def _measure(self, args: TrainingArguments, state: TrainerState) -> None:
        trainer = self.trainer
        metrics = self.evaluator.measure(trainer.model_wrapped, trainer.wrapped, args.device)
        trainer.log(dict(metrics))
