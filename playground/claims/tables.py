"""The claims' study as tables: rows of plain text, in Markdown here and in HTML on the page.

Numbers are means over seeds with half the width of the 95 % t-interval. **Bold** is better than
the baseline, *slanted* worse, by the interval of the differences paired by seed. The baseline of
the claims is plain LLaVA; that of the ablations is `best`, and gains over plain stand beside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llava_sea.eval.score import FLOOR
from playground.claims.ablations import KNOWN
from playground.claims.gains import BENCHMARKS
from playground.claims.options import NONE
from playground.claims.plan import BASELINE
from playground.claims.summary import WHEN
from playground.study.statistics import Estimate

Row = Mapping[str, Any]

LIMITS = (
    "What this is no evidence for: real models and pictures. Intervals are about seeds, on one set "
    "of scenes. Without any effect about one number in twenty would still be bold or slanted. "
    "MM-Vet's grades are those of a judge that compares words."
)


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
    parts += [introduction(summary), time_note(summary), missing_note(summary)]
    parts += [LIMITS, f"## Gains over {base}", markdown(gain_table(summary))]
    parts += ["## Where the gains come from", markdown(parts_table(summary))]
    parts += ["## The eight", marked_note(summary)]
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
    warm = {KNOWN[arm].warm_start for arm in summary["arms"] if arm != NONE} - {0}
    before = "".join(
        f"A warm start is {steps} steps of the alignment loss alone before stage 1 and is not "
        "counted in its length. "
        for steps in warm
    )
    seeds = ", ".join(map(str, summary["seeds"]))
    return (
        f"Stage 1 in batches of {stage1['batch']}, its steps in the tables; stage 2 is "
        f"{stage2['tuning_steps']} steps of {stage2['batch']} records at learning rate {rates}. "
        f"{before}The eight on {summary['split']} scenes, drawn {len(summary['exams'])} times (a "
        "score is the mean of these exams), greedy answers, MM-Vet graded by the local judge. "
        f"Seeds {seeds}. Mean ± half the 95 % t-interval "
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


def time_note(summary: Mapping[str, Any]) -> str:
    """Say what the runs took."""
    medians = ", ".join(f"{llm} {t:.0f} s" for llm, t in summary["median_cpu_seconds"].items())
    return f"CPU time: {summary['cpu_seconds'] / 3600:.1f} hours; a run, median: {medians}."


def marked_note(summary: Mapping[str, Any]) -> str:
    """Say how many single scores are marked as better or worse than the baseline's."""
    found = [
        _score(cell["scores"][name]).verdict for cell in _compared(summary) for name in BENCHMARKS
    ]
    return (
        f"Of {len(found)} single scores beside the baseline's {found.count(1)} are bold and "
        f"{found.count(-1)} slanted."
    )


def gain_table(summary: Mapping[str, Any]) -> Table:
    """Return mean relative gains with intervals and tests, and the means they come from."""
    rows = []
    for cell in _compared(summary):
        gain, points = cell["gain"], cell["mean"]["difference"]
        rows.append(
            [
                *_names(cell, summary),
                _gain(gain),
                _gain(cell["gain_of_all"]),
                Field(_text(points, signed=True), _verdict(points)),
                Field(_p(gain["sign_flip_p"])),
                Field(_p(gain["t_test_p"])),
                Field(_p(gain.get("holm_p"))),
                Field(" ".join(f"{g:+.1f}" for g in gain["by_seed"].values())),
                Field(_left_out(gain)),
            ]
        )
    head = ["LLM", "stage 1", "arm", "mean relative gain, %", "none left out, %"]
    head += ["mean of the eight, points", "p, sign flips", "p, paired t", "p, Holm"]
    head += ["gain by seed", "left out"]
    count = max((cell["gain"]["seeds"] for cell in summary["cells"]), default=0)
    bound = f"; with {count} seeds its p cannot be below {2 / 2**count:g}" if count else ""
    paper = " (the paper's Gemma-2B: 7.61 %)" if _against_plain(summary) else ""
    caption = (
        f"Mean over the benchmarks of the difference to {title_of(summary['baseline'])} of the "
        f"same LLM, length and seed, in percent of its mean over seeds{paper}; left out: "
        f"benchmarks on which that is below {FLOOR:g} points, but not in 'none left out'. Sign "
        f"flips: exact permutation test over seeds, two-sided{bound}. Holm: the t-test's p, "
        "corrected for the number of rows."
    )
    return Table(caption, head, rows)


def parts_table(summary: Mapping[str, Any]) -> Table:
    """Return which benchmarks the gains come from, and gains over other arms than the baseline."""
    others = {"second_gain": summary["second"], "gain_over_none": NONE}
    shown = {
        key: arm
        for key, arm in others.items()
        if any(cell[key]["mean"] is not None for cell in summary["cells"])
    }
    rows = []
    for cell in summary["cells"]:
        gain, found = cell["gain"], [cell[key] for key in shown]
        if all(one["mean"] is None for one in (gain, *found)):
            continue
        without = gain["without"]
        rows.append(
            [
                *_names(cell, summary),
                *(Field(_part(gain["parts"].get(name))) for name in BENCHMARKS),
                _without(without) if without else Field("–"),
                *map(_gain, found),
                Field(" / ".join(map(_left_out, found))),
            ]
        )
    head = ["LLM", "stage 1", "arm", *BENCHMARKS.values(), "without one, %"]
    head += [f"over {title_of(arm)}, %" for arm in shown.values()]
    caption = (
        "How much of the mean relative gain comes from each benchmark (the parts add up to it), "
        "and the gain without the one benchmark, named, without which it is the least clear."
    )
    if shown:
        names = " and ".join(title_of(arm) for arm in shown.values())
        caption += (
            f" Over {names}: the gain with that as what is subtracted and as the level; what is "
            "left out there stands last."
        )
        head += ["left out there"]
    else:
        rows = [row[:-1] for row in rows]
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
                rows.append(
                    [
                        _arm(cell, summary),
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
                *_names(cell, summary),
                *(Field(_text(form[when])) for form in (document, conversation) for when in WHEN),
            ]
        )
    head = ["LLM", "stage 1", "arm", "before stage 2", "in its middle", "after"]
    head += ["as a conversation: before", "in its middle", "after"]
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
                *_names(cell, summary),
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


def _compared(summary: Mapping[str, Any]) -> list[Row]:
    """Return the cells that may have a gain over the baseline."""
    own = (summary["baseline"], NONE)
    return [cell for cell in summary["cells"] if cell["arm"] not in own]


def _names(cell: Row, summary: Mapping[str, Any]) -> list[Field]:
    return [Field(cell["llm"]), Field(str(cell["steps"])), _arm(cell, summary)]


def _arm(cell: Row, summary: Mapping[str, Any]) -> Field:
    """Return the arm's name, with the number of seeds where some are missing."""
    count, title = len(cell["seeds"]), title_of(cell["arm"])
    return Field(title if count == len(summary["seeds"]) else f"{title} (n={count})")


def _gain(gain: Row) -> Field:
    return Field(_text(gain, signed=True), _verdict(gain))


def _without(gain: Row) -> Field:
    return Field(f"{_text(gain, signed=True)} ({BENCHMARKS[gain['benchmark']]})", _verdict(gain))


def _part(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _score(found: Row) -> Field:
    return Field(_text(found), _verdict(found["difference"]))


def _loss(found: Row) -> Field:
    return Field(_text(found, digits=3), -_verdict(found["difference"]))


def _verdict(found: Row) -> int:
    mean, half = (math.nan if found[k] is None else found[k] for k in ("mean", "half"))
    return Estimate(mean, half, found["seeds"]).sign


def _text(found: Row, *, signed: bool = False, digits: int = 1, scale: float = 1.0) -> str:
    if found["mean"] is None:
        return "–"
    shown = f"{scale * found['mean']:{'+' if signed else ''}.{digits}f}"
    return shown if found["half"] is None else f"{shown} ± {scale * found['half']:.{digits}f}"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
