"""The README's commands in full, each into a folder of its own, as on a fresh clone."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llava_sea.errors import UserError
from playground import smollm2

REPOSITORY = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_script(name: str, folder: Path, *flags: str, **changes: str) -> str:
    """Run a script into `folder` and return its output; nothing of it is left behind."""
    process = subprocess.Popen(
        ["bash", str(REPOSITORY / "scripts" / name), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=folder,
        start_new_session=True,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "OUTPUT_DIR": str(folder / "run"),
            "WORDS": str(folder / "words.tsv"),
            "LABELS": str(folder / "labels"),
            "MASTER_PORT": str(free_port()),
            **changes,
        },
    )
    try:
        output, _ = process.communicate()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-6000:]
    return output


def check_trace(name: str, run: Path) -> None:
    """Compare a run's first 20 steps with the committed ones: no change moves a loss."""
    trace = json.loads((REPOSITORY / "tests" / "traces" / "mini.json").read_text())[name]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [{key: row.get(key) for key in then} for then, row in zip(trace, rows, strict=False)]
    assert len(found) == len(trace) >= 20
    for now, then in zip(found, trace, strict=True):
        assert now == pytest.approx(then, rel=1e-5), (name, then["step"])


@pytest.mark.slow
@pytest.mark.deepspeed
@pytest.mark.parametrize("name", ["pretrain_sea.sh", "pretrain.sh"])
def test_a_command_without_arguments_ends_with_a_report(name, tmp_path):
    output = run_script(name, tmp_path)
    pages = list((tmp_path / "run").rglob("*.html"))
    assert pages, output[-6000:]
    # One file, complete and self-contained: images are inside, nothing is fetched.
    page = pages[0].read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    assert "data:image/" in page
    assert not re.search(r"""(?:src|href)=["']https?://[^"']+\.(?:js|css|png|jpe?g)""", page)
    assert str(pages[0]) in output or pages[0].name in output
    assert (tmp_path / "run" / "mm_projector.bin").is_file()
    check_trace(name, tmp_path / "run")
    assert (tmp_path / "labels" / "manifest.json").exists() == (name == "pretrain_sea.sh")
    if name == "pretrain_sea.sh":
        check_warm_start(tmp_path / "run-warm-start", tmp_path / "run")
        tune_and_ask(tmp_path)


def check_warm_start(warm: Path, run: Path) -> None:
    """Stage 1 goes on where the warm start, as long as it, ended."""
    check_trace("warm start", warm)
    logs = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (warm, run)]
    alone, after = ([row for row in map(json.loads, log) if "sea_loss" in row] for log in logs)
    assert len(alone) == len(after) and after[0]["sea_loss"] < alone[0]["sea_loss"] - 0.5
    assert after[0]["temperature"] == pytest.approx(alone[-1]["temperature"], rel=2e-3)
    untrained = [(folder / "mm_projector_initial.bin").read_bytes() for folder in (warm, run)]
    assert untrained[0] == untrained[1]


@pytest.mark.slow
@pytest.mark.deepspeed
def test_a_real_llm_learns_in_the_miniature_world(tmp_path):
    try:
        smollm2.make()
    except UserError as error:
        pytest.skip(str(error)[:200])
    flags = ("--max_steps", "2", "--per_device_train_batch_size", "2", "--sea_eval_samples", "4")
    output = run_script("pretrain_sea.sh", tmp_path, *flags, LLM_SIZE="smollm2", EVAL_STEPS="2")
    rows = [
        json.loads(line)
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().split("\n")
        if line
    ]
    losses = [row["lm_loss"] for row in rows if "lm_loss" in row]
    assert len(losses) == 2 and 3 < losses[0] < 8, "a real LLM knows English, not the image"
    assert (tmp_path / "run" / "mm_projector.bin").is_file() and "report.html" in output


def tune_and_ask(tmp_path: Path) -> None:
    """Stage 2 from that projector, then questions about images that no training has seen."""
    tuned = tmp_path / "tuned"
    projector = str(tmp_path / "run" / "mm_projector.bin")
    run_script("finetune.sh", tmp_path, PROJECTOR=projector, OUTPUT_DIR=str(tuned))
    check_trace("finetune.sh", tuned)
    data = REPOSITORY / "playground" / "data" / "mini"
    records = json.loads((data / "heldout_questions.json").read_text())
    easy = [r for r in records if r["kind"] in ("background", "existence of a colour")][:40]
    asked = []
    for record in easy:
        question, answer = (turn["value"] for turn in record["conversations"])
        question = question.replace("<image>", "").strip()
        asked.append((data / "images" / record["image"], question, answer))
    known = next(n for n, record in enumerate(easy) if record["kind"] == "background")
    assert ask(tuned, *asked[known][:2]) == asked[known][2]
    right = sum(chat_answer(tuned, *about) == answer for *about, answer in asked)
    evaluate(tuned, tmp_path)
    assert right >= 0.7 * len(easy)


def evaluate(tuned: Path, tmp_path: Path) -> None:
    """All eight, in small, with the table."""
    command = [sys.executable, "-m", "playground.benchmarks", "--out", str(tmp_path / "eval")]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    result = subprocess.run(
        ["bash", "scripts/eval.sh", str(tuned), "--judge", "local"],
        cwd=REPOSITORY,
        env={**os.environ, "BENCHMARKS": str(tmp_path / "eval")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    scores = json.loads((tuned / "eval" / "scores.json").read_text())
    assert len(scores) == 8 and all(score["missing"] == 0 for score in scores.values())
    assert scores["vqav2-val2014"]["value"] > 40 and scores["mmvet-test"]["value"] > 30
    printed = result.stdout.lower().replace("-", "")
    assert all(score["benchmark"] in printed for score in scores.values())


def ask(model: Path, image: Path, question: str) -> str:
    """Put a question to the command, through a pipe."""
    command = [sys.executable, "-m", "llava_sea.serve.cli", "--model-path", str(model)]
    command += ["--image-file", str(image), "--temperature", "0"]
    result = subprocess.run(
        command, input=question + "\n", cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def chat_answer(model: Path, image: Path, question: str) -> str:
    """The same within this process: loading torch forty times would take minutes."""
    from llava_sea.serve import cli
    from llava_sea.serve.image import open_image
    from llava_sea.serve.setup import start_chat

    flags = ["--model-path", str(model), "--image-file", str(image), "--temperature", "0"]
    return start_chat(cli.parse(flags), open_image(str(image))).ask(question)


@pytest.mark.slow
def test_the_shipped_models_reach_their_bars():
    """Bars that the model cards own up to missing may be missed; no other may."""
    command = [sys.executable, "-m", "playground.evaluate"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    cards = "".join(
        line
        for path in (REPOSITORY / "playground" / "models").glob("*/README.md")
        for line in path.read_text().splitlines()
        if line.startswith("Bars that are missed:")
    )
    missed = [
        line.split("MISSED")[1].strip() for line in result.stdout.splitlines() if "MISSED" in line
    ]
    assert all(name in cards for name in missed), missed
    assert re.search(r"\d+ of \d+ bars reached", result.stdout)
