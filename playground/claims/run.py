"""One run: stage 1 and stage 2 of one LLM, arm, length and seed, and what it answers in the end."""

from __future__ import annotations

import time
from typing import Any

from llava_sea.train.arguments import SeaArguments
from playground.claims.bench import ClaimsBench
from playground.claims.tuning import tuning_batches, tuning_steps
from playground.study.run import make_model, train_run

DIGITS = 4


def claims_run(
    bench: ClaimsBench, sea: SeaArguments, steps: int, seed: int, num_warm: int = 0
) -> dict[str, Any]:
    """Train through both stages and measure.

    Args:
        bench: the LLM, the data, the questions.
        sea: the alignment flags; without labels it is plain LLaVA.
        steps: length of stage 1; 0 leaves the projector untrained.
        seed: of the projector's start and of both stages' data.
        num_warm: steps of the alignment loss alone before stage 1.

    Returns:
        ``stage1``: ``curve`` and ``final`` measures and ``answers`` by kind of question;
        ``tuning_loss``: mean of stage 2's last tenth; ``scores``: of the eight, 0 to 100;
        ``language``: ``before``, ``middle`` and ``after`` stage 2, 0 to 100, by form;
        ``cpu_seconds`` by part.
    """
    clock: dict[str, float] = {}
    started = time.process_time()

    def lap(part: str) -> None:
        nonlocal started
        now = time.process_time()
        clock[part] = clock.get(part, 0.0) + now - started
        started = now

    if steps:
        stage1 = train_run(bench.stage1, sea, steps, seed, num_warm)
    else:
        stage1 = _untrained(bench, sea, seed)
    lap("stage1")
    before = bench.language_before()
    model = bench.fresh(bench.stage1.llava.model.multi_modal_projector)
    lap("language")
    recipe = bench.recipe
    batches = tuning_batches(bench.data, bench.collate, recipe, seed)
    losses: list[float] = []
    language = {"before": before}
    for loss in tuning_steps(model, batches, recipe, bench.learning_rate, bench.dtype):
        losses.append(loss)
        if len(losses) == recipe.tuning_steps // 2:
            lap("tuning")
            with bench.answering():
                language["middle"] = bench.language(model.eval().llava)
            lap("language")
    lap("tuning")
    model.eval()
    with bench.answering():
        scores = bench.scores(model.llava)
        lap("eight")
        language["after"] = bench.language(model.llava)
        lap("language")
    last = losses[-max(1, len(losses) // 10) :]
    return _rounded(
        {
            "stage1": {
                "curve": stage1["curve"],
                "final": stage1["final"],
                "answers": stage1["final_answers"],
            },
            "tuning_loss": sum(last) / len(last),
            "scores": scores,
            "language": language,
            "cpu_seconds": clock,
        }
    )


def _untrained(bench: ClaimsBench, sea: SeaArguments, seed: int) -> dict[str, Any]:
    """Give the projector its first values and measure it; there is no stage 1."""
    model = make_model(bench.stage1, sea, seed)
    _, at_end = bench.stage1.measures()
    final, answers = at_end.measure(model)
    return {"curve": [{"step": 0, **final}], "final": final, "final_answers": answers}


def _rounded(found: Any) -> Any:
    """Keep four digits behind the point: a run's file stays small."""
    if isinstance(found, dict):
        return {name: _rounded(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_rounded(value) for value in found]
    return round(found, DIGITS) if isinstance(found, float) else found
