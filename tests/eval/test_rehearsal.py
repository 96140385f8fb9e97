"""What the command refuses before a model is loaded, and what a failing task leaves alone."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from llava_sea.errors import UserError
from llava_sea.eval import __main__ as command
from llava_sea.eval import answering
from llava_sea.eval.__main__ import parse
from llava_sea.eval.answers import fingerprint
from llava_sea.eval.evaluate import results_folder

BOM = b"\xef\xbb\xbf"
POPE = "pope/llava_pope_test.jsonl"
GQA = "gqa/llava_gqa_testdev_balanced.jsonl"
VQA = "vqav2/v2_mscoco_val2014_annotations.json"
PIDS, PROBLEMS = "scienceqa/pid_splits.json", "scienceqa/problems.json"
LABELS = "pope/coco/coco_pope_random.json"


@pytest.fixture
def data(few, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(few, tmp_path / "data"))


@pytest.fixture
def start(answerer, data, tmp_path):
    """Start the command."""

    def run(*flags: object, checkpoint: object = answerer.folder) -> None:
        places = ["--data", data, "--output_dir", tmp_path / "out", "--device", "cpu"]
        command.main([str(each) for each in (checkpoint, *places, *flags)])

    return run


@pytest.fixture
def no_model(monkeypatch):
    """Whatever is refused is refused before a model is loaded."""
    monkeypatch.setattr("llava_sea.eval.evaluate.load_answerer", None)


def change_row(path: Path, number: int, **fields: object) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[number] |= fields
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def answer_true(problems: dict) -> None:
    for problem in problems.values():
        problem["answer"] = True


def list_a_type(content: dict) -> None:
    content["annotations"][3]["answer_type"] = ["other"]


@pytest.mark.parametrize(
    "only, breaks, message",
    [
        ("pope", lambda d: change_row(d / POPE, 2, image=None), 'llava_pope.*:3:.*no "image"'),
        ("gqa", lambda d: change_row(d / GQA, 1, image=None), 'llava_gqa.*:2:.*no "image"'),
        ("pope", lambda d: change_row(d / POPE, 1, category="x"), "category 'x' is none of"),
        ("pope", lambda d: change_row(d / LABELS, 4, text=None), "coco_pope_random.json:5"),
        ("pope", lambda d: (d / LABELS).write_text(""), "has no label for"),
        ("pope", lambda d: change_row(d / POPE, 1, image="no.jpg"), "no such image"),
        ("scienceqa", lambda d: (d / PIDS).write_text('{"test": 5}'), "no list of ids"),
        ("scienceqa", lambda d: change_json(d / PROBLEMS, answer_true), "True"),
        ("vqav2", lambda d: change_json(d / VQA, list_a_type), "annotation 4: "),
        ("vqav2", lambda d: (d / VQA).write_text('{"annotations": []}'), "no questions"),
    ],
)
def test_files_that_are_wrong_are_found_first(start, data, no_model, only, breaks, message):
    breaks(data)
    with pytest.raises(UserError, match=message):
        start("--only", only)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"text": "What else?"}, "has '.*' more than once"),
        ({"image": "other.jpg"}, "has the id and text of .*:1 and another image"),
    ],
)
def test_ids_that_repeat_are_found_first(start, data, no_model, changes, message):
    path = data / "mm-vet/llava-mm-vet.jsonl"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows, json.dumps(json.loads(rows[0]) | changes)]))
    with pytest.raises(UserError, match=message):
        start("--only", "mmvet")


def test_a_folder_of_something_else_is_left_as_it_is(start, answerer, tmp_path, no_model):
    folder = results_folder(Namespace(output_dir=str(tmp_path / "out")), str(answerer.folder))
    folder.mkdir(parents=True)
    (folder / "vizwiz_test.json").write_text("mine")
    with pytest.raises(UserError, match=r"holds other things \(vizwiz_test\.json\)"):
        start("--only", "vizwiz")
    assert (folder / "vizwiz_test.json").read_text() == "mine"


@pytest.fixture
def adapter(answerer, tmp_path) -> Namespace:
    """Flags that name an adapter, and the base that it records."""
    base = Path(shutil.copytree(answerer.folder, tmp_path / "base"))
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    flags = {"model_path": str(folder), "model_base": None, "cache_dir": None, "conv_mode": None}
    return Namespace(**flags, base=base, folder=folder)


def test_a_base_that_changed_is_noticed(adapter):
    before = answering.checkpoint_fingerprint(adapter)
    (adapter.base / "tokenizer_before").mkdir()  # a folder in it is no part of it
    assert before.startswith(fingerprint(adapter.folder))
    adapter.model_base = str(adapter.base)
    assert answering.checkpoint_fingerprint(adapter) == before
    change_json(adapter.base / "config.json", lambda config: config.update(text_config={}))
    for base in (str(adapter.base), None):
        adapter.model_base = base
        assert answering.checkpoint_fingerprint(adapter) != before


def test_the_templates_name_needs_no_model(adapter):
    assert answering.template_name(adapter) == "v1"  # its base's
    (adapter.folder / "config.json").write_text('{"conversation_template": "gemma"}')
    assert answering.template_name(adapter) == "gemma"
    adapter.conv_mode = "phi3"
    assert answering.template_name(adapter) == "phi3"


def test_byte_order_marks_do_not_matter(start, data, tmp_path, capsys):
    only = ("--only", "vqav2,gqa,vizwiz,textvqa,pope")
    start(*only)
    scores = next((tmp_path / "out").glob("*/scores.json"))
    without = json.loads(scores.read_text())
    for path in [*data.glob("*/*.jsonl"), *data.glob("*/*.json"), *data.glob("gqa/data/*.json")]:
        path.write_bytes(BOM + path.read_bytes())
    server = tmp_path / "server.json"
    server.write_bytes(BOM + b"{}")
    start(*only, "--server_scores", server)
    assert capsys.readouterr().out.count(" 0 of them asked for now") == 5
    assert json.loads(scores.read_text()) == without and len(without) == 5


@pytest.mark.parametrize("content", ["{", "[]"])
def test_another_scores_json_is_left_alone(start, answerer, tmp_path, no_model, content):
    folder = results_folder(parse(["x", "--output_dir", str(tmp_path / "out")]), answerer.folder)
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(content)
    with pytest.raises(UserError, match=r"scores.json: .* no scores.json of this command"):
        start("--only", "pope")
    assert (folder / "scores.json").read_text() == content


def test_places_are_looked_at_first(start, answerer, data, tmp_path, no_model):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match=r"--output_dir .* is a file"):
            start("--only", "pope", "--output_dir", place)
    with pytest.raises(UserError, match=r"CHECKPOINT .*: no such folder"):
        start("--only", "pope", checkpoint=tmp_path / "typo")
    shutil.copytree(answerer.folder, tmp_path / "a_b/c")
    shutil.copytree(answerer.folder, tmp_path / "a/b_c")
    with pytest.raises(UserError, match=r"would both have their results in .*a_b_c"):
        places = ["--data", str(data), "--output_dir", str(tmp_path / "out")]
        command.main([str(tmp_path / "a/b_c"), str(tmp_path / "a_b/c"), *places])


def test_a_template_that_asks_nothing_is_refused(start, answerer, tmp_path, no_model):
    with pytest.raises(UserError, match="'plain', stage 1's"):
        start("--only", "pope", "--conv_mode", "plain")
    stage1 = Path(shutil.copytree(answerer.folder, tmp_path / "stage1"))
    change_json(stage1 / "config.json", lambda c: c.update(conversation_template="plain"))
    with pytest.raises(UserError, match=r"stage1: .*--conv-mode"):
        start("--only", "pope", checkpoint=stage1)


def test_a_judge_that_is_away_keeps_no_other_score(start, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llava_sea.eval.judge.OpenAIJudge.grade", refuse)
    judge = ["--judge_url", "http://127.0.0.1:9", "--judge_model", "m"]
    with pytest.raises(UserError, match=r"not scored: MM-Vet test, .*away"):
        start("--only", "mmvet,pope", *judge)
    assert "│ POPE" in capsys.readouterr().out
    scores = json.loads(next((tmp_path / "out").glob("*/scores.json")).read_text())
    assert scores.keys() == {"pope-test"}


def refuse(judge, case):
    raise UserError("away")


def break_image(data: Path) -> Path:
    """Cut the image of POPE's second question short; return the file."""
    row = json.loads((data / POPE).read_text().splitlines()[1])
    path = data / "pope/val2014" / row["image"]
    path.write_bytes(path.read_bytes()[:50])
    return path


def test_a_task_that_cannot_be_answered_keeps_no_other_score(start, data, tmp_path, capsys):
    path = break_image(data)
    with pytest.raises(UserError, match=rf"not scored: POPE test, .*{path.name}"):
        start("--only", "pope,mmvet", "--judge", "local")
    assert "│ MM-Vet" in capsys.readouterr().out
    scores = json.loads(next((tmp_path / "out").glob("*/scores.json")).read_text())
    assert scores.keys() == {"mmvet-test"}


def test_two_processes_agree_that_a_task_failed(answerer, data, tmp_path, fork):
    path = break_image(data)  # the second process's
    places = ["--data", str(data), "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    flags = [str(answerer.folder), *places, "--only", "pope,mmvet", "--judge", "local"]
    first, second = fork(command.main, flags)
    said = first.log.read_text()
    assert (first.process.exitcode, second.process.exitcode) == (2, 0), said
    assert "not scored: POPE test" in said and path.name in said and "│ MM-Vet" in said
    assert "error" not in second.log.read_text()


def test_a_checkpoint_that_cannot_be_loaded_keeps_no_table(start, monkeypatch, capsys):
    tries = []

    def cannot(flags, device):
        tries.append(flags)
        raise UserError("no weights")

    monkeypatch.setattr("llava_sea.eval.evaluate.load_answerer", cannot)
    with pytest.raises(UserError, match=r"POPE test, MM-Vet test, .*: no weights"):
        start("--only", "pope,mmvet")
    assert len(tries) == 1 and "answers and scores are in" in capsys.readouterr().out


def test_a_file_that_is_wrong_names_the_way_to_the_others(start, data, no_model):
    (data / LABELS).write_text("")
    with pytest.raises(UserError, match=r"label for .*: --only gqa-testdev_balanced,mmvet-test\)"):
        start("--only", "gqa,pope,mmvet")
    with pytest.raises(UserError) as caught:
        start("--only", "pope")
    assert "--only" not in str(caught.value)


def test_no_server_score_is_dropped(start, answerer, data, tmp_path, capsys):
    server = tmp_path / "server.json"
    values = {"mmbench-test": 64.25, "vqav2-test-dev2015": 78.5, "pope-test": 99.5}
    server.write_text(json.dumps({answerer.folder.name: values}))
    start("--only", "pope,gqa", "--server_scores", server)
    shown = capsys.readouterr().out
    assert all(number in shown for number in ("64.2", "78.5", "99.5"))
    assert "pope-test: the table has the server's 99.5; the score made here" in shown
    shutil.rmtree(data / "gqa")
    start("--only", "pope,gqa")
    below = capsys.readouterr().out.partition("│ POPE")[2]
    assert "GQA testdev_balanced is left out" in below


def test_two_different_answers_are_refused(start, tmp_path):
    start("--only", "pope")
    path = next((tmp_path / "out").glob("*/pope-test.jsonl"))
    whole = path.read_text()
    row = json.loads(whole.splitlines()[0])
    path.write_text(whole + json.dumps(row) + "\n")
    start("--only", "pope")  # the same once more is no trouble
    assert path.read_text() == whole
    path.write_text(whole + json.dumps(row | {"text": "another"}) + "\n")
    with pytest.raises(UserError, match=r"jsonl:\d+: a second answer to question"):
        start("--only", "pope")
