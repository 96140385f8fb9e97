"""The command that answers, and resumes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava_sea.errors import UserError
from llava_sea.eval import answer as command
from llava_sea.eval.answers import AnswerFile, fingerprint, model_id, read_answers
from llava_sea.eval.generation import Answerer


@pytest.fixture
def out(tmp_path) -> Path:
    """Where the answers go."""
    return tmp_path / "answers" / "tiny.jsonl"


@pytest.fixture
def flags(answerer, tiny, jsonl, out) -> list[str]:
    """A command line."""
    return [
        *("--model-path", str(answerer.folder), "--question-file", str(jsonl)),
        *("--image-folder", str(tiny.images), "--answers-file", str(out)),
        *("--max_new_tokens", "12", "--batch_size", "2", "--device", "cpu"),
    ]


@pytest.fixture
def answered(flags, out, monkeypatch) -> bytes:
    """What the command has written; from here on no model is loaded."""
    command.main(flags)
    monkeypatch.setattr("llava_sea.eval.answering.load_llava", None)
    return out.read_bytes()


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_that_cannot_be_written_name_their_file(questions, tmp_path, file_limit):
    file = AnswerFile(tmp_path / "answers.jsonl", questions, "x")
    file.append(file.path, [(questions[0], "yes")])
    file_limit(file.path.stat().st_size + 10)
    with pytest.raises(OSError, match="File too large") as caught:
        file.append(file.path, [(questions[1], "no")])
    assert caught.value.filename == str(file.path)


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_broken_image_is_named(flags, out, tmp_path, tiny, content):
    folder = tmp_path / "images"
    shutil.copytree(tiny.images, folder)
    (folder / "004.jpg").write_bytes(content)
    broken = [*flags, "--image-folder", str(folder), "--batch-size", "1"]
    with pytest.raises(UserError, match=r"jsonl:3: question 7: .*004.jpg: the image"):
        command.main(broken)
    shutil.copy(tiny.images / "004.jpg", folder)
    command.main(broken)
    assert len(rows(out)) == 6


def test_the_command(flags, out, jsonl_rows, expected, capsys):
    command.main(flags)
    found = rows(out)
    for name, told in (("prompt", "text"), ("question_id", "question_id")):
        assert [row[name] for row in found] == [row[told] for row in jsonl_rows]
    for row in found:
        assert row["text"] == expected[str(row["question_id"]), row["prompt"]]
        assert row["model_id"] == "tiny-llava"
    assert found[1] == found[5]
    assert len({row["answer_id"] for row in found}) == 5
    assert [a.text for a in read_answers(out)] == [row["text"] for row in found]
    said = capsys.readouterr()
    assert said.out == f"{out}: 6 answers, 5 of them asked for now\n"
    assert said.err.splitlines()[-1].startswith("questions: 5/5")
    assert {p.name for p in out.parent.iterdir()} == {"tiny.jsonl", "tiny.run.json"}


def test_resumes_after_a_cut_anywhere(flags, out, answered, monkeypatch):
    texts = {(str(row["question_id"]), row["prompt"]): row["text"] for row in rows(out)}
    asked: list = []

    class Known:
        """Answers as the model has, at once."""

        def answers(self, questions):
            asked.extend(questions)
            yield from ([(question, texts[question.key])] for question in questions)

    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("llava_sea.eval.answering.load_answerer", lambda *_: Known())
    # The last line repeats the second: the one before it is the last that was asked for.
    *_, line, repeat = answered.splitlines(keepends=True)
    end = len(answered) - len(repeat)
    for length in [*range(end - len(line), end - 3, 7), end - 2, end - 1, end]:
        out.write_bytes(answered[:length])
        asked.clear()
        command.main(flags)
        assert out.read_bytes() == answered
        complete = length >= end - 1  # the newline may be missing
        assert [question.question_id for question in asked] == ([] if complete else [9])


def test_a_finished_file_needs_no_model(flags, out, answered):
    before = out.stat()
    command.main(flags)
    assert out.stat().st_mtime_ns == before.st_mtime_ns


def test_shards_of_another_number_of_processes_are_resumed(flags, out, answered):
    lines = answered.splitlines(keepends=True)
    out.write_bytes(lines[2])
    out.with_name("tiny.shard-0-of-3.jsonl").write_bytes(lines[3] + lines[0])
    out.with_name("tiny.shard-2-of-3.jsonl").write_bytes(lines[1] + lines[4])
    command.main(flags)
    assert out.read_bytes() == answered
    assert not list(out.parent.glob("*shard*"))


def test_two_processes_share_the_questions(flags, out, fork):
    first, second = fork(command.main, flags)
    assert (first.process.exitcode, second.process.exitcode) == (0, 0), first.log.read_text()
    assert first.log.read_text().endswith("6 answers, 5 of them asked for now\n")
    assert second.log.read_text() == ""
    together = out.read_bytes()
    assert {p.name for p in out.parent.iterdir()} == {"tiny.jsonl", "tiny.run.json"}
    shutil.rmtree(out.parent)
    command.main(flags)
    assert out.read_bytes() == together


@pytest.mark.slow
@pytest.mark.deepspeed
def test_nodes_answer_as_one_process_does(flags, out, nodes):
    both = nodes("--module", "llava_sea.eval.answer", *flags)
    assert [node.process.wait(300) for node in both] == [0, 0], both[0].log.read_text()[-3000:]
    together = out.read_bytes()
    shutil.rmtree(out.parent)
    command.main(flags)
    assert out.read_bytes() == together


def test_an_error_of_the_first_process_is_said_once(flags, fork):
    first, second = fork(command.main, [*flags, "--image-folder", "nowhere"])
    assert (first.process.exitcode, second.process.exitcode) == (2, 2)
    said = first.log.read_text()
    assert "003.png: no such image" in said and "Traceback" not in said
    assert second.log.read_text() == ""


@pytest.mark.parametrize(
    "environment", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "many"}, {"WORLD_SIZE": "2", "RANK": "x"}]
)
def test_an_environment_that_is_no_launchers(flags, monkeypatch, environment):
    monkeypatch.delenv("RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="torchrun or deepspeed"):
        command.main(flags)


def test_llavas_chunks(flags, out, tmp_path):
    command.main(flags)
    parts = []
    for index in range(4):  # six questions in fours of two: the last part is empty
        part = tmp_path / f"4_{index}.jsonl"
        command.main([*flags, f"--answers-file={part}", "--num-chunks=4", f"--chunk-idx={index}"])
        parts.append(part.read_bytes())
    assert b"".join(parts) == out.read_bytes() and parts[3] == b""


@pytest.mark.parametrize(
    "more, message",
    [
        (["--temperature", "0.5"], "otherwise: --temperature 0.0 and now 0.5"),
        (["--conv-mode", "llama_2"], "otherwise: --conv-mode None and now llama_2"),
        (["--num-chunks", "2"], "otherwise: --num-chunks 1 and now 2"),
    ],
)
def test_answers_made_otherwise_are_refused(flags, out, answered, more, message):
    with pytest.raises(UserError, match=message):
        command.main([*flags, *more])
    assert out.read_bytes() == answered


def test_another_models_answers_are_refused(flags, tmp_path, answerer, answered):
    twin = tmp_path / answerer.folder.name  # the same name, trained further
    shutil.copytree(answerer.folder, twin)
    weights = next(twin.glob("*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="the checkpoint's contents"):
        command.main([*flags, "--model-path", str(twin)])
    shutil.copytree(answerer.folder, tmp_path / "other")
    with pytest.raises(UserError, match="the checkpoint's name tiny-llava and now other"):
        command.main([*flags, "--model-path", str(tmp_path / "other")])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"text": "Where?"}, r"tiny.jsonl:3: .*7, 'Which .* the question file does not ask"),
        ({"image": "008.jpg"}, "tiny.jsonl:3: .*7, which has another image"),
    ],
)
def test_answers_to_other_questions_are_refused(
    flags, out, jsonl, jsonl_rows, answered, fields, message
):
    changed = [*jsonl_rows[:2], jsonl_rows[2] | fields, *jsonl_rows[3:]]
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in changed))
    with pytest.raises(UserError, match=message):
        command.main(flags)
    assert out.read_bytes() == answered


def test_a_question_more_is_asked(flags, out, jsonl):
    command.main(flags)
    before = rows(out)
    with jsonl.open("a") as file:
        file.write(json.dumps({"question_id": 10, "text": "And?"}) + "\n")
    command.main(flags)
    assert rows(out)[:-1] == before
    assert rows(out)[-1]["prompt"] == "And?"


def test_files_that_cannot_be_resumed_are_refused(flags, out, answered):
    out.write_bytes(answered + b"{}\n")
    with pytest.raises(UserError, match=r"tiny.jsonl:7: not an answer"):
        command.main(flags)
    run = out.with_name("tiny.run.json")
    run.write_text("{}")
    with pytest.raises(UserError, match=r"tiny.run.json: does not say how tiny.jsonl was made"):
        command.main(flags)
    run.unlink()
    with pytest.raises(UserError, match=r"no tiny.run.json beside it says how"):
        command.main(flags)
    with pytest.raises(UserError, match=r"^--answers-file .* is a file, no folder"):
        command.main([*flags, "--answers-file", str(out / "below.jsonl")])


def test_of_two_runs_that_start_together_one_stops(tmp_path):
    file = AnswerFile(tmp_path / "new/a.jsonl", [], "m")
    twin = AnswerFile(file.path, [], "m")
    with (
        file.only_run({"conv_mode": "v1"}),  # nothing is answered yet
        pytest.raises(UserError, match="another process is writing into it"),
        twin.only_run({"conv_mode": "gemma"}),
    ):
        pass
    assert json.loads(file.run_file.read_text()) == {"conv_mode": "v1"}


def test_scienceqa_and_mmbench(flags, tmp_path, conversations, table):
    letter = [*flags, "--single-pred-prompt"]
    sqa, bench = tmp_path / "sqa.jsonl", tmp_path / "bench.jsonl"
    command.main([*letter, "--question-file", str(conversations), "--answers-file", str(sqa)])
    assert [row["prompt"][:7] for row in rows(sqa)] == ["<image>", "Which?\n"]
    options = ["--question-file", str(table), "--answers-file", str(bench), "--lang", "cn"]
    command.main([*letter, *options, "--image-folder", ""])
    found = rows(bench)
    assert [row["question_id"] for row in found] == [1, 1000001, 2]
    assert found[2]["option_char"] == ["A", "B"] and found[2]["options"] == ["yes", "no"]
    assert all(row["prompt"].endswith("请直接回答选项字母。") and row["text"] for row in found)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--num-chunks", "2", "--chunk-idx", "2"], "--chunk_idx 2: .* 0 to 1"),
        (["--conv-mode", "v7"], "--conv-mode 'v7': no such conversation template"),
        (["--device", "toaster"], "--device toaster: not on this machine"),
        (["--model-path", "./nowhere"], "nowhere"),
        (["--image-folder", ""], "question '003' has the image '003.png': give its folder"),
        (["--image-folder", "no"], r"003'.*; .*7: no/004.jpg: no such image .and 1 more"),
        (["--single-pred-prompt"], "--single-pred-prompt: .*Leave it out"),
    ],
)
def test_flags_that_cannot_be(flags, out, monkeypatch, more, message):
    monkeypatch.setattr("llava_sea.eval.answering.load_llava", None)
    with pytest.raises(UserError, match=message):
        command.main([*flags, *more])
    assert not out.exists()


def test_a_template_that_the_tokenizer_does_not_know(flags):
    with pytest.raises(UserError, match=r"has no <\|im_start\|>"):
        command.main([*flags, "--conv-mode", "qwen"])


def test_the_dtype_flag(flags, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        Answerer, "answers", lambda self, questions: seen.append(self.model.dtype) or iter([])
    )
    for name in ("auto", "bfloat16"):
        path = tmp_path / f"{name}.jsonl"
        with pytest.raises(UserError, match="5 answers are not there"):
            command.main([*flags, "--dtype", name, "--answers-file", str(path)])
    assert seen == [torch.float32, torch.bfloat16]


def test_help_does_not_load_torch():
    code = (
        "import sys\nfrom llava_sea.eval import answer\n"
        "try:\n    answer.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--answers-file" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "path, name",
    [
        ("liuhaotian/llava-v1.5-7b", "llava-v1.5-7b"),
        ("checkpoints/mini/", "mini"),
        ("checkpoints/mini/checkpoint-40", "mini_checkpoint-40"),
    ],
)
def test_the_models_name_is_llavas(path, name):
    assert model_id(path) == name


def test_the_fingerprint_samples_large_files(tmp_path, monkeypatch):
    for name, size in (("_WHOLE", 10), ("_STEP", 100), ("_SAMPLE", 10)):
        monkeypatch.setattr(f"llava_sea.eval.answers.{name}", size)
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(1000))
    zeros = fingerprint(tmp_path)
    differ = []
    for place in (0, 105, 150, 309, 310, 999):
        file.write_bytes(bytes(place) + b"x" + bytes(999 - place))
        if fingerprint(tmp_path) != zeros:
            differ.append(place)
    assert differ == [0, 105, 309, 999]
    file.write_bytes(bytes(1001))
    assert fingerprint(tmp_path) != zeros
