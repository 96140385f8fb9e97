"""The claims' study as tables: rows of plain text, in Markdown here and in HTML on the page.

Numbers are means over seeds with half the width of the 95 % t-interval. **Bold** is better than
the baseline, *slanted* worse, by the interval of the differences paired by seed. The baseline of
the claims is plain LLaVA; that of the ablations is `best`, and gains over plain stand beside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llava_sea.eval.compare import FLOOR
from playground.claims.ablations import KNOWN
from playground.claims.options import NONE
from playground.claims.plan import BASELINE
from playground.claims.summary import BENCHMARKS
from playground.study.statistics import Estimate

Row = Mapping[str, Any]


class Field(NamedTuple):
    """A cell of a table; `verdict` is +1, -1 or 0 against the baseline."""

    text: str
    verdict: int = 0


class Table(NamedTuple):
    """A table with its caption."""

    caption: str
    head: list[str]
    rows: list[list[Field]]


def title_of(arm: str) -> str:
    """Return what an arm is called."""
    return "no stage 1" if arm == NONE else KNOWN[arm].title


def write_summary(summary: Mapping[str, Any]) -> str:
    """Return the report in Markdown."""
    base = title_of(summary["baseline"])
    compared = "Plain LLaVA and SEA" if _against_plain(summary) else f"Ablations of {base},"
    parts = [f"# {compared} through both stages, on the miniature world"]
    if summary["warning"]:
        parts.append(f"**{summary['warning']}**")
    parts += [introduction(summary), missing_note(summary)]
    parts += [f"## Gains over {base}", markdown(gain_table(summary))]
    parts += ["## The eight"]
    parts += [markdown(table) for table in score_tables(summary)]
    parts += ["## Language kept", markdown(language_table(summary))]
    parts += ["## After stage 1", markdown(stage1_table(summary))]
    return "\n\n".join(part for part in parts if part) + "\n"


def introduction(summary: Mapping[str, Any]) -> str:
    """Say what was done."""
    stage1, stage2 = summary["recipe"]["stage1"], summary["recipe"]["stage2"]
    rates = ", ".join(
        f"{llm} {rate:g}" for llm, rate in summary["recipe"]["learning_rates"].items()
    )
    return (
        f"Stage 1 in batches of {stage1['batch']}, its steps in the tables; stage 2 is "
        f"{stage2['tuning_steps']} steps of {stage2['batch']} records at learning rate {rates}. "
        f"The eight on {summary['split']} scenes, drawn {len(summary['exams'])} times (a score is "
        "the mean of these exams), greedy answers, MM-Vet graded by the local "
        f"judge. Seeds {', '.join(map(str, summary['seeds']))}. Mean ± half the 95 % t-interval "
        f"over seeds. Bold: better than {title_of(summary['baseline'])}, slanted: worse, by the "
        "interval of the differences paired by seed (same start, same order of the data)."
    )


def missing_note(summary: Mapping[str, Any]) -> str:
    """Say which runs are not there; nothing if all are."""
    missing: Sequence[str] = summary["missing"]
    if not missing:
        return ""
    names = ", ".join(missing[:6]) + (", ..." if len(missing) > 6 else "")
    return f"Not finished: {len(missing)} of {summary['runs']} runs are missing ({names})."


def gain_table(summary: Mapping[str, Any]) -> Table:
    """Return mean relative gains with intervals and tests, and the means they come from."""
    baseline, rows = summary["baseline"], []
    second = summary["second"]
    beside = [f"over {title_of(second)}, %"] if second else []
    plain_first = _against_plain(summary)
    for cell in summary["cells"]:
        if cell["arm"] == NONE or (cell["arm"] == baseline and plain_first):
            continue
        gain = cell["gain"]
        others = [cell["second_gain"]] if second else []
        rows.append(
            [
                *_names(cell),
                Field(_text(gain, signed=True), _verdict(gain)),
                *(Field(_text(found, signed=True), _verdict(found)) for found in others),
                Field(_text(cell["gain_of_all"], signed=True), _verdict(cell["gain_of_all"])),
                Field(_signed(cell["mean"]["difference"])),
                Field(_p(gain["sign_flip_p"])),
                Field(_p(gain["t_test_p"])),
                Field(" ".join(f"{g:+.1f}" for g in gain["by_seed"].values() if g is not None)),
                Field(" / ".join(_left_out(found) for found in (gain, *others))),
            ]
        )
    head = ["LLM", "stage 1", "arm", "mean relative gain, %", *beside, "none left out, %"]
    head += ["mean of the eight, points", "p, sign flips", "p, paired t", "gain by seed"]
    head += ["left out"]
    count = max((cell["gain"]["seeds"] for cell in summary["cells"]), default=0)
    bound = f"; with {count} seeds its p cannot be below {2 / 2**count:g}" if count else ""
    paper = " (the paper's Gemma-2B: 7.61 %)" if plain_first else ""
    caption = (
        f"Mean over the benchmarks of the difference to {title_of(baseline)} of the same LLM, "
        f"length and seed, in percent of its mean over seeds{paper}; left out: benchmarks on which "
        f"that is below {FLOOR:g} points, but not in 'none left out'. Sign flips: exact "
        f"permutation test over seeds, two-sided{bound}."
    )
    if beside:
        caption += (
            f" Over {title_of(second)}: the same with that as what is subtracted and as the "
            "level; what it leaves out comes after the stroke."
        )
    return Table(caption, head, rows)


def score_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Return a table of the eight for each LLM and length; no stage 1 beside each length.

    Stage 2's loss is that of its last tenth, on records that it then sees for the first time.
    """
    tables = []
    cells = summary["cells"]
    for llm in summary["llms"]:
        lengths = sorted({c["steps"] for c in cells if c["llm"] == llm and c["arm"] != NONE})
        for steps in lengths or [0]:
            here = [c for c in cells if c["llm"] == llm and c["steps"] in (steps, 0)]
            if not here:  # no run of this LLM is finished
                continue
            rows = []
            for cell in here:
                counted = f" (n={len(cell['seeds'])})"
                note = counted if len(cell["seeds"]) < len(summary["seeds"]) else ""
                rows.append(
                    [
                        Field(title_of(cell["arm"]) + note),
                        *(_score(cell["scores"][name]) for name in BENCHMARKS),
                        _score(cell["mean"]),
                        _loss(cell["tuning_loss"]),
                    ]
                )
            caption = f"{llm}, {steps} steps of stage 1"
            head = ["arm", *BENCHMARKS.values(), "mean", "stage 2's loss"]
            tables.append(Table(caption, head, rows))
    return tables


def language_table(summary: Mapping[str, Any]) -> Table:
    """Return how many questions without a picture are right before, in and after stage 2."""
    rows = []
    for cell in summary["cells"]:
        document, conversation = cell["language"]["document"], cell["language"]["conversation"]
        rows.append(
            [
                *_names(cell),
                *(Field(_text(document[when])) for when in ("before", "middle", "after")),
                *(Field(_text(conversation[when])) for when in ("middle", "after")),
            ]
        )
    head = ["LLM", "stage 1", "arm", "before stage 2", "in its middle", "after"]
    head += ["as a conversation: middle", "after"]
    caption = (
        "Questions about scenes told in words, exact match, %: in the form of the LLM's own "
        "documents, and in the conversations of stage 2. The paper's figure 3 has MMLU here."
    )
    return Table(caption, head, rows)


def stage1_table(summary: Mapping[str, Any]) -> Table:
    """Return stage 1's measures at its end."""
    rows = []
    for cell in summary["cells"]:
        final = cell["stage1"]["final"]
        rows.append(
            [
                *_names(cell),
                Field(_text(final["caption_loss"], digits=3)),
                Field(_text(final["tacs"], digits=3)),
                Field(_text(final["gap"], digits=2)),
                Field(_text(final["nearest_objects"], scale=100)),
                Field(_text(final["answers"], scale=100)),
            ]
        )
    head = ["LLM", "stage 1", "arm", "caption loss (eq. 12)", "TACS (eq. 14)", "gap (eq. 5)"]
    head += ["nearest word right on objects, %", "zero-shot answers right, %"]
    return Table("On held-out scenes, before stage 2.", head, rows)


def markdown(table: Table) -> str:
    """Write a table in Markdown."""
    marks = {1: "**", -1: "*", 0: ""}
    lines = [table.head, ["---"] * len(table.head)]
    lines += [[f"{marks[f.verdict]}{f.text}{marks[f.verdict]}" for f in row] for row in table.rows]
    return f"{table.caption}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _left_out(gain: Row) -> str:
    if gain["mean"] is None:
        return ""
    return ", ".join(BENCHMARKS[name] for name in gain["left_out"])


def _against_plain(summary: Mapping[str, Any]) -> bool:
    return bool(summary["baseline"] == BASELINE)


def _names(cell: Row) -> list[Field]:
    return [Field(cell["llm"]), Field(str(cell["steps"])), Field(title_of(cell["arm"]))]


def _score(found: Row) -> Field:
    return Field(_text(found), _verdict(found["difference"]))


def _loss(found: Row) -> Field:
    return Field(_text(found, digits=3), -_verdict(found["difference"]))


def _verdict(found: Row) -> int:
    mean, half = (math.nan if found[k] is None else found[k] for k in ("mean", "half"))
    return Estimate(mean, half, found["seeds"]).sign


def _signed(found: Row) -> str:
    return _text(found, signed=True)


def _text(found: Row, *, signed: bool = False, digits: int = 1, scale: float = 1.0) -> str:
    if found["mean"] is None:
        return "–"
    shown = f"{scale * found['mean']:{'+' if signed else ''}.{digits}f}"
    return shown if found["half"] is None else f"{shown} ± {scale * found['half']:.{digits}f}"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
