"""Write the report of a stage-1 run: one HTML file that needs nothing else.

``python -m llava_sea.report --run OUTPUT_DIR --data_path heldout.json --image_folder DIR
--words words.tsv``; works for a finished run, for any ``checkpoint-N`` in it, and for the output
folder of a plain LLaVA run. ``--baseline OTHER_DIR`` shows another run, plain LLaVA, beside it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_sea.errors import UserError, run_command
from llava_sea.files import check_folder, read_file, write_atomically
from llava_sea.ranges import check_ranges
from llava_sea.report.runs import RunFolder, open_run
from llava_sea.terminal import say


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m llava_sea.report",
        description="Write the report of a stage-1 run as one HTML file.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--run", required=True, help="output folder of a run, or a checkpoint-N in it")
    add("--baseline", help="another run, as plain LLaVA, to show beside it; or a checkpoint-N")
    add("--data_path", required=True, help="held-out records in LLaVA's layout")
    add("--image_folder", required=True, help='folder that the records\' "image" is relative to')
    add("--words", required=True, help="word list, words.tsv")
    add("--truth", help="JSON with the true words of every patch, where they are known")
    add("--projector", help="the projector shown as 'after' (default: the run's)")
    add("--num_images", type=int, default=6, help="images shown (default: 6)")
    points = "visual tokens of each projector, and words at most, in the t-SNE map; 0: no map"
    add("--map_points", type=int, default=800, help=f"{points} (default: %(default)s)")
    words = "most frequent words that the nearest is sought among (default: %(default)s)"
    add("--num_words", type=int, default=20_000, help=words)
    add("--output", help="the HTML file (default: report.html in the run's folder)")
    add("--png", action="store_true", help="write images, charts and maps as PNGs beside it too")
    add("--model_name_or_path", help="the language model, if the run's config has moved")
    add("--vision_tower", help="the vision tower, if the run's config has moved")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    weights = "of the weights (default: float32 on a CPU, bfloat16 on a GPU)"
    dtypes = ("auto", "float32", "bfloat16", "float16")
    add("--dtype", default="auto", choices=dtypes, help=weights)
    args = parser.parse_args(argv)
    check_ranges("report", args)
    return args


def main(argv: Sequence[str] | None = None) -> Path:
    """Write the report; return the HTML file."""
    args = parse_args(argv)
    run = open_run(args.run, args.projector)
    baseline = open_run(args.baseline, flag="--baseline") if args.baseline else None
    output = _output(args.output, run)

    # Torch and transformers are loaded only when the folders are there.
    from llava_sea.report.make import make_report
    from llava_sea.report.page import pngs, render

    command = shlex.join(["python", "-m", "llava_sea.report", *(argv or sys.argv[1:])])
    report = make_report(run, baseline, args, command)
    files = {output: render(report).encode()}
    drawn = pngs(report) if args.png else {}
    files |= {output.with_name(f"{output.stem}_{name}.png"): png for name, png in drawn.items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        write_atomically(path, data)
    say(f"report: {output}" + (f" (and {len(drawn)} PNG files beside it)" if drawn else ""))
    return output


def _output(requested: str | None, run: RunFolder) -> Path:
    output = Path(requested) if requested else run.root / run.report_name()
    if output.is_dir():
        raise UserError(f"--output {output}: is a folder; name the HTML file")
    check_folder(output.parent, "--output")
    if output.is_file() and b'<p class="kicker">' not in read_file(output):
        raise UserError(
            f"--output {output}: holds something else than a report. Nothing was changed; choose "
            "another name"
        )
    if (output.parent / "checksums.json").is_file():
        raise UserError(
            f"--output {output}: a checkpoint with a file more is refused when it is resumed from; "
            "write the report elsewhere"
        )
    return output


if __name__ == "__main__":
    run_command(main)
