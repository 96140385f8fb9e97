"""All eight together: what perfect and empty answers score, the table, and the command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llava_sea.errors import UserError
from llava_sea.eval import __main__ as command
from llava_sea.eval.__main__ import parse
from llava_sea.eval.answers import read_answers
from llava_sea.eval.benchmarks import TASKS, select
from llava_sea.eval.evaluate import available_tasks, read_server_scores, results_folder, short_names
from llava_sea.eval.judge import LocalJudge
from llava_sea.eval.score import Submission
from playground.benchmarks.perfect import PERFECT

LOCAL = [
    "vqav2-val2014",
    "gqa-testdev_balanced",
    "vizwiz-val",
    "textvqa-val",
    "scienceqa-test",
    "pope-test",
    "mmbench-dev",
    "mmvet-test",
]


def finish(eight, task, rows, folder):
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return task.finish(eight, read_answers(path), folder, LocalJudge())


def perfect(eight, task):
    folder = Path(task.questions).parts[0]
    return PERFECT[folder](eight / folder)


def test_the_miniature_eight_are_eight(eight):
    complete, lines = available_tasks(select(None), eight)
    assert [task.name for task in complete] == LOCAL
    assert lines == []  # a split that is not there is no lack where another is


@pytest.mark.parametrize("task", [t for t in TASKS if t.name in LOCAL], ids=lambda t: t.name)
def test_perfect_and_empty_answers(eight, task, tmp_path):
    rows = perfect(eight, task)
    score = finish(eight, task, rows, tmp_path)
    assert (score.value, score.missing, score.benchmark) == (100.0, 0, task.benchmark)
    assert score.split.startswith(task.split.split("-")[0]) and score.questions >= 80
    empty = finish(eight, task, [row | {"text": ""} for row in rows], tmp_path)
    # An empty answer to POPE is read as yes, as in LLaVA: recall 100, precision 50.
    assert empty.value == pytest.approx(200 / 3 if task.benchmark == "pope" else 0.0)
    missing = finish(eight, task, rows[5:], tmp_path)
    assert missing.value < 100.0 and missing.missing >= 3
    assert score.comparable(missing)


def test_what_servers_score_is_written(eight, tmp_path):
    vqa, vizwiz = (t for t in TASKS if t.name in ("vqav2-test-dev2015", "vizwiz-test"))
    shutil.copytree(eight / "vqav2", tmp_path / "vqav2")
    (tmp_path / "vqav2/llava_vqav2_mscoco_val2014.jsonl").rename(
        tmp_path / "vqav2/llava_vqav2_mscoco_test2015.jsonl"
    )
    rows = PERFECT["vqav2"](eight / "vqav2")
    written = finish(tmp_path, vqa, rows, tmp_path)
    assert isinstance(written, Submission) and "eval.ai" in written.server
    assert len(json.loads(written.path.read_text())) == 240
    (tmp_path / "vizwiz").mkdir()
    shutil.copy(eight / "vizwiz/llava_val.jsonl", tmp_path / "vizwiz/llava_test.jsonl")
    written = finish(tmp_path, vizwiz, PERFECT["vizwiz"](eight / "vizwiz"), tmp_path)
    assert {"image", "answer"} == json.loads(written.path.read_text())[0].keys()


@pytest.mark.parametrize(
    "given, wanted",
    [
        (["--only", "pope", "a", "b"], "a b --data D --only pope"),
        (["a", "--only=pope", "b"], "a b --data D --only=pope"),
        (["a", "--judge", "local", "--output_dir", "o p"], "a --data D --judge local --output_dir"),
    ],
)
def test_checkpoints_stand_anywhere(given, wanted):
    shown = script(*given, BENCHMARKS="D", DRY_RUN="1")
    assert shown.returncode == 0 and wanted in shown.stdout
    assert "playground.benchmarks" not in shown.stdout


def test_the_script_says_what_it_takes():
    shown = script("--help")
    assert shown.returncode == 0
    assert "BENCHMARKS=" in shown.stdout and "--server_scores" in shown.stdout
    refused = script("a", NUM_GPUS="many")
    assert refused.returncode == 2 and "NUM_GPUS=many" in refused.stderr


def script(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = Path(__file__).parents[2] / "scripts/eval.sh"
    environment = os.environ | {"LLAVA_SEA_PYTHON": sys.executable} | variables
    return subprocess.run(
        ["bash", str(path), *arguments], env=environment, capture_output=True, text=True
    )


def test_names_and_folders(tmp_path, monkeypatch):
    assert short_names(["a/x", "b/y/"]) == ["x", "y"]
    assert short_names(["a/x", "b/x"]) == ["a/x", "b/x"]
    with pytest.raises(UserError, match="given twice"):
        short_names(["a/x", "a/x/"])
    assert results_folder(parse([str(tmp_path)]), str(tmp_path)) == tmp_path / "eval"
    with pytest.raises(UserError, match="--output_dir"):
        results_folder(parse(["org/model"]), "org/model")
    (tmp_path / "one/two/three").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "one/two/three")
    args = parse(["x", "--output-dir", "o"])
    folders = {"org/model": "org_model", ".": "two_three", "..": "one_two", "../x": "two_x"}
    for checkpoint, folder in folders.items():
        assert results_folder(args, checkpoint) == Path("o") / folder


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "broken JSON"),
        ("[1]", "must be"),
        ('{"other": {"gqa-testdev_balanced": 1}}', "none of the checkpoints"),
        ('{"x": {"gqa": 62.0}}', "no task 'gqa'"),
        ('{"x": {"vizwiz-test": 620}}', "no score of 0 to 100"),
        ('{"x": {"vizwiz-test": "50"}}', "no score of 0 to 100"),
    ],
)
def test_server_scores_that_are_wrong(tmp_path, content, message):
    path = tmp_path / "server.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_server_scores(path, ["x"])
    assert str(path) in str(caught.value)


def test_missing_files_are_named_and_the_others_run(eight, tmp_path):
    shutil.copytree(eight / "pope", tmp_path / "pope")
    shutil.copytree(eight / "gqa", tmp_path / "gqa")
    shutil.rmtree(tmp_path / "gqa/data/images")
    complete, lines = available_tasks(select(None), tmp_path)
    assert [task.name for task in complete] == ["pope-test"] and len(lines) == 7
    gqa = next(line for line in lines if line.startswith("GQA"))
    assert str(tmp_path / "gqa/data/images") in gqa and "questions.json" not in gqa
    assert "https://cs.stanford.edu" in gqa


def test_the_command(answerer, few, tmp_path, capsys, monkeypatch):
    for name in ("pope", "mm-vet"):
        shutil.copytree(few / name, tmp_path / "data" / name)
    other = tmp_path / "other"
    shutil.copytree(answerer.folder, other)
    server = tmp_path / "server.json"
    server.write_text(json.dumps({"other": {"vqav2-test-dev2015": 70.0}}))
    flags = [str(answerer.folder), str(other), "--data", str(tmp_path / "data"), "--device", "cpu"]
    flags += ["--output_dir", str(tmp_path / "out"), "--server-scores", str(server)]
    flags += ["--judge", "local", "--baseline", str(answerer.folder)]
    command.main(flags)
    shown = capsys.readouterr().out
    assert "GQA testdev_balanced is left out: no " in shown and "eval.zip" in shown
    assert "local word-match judge" in shown and "70.0" in shown and "mean gain" in shown
    scores = json.loads(next((tmp_path / "out").glob("*_other/scores.json")).read_text())
    assert scores.keys() == {"pope-test", "mmvet-test"}
    assert scores["pope-test"]["questions"] == 6 and scores["pope-test"]["missing"] == 0
    assert scores["mmvet-test"]["missing"] == 148
    ending = 'prompt: each question ends "Answer the question using a single word or phrase." ('
    assert f"POPE test: mean F1 of the splits, 6 questions. {ending}" in shown
    assert "Conversation templates: " in shown and scores["pope-test"]["template"] == "v1"
    # Once more: all is answered, and no model is loaded.
    monkeypatch.setattr("llava_sea.eval.evaluate.load_answerer", None)
    command.main([*flags, "--only", "pope"])
    assert "0 of them asked for now" in capsys.readouterr().out
    again = json.loads(next((tmp_path / "out").glob("*_other/scores.json")).read_text())
    assert again == scores  # what was not run now stays


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--only", "pop"], "no such benchmark or task"),
        (["--only", ","], "names nothing"),
        (["--baseline", "elsewhere"], "none of the checkpoints"),
        (["--judge_model", "gpt-4"], "needs both"),
        (["--judge", "local", "--judge_url", "http://x"], "two judges"),
        (["--data", "nowhere"], "none of the benchmarks is there"),
        (["--server_scores", "nowhere.json"], "No such file"),
    ],
)
def test_flags_that_cannot_be(answerer, flags, message):
    with pytest.raises(UserError, match=message):
        command.main([str(answerer.folder), *flags])


def test_a_wrong_checkpoint_is_told_before_missing_benchmarks(tmp_path):
    with pytest.raises(UserError, match="checkpoints/typo: no such folder; fix"):
        command.main(["checkpoints/typo", "--data", "nowhere"])
    stage1 = tmp_path / "stage1"
    stage1.mkdir()
    (stage1 / "mm_projector.bin").touch()
    (stage1 / "config.json").write_text('{"conversation_template": "plain", "mm_hidden_size": 8}')
    with pytest.raises(UserError, match="'plain', stage 1's"):
        command.main([str(stage1), "--data", "nowhere"])
