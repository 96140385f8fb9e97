"""What a report was made from, for the reader who wants to check or repeat it."""

from __future__ import annotations

import argparse

from llava_sea.report.folder import INITIAL_PROJECTOR, RunFolder
from llava_sea.report.pair import PLAIN, SEA, differences, kind_of
from llava_sea.report.words import Words


def kind_text(run: RunFolder, baseline: RunFolder | None) -> str:
    """Say what was trained, and for how long."""
    if baseline is None:
        kind = {SEA: "stage 1 with SEA", PLAIN: "stage 1, plain LLaVA"}.get(
            kind_of(run) or "", "stage 1"
        )
        return kind if run.step is None else f"{kind} · {run.step:,} steps"
    if run.step is None or run.step != baseline.step:
        return "stage 1"
    return f"stage 1 · {run.step:,} steps each"


def notes_of(run: RunFolder, baseline: RunFolder | None) -> tuple[str, ...]:
    """Say what is missing, and what makes two runs hard to compare."""
    if baseline is None:
        return run.notes
    # Of two runs the untrained projector is not shown, so nobody misses it.
    notes = [
        f"{one.name}: {note}"
        for one in (run, baseline)
        for note in one.notes
        if INITIAL_PROJECTOR not in note
    ]
    if run.step != baseline.step:
        steps = [f"{one.name} {one.step}" for one in (run, baseline) if one.step is not None]
        notes.append(f"The runs stand at different steps: {', '.join(steps)}.")
    if any(one.name == "data_sha256" for one in differences(run, baseline)):
        notes.append("The runs were trained on different data.")
    return tuple(notes)


def facts_of(
    run: RunFolder,
    baseline: RunFolder | None,
    args: argparse.Namespace,
    words: Words,
    num_entries: int,
    command: str,
) -> list[tuple[str, str]]:
    """Return names and values, as plain text.

    Args:
        run: the run's folder.
        baseline: the run beside it, if there is one.
        args: the flags of the command.
        words: the words that were used.
        num_entries: how many the list has.
        command: the command line.
    """
    listed = f"{args.words}: {len(words.words):,} of {num_entries:,} entries, the most frequent"
    if words.num_dropped:
        listed += f"; {words.num_dropped:,} that the tokenizer cannot write are left out"
    facts = [("Run", str(run.root))]
    if baseline is None:
        facts += [
            (f"Projector, {projector.label}", str(projector.path)) for projector in run.projectors
        ]
    else:
        facts.append(("Beside it", str(baseline.root)))
        facts += [("Projector", str(one.projectors[-1].path)) for one in (run, baseline)]
        facts += [
            (f"Differs: {one.name}", f"{_short(one.run)}, beside it {_short(one.baseline)}")
            for one in differences(run, baseline)
        ]
    facts += [
        ("Held-out records", str(args.data_path)),
        ("Words", listed),
        ("Truth", str(args.truth) if args.truth else "none given; words of the caption are marked"),
        ("Command", command),
    ]
    return facts


def _short(value: str) -> str:
    """Cut a checksum: what matters is that it is another."""
    return value[:12] + "…" if len(value) == 64 and value.isalnum() else value
