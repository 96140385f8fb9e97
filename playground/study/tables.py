"""The study in Markdown: for every measure a table of LLM and length against arm.

A cell is the mean over seeds and half the width of its 95 % interval. It is **bold** where the arm
is better than plain LLaVA and *slanted* where it is worse, judged by the 95 % interval of the
differences paired by seed; "n=3" marks a cell with fewer seeds than were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from playground.study.arms import ARMS
from playground.study.results import BASELINE, LEVELS, MEASURES, Measure, difference_of

Row = Mapping[str, Any]
CellText = Callable[[Row], str]


def write_report(results: Mapping[str, Any]) -> str:
    """Return the whole report: the summary, then differences, kinds of questions, labels."""
    parts = [
        "# Plain LLaVA and SEA after stage 1, on the miniature world",
        write_summary(results).rstrip(),
        "![The same over the steps](study.png)",
        "## Differences to plain LLaVA, paired by seed",
    ]
    for measure in MEASURES:
        parts += [f"{measure.title}:", difference_table(results, measure)]
    parts += ["## Zero-shot answers by kind of question", kinds_table(results)]
    parts += ["## Labels", label_table(results)]
    return "\n\n".join(parts) + "\n"


def write_summary(results: Mapping[str, Any]) -> str:
    """Return what a README needs: each measure's table, and the steps to plain LLaVA's level."""
    recipe = results["recipe"]
    parts = [
        f"Stage 1 of {_listed(results['lengths'])} steps of {recipe['batch']} pictures, each with "
        "its own schedule; scenes that no training picture shows. Mean ± half the 95 % t-interval "
        f"over {results['seeds']} seeds. **Bold**: better than plain LLaVA, *slanted*: worse, by "
        "the interval of the differences paired by seed (same start, same order of the data).",
        missing_note(results),
    ]
    for measure in MEASURES:
        unit = ", %" if measure.percent else ""
        parts += [f"{measure.title}{unit}:", measure_table(results, measure)]
    for key in LEVELS:
        measure = next(m for m in MEASURES if m.key == key)
        parts += [
            f"Steps until an arm is, for good, where plain LLaVA of the same seed ends: "
            f"{measure.short} (curves on held-out scenes, not smoothed, joined by lines between "
            "their points; where not every seed gets there the mean is over those that do):",
            steps_table(results, key),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _listed(values: Sequence[int]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last


def missing_note(results: Mapping[str, Any]) -> str:
    """Say which runs are not there; nothing if all are."""
    missing: Sequence[str] = results["missing"]
    if not missing:
        return ""
    names = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
    return (
        f"**Not finished: {len(missing)} of {results['runs']} runs are missing** ({names}). Cells "
        "with fewer seeds say how many they have."
    )


def measure_table(results: Mapping[str, Any], measure: Measure) -> str:
    """Return a measure's table."""

    def text(row: Row) -> str:
        found = row["final"][measure.key]
        shown = _with_interval(found["mean"], found["half"], measure.percent)
        return _marked(shown, found, measure.better) + _seeds_note(results, len(row["seeds"]))

    return grid_table(results, text)


def difference_table(results: Mapping[str, Any], measure: Measure) -> str:
    """Return the table of the differences to plain LLaVA."""

    def text(row: Row) -> str:
        if row["arm"] == BASELINE:
            return "0"
        found = row["final"][measure.key]
        mean, half, count = found["difference"]
        if mean is None:
            return "–"
        shown = _with_interval(mean, half, measure.percent, signed=True)
        return _marked(shown, found, measure.better) + _seeds_note(results, count)

    return grid_table(results, text)


def steps_table(results: Mapping[str, Any], key: str) -> str:
    """Return how many steps each arm needs to reach plain LLaVA's last level."""

    def text(row: Row) -> str:
        found = row["steps_to_plain"][key]
        if not found["of"]:
            return "–"
        if not found["reached"]:
            return f"not reached (0 of {found['of']})"
        half = "" if found["half"] is None else f" ± {found['half']:.0f}"
        partly = found["reached"] < found["of"]
        return f"{found['mean']:.0f}{half}" + (
            f" ({found['reached']} of {found['of']})" if partly else ""
        )

    return grid_table(results, text)


def kinds_table(results: Mapping[str, Any]) -> str:
    """Return the answers by kind of question for the longest stage 1."""
    longest = max(results["lengths"])
    rows = [row for row in results["cells"] if row["steps"] == longest]
    arms = [arm for arm in results["arms"] if any(row["arm"] == arm for row in rows)]
    lines = [f"After {longest} steps.", "", *_head(["LLM", "question", *map(_title, arms)])]
    for llm in results["llms"]:
        by_arm = {row["arm"]: row for row in rows if row["llm"] == llm}
        kinds = next(iter(by_arm.values()))["answers"] if by_arm else ()
        for kind in kinds:
            texts = []
            for arm in arms:
                found = by_arm[arm]["answers"][kind] if arm in by_arm else None
                texts.append(
                    _marked(_with_interval(found["mean"], found["half"], True), found, +1)
                    if found
                    else "–"
                )
            lines.append(_line([llm, kind, *texts]))
    return "\n".join(lines)


def label_table(results: Mapping[str, Any]) -> str:
    """Return how often a drawn label is true of its patch, and the temperatures that came out."""
    lines = [
        "How often a label that is drawn in training (eq. 9) is true of its patch; the temperature "
        "at the end of the longest runs, a mean over seeds for each LLM.",
        "",
        *_head(["arm", "all patches", "object patches", "tau"]),
    ]
    longest = max(results["lengths"])
    for arm, shares in results["label_precision"].items():
        if shares is None or arm not in results["arms"]:
            continue
        taus = [
            f"{row['temperature']:.2f}"
            for row in results["cells"]
            if row["arm"] == arm and row["steps"] == longest and row["temperature"] is not None
        ]
        lines.append(
            _line([_title(arm), *(f"{100 * s:.1f} %" for s in shares), ", ".join(taus) or "–"])
        )
    return "\n".join(lines)


def grid_table(results: Mapping[str, Any], text: CellText) -> str:
    """Return a table with a row for each LLM and length and a column for each arm."""
    by_cell = {(row["llm"], row["steps"], row["arm"]): row for row in results["cells"]}
    lines = _head(["LLM", "steps", *map(_title, results["arms"])])
    for llm in results["llms"]:
        for steps in results["lengths"]:
            rows = [by_cell.get((llm, steps, arm)) for arm in results["arms"]]
            texts = [text(row) if row else "missing" for row in rows]
            lines.append(_line([llm, str(steps), *texts]))
    return "\n".join(lines)


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), _line(["---"] * len(titles))]


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _title(arm: str) -> str:
    return ARMS[arm].title


def _with_interval(mean: float, half: float | None, percent: bool, *, signed: bool = False) -> str:
    scale, digits = (100.0, 1) if percent else (1.0, 3)
    sign = "+" if signed else ""
    shown = f"{scale * mean:{sign}.{digits}f}"
    return shown if half is None else f"{shown} ± {scale * half:.{digits}f}"


def _marked(text: str, found: Mapping[str, Any], better: int) -> str:
    verdict = difference_of(found).sign * better
    return f"**{text}**" if verdict > 0 else f"*{text}*" if verdict < 0 else text


def _seeds_note(results: Mapping[str, Any], count: int) -> str:
    return f" (n={count})" if count < results["seeds"] else ""
