"""Answers in batches, and the command that resumes."""

from __future__ import annotations

import copy
import dataclasses
import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava_sea.data.records import Turn
from llava_sea.data.tokenize import tokenize_prompt
from llava_sea.errors import UserError
from llava_sea.eval import answer as command
from llava_sea.eval.answering import to_bfloat16
from llava_sea.eval.answers import AnswerFile, fingerprint, model_id, read_answers
from llava_sea.eval.generation import Answerer, Decoding, plan_batches
from llava_sea.eval.questions import distinct, read_questions

NEW = 12


@pytest.fixture
def flags(answerer, tiny, jsonl, tmp_path) -> list[str]:
    """A command line; its answers go to ``answers/tiny.jsonl``."""
    return [
        *("--model-path", str(answerer.folder), "--question-file", str(jsonl)),
        *("--image-folder", str(tiny.images), "--answers-file", str(out(tmp_path))),
        *("--max_new_tokens", str(NEW), "--batch_size", "2", "--device", "cpu"),
    ]


def out(tmp_path: Path) -> Path:
    return tmp_path / "answers" / "tiny.jsonl"


def test_answers_that_cannot_be_written_name_their_file(jsonl, tmp_path, file_limit):
    questions = read_questions(jsonl)
    file = AnswerFile(tmp_path / "answers.jsonl", questions, "x")
    file.append(file.path, [(questions[0], "yes")])
    file_limit(file.path.stat().st_size + 10)
    with pytest.raises(OSError, match="File too large") as caught:
        file.append(file.path, [(questions[1], "no")])
    assert caught.value.filename == str(file.path)


def test_answers_below_a_file_are_refused(jsonl, tmp_path):
    (tmp_path / "file").touch()
    file = AnswerFile(tmp_path / "file" / "x.jsonl", read_questions(jsonl), "x")
    message = "^--answers-file .* is a file, no folder"
    with pytest.raises(UserError, match=message), file.only_run({}):
        pass


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def make(answerer, tiny, batch_size: int, new_tokens: int = NEW, **options) -> Answerer:
    return Answerer(
        answerer.model,
        answerer.tokenizer,
        answerer.transform,
        answerer.template,
        tiny.images,
        Decoding(new_tokens, **options),
        batch_size,
    )


def ask(answerer: Answerer, questions) -> dict:
    return {q.key: text for batch in answerer.answers(questions) for q, text in batch}


@torch.no_grad()
def by_hand(answerer, question, pixels) -> str:
    """The likeliest token each time, from the whole sequence."""
    turns = [Turn("human", question.first_turn)]
    ids, mask = tokenize_prompt(turns, answerer.template, answerer.tokenizer, 16)
    model = answerer.model
    embeds = model.get_input_embeddings()(torch.tensor([ids]))
    if pixels is not None:
        visual = torch.stack(list(model.get_image_features(pixels[None]).pooler_output))
        embeds = embeds.masked_scatter(torch.tensor([mask])[..., None], visual)
    new: list[int] = []
    while len(new) < NEW and new[-1:] != [2]:
        hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
        new.append(int(model.lm_head(hidden[:, -1]).argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([new[-1:]]))], 1)
    return answerer.tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.fixture
def expected(answerer, tiny, jsonl) -> dict:
    """The answers to the file's questions, one at a time by hand."""
    from PIL import Image

    found = {}
    for question in distinct(read_questions(jsonl)).values():
        image = question.image and Image.open(tiny.images / question.image).convert("RGB")
        pixels = answerer.transform(image) if image else None
        found[question.key] = by_hand(answerer, question, pixels)
    assert len(set(found.values())) == len(found), "all different, or the tests show little"
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_answers_do_not_depend_on_the_batch(answerer, tiny, jsonl, expected, batch_size):
    questions = list(distinct(read_questions(jsonl)).values())
    assert ask(make(answerer, tiny, batch_size), questions) == expected


def test_nor_near_the_contexts_end(answerer, tiny, jsonl):
    # 512 tokens of context: the long prompt leaves less room than the others want.
    questions = list(distinct(read_questions(jsonl)).values())
    long = dataclasses.replace(questions[4], text=questions[4].text * 8, prompt="long")
    alone = ask(make(answerer, tiny, 1, new_tokens=60), [*questions, long])
    assert ask(make(answerer, tiny, 6, new_tokens=60), [*questions, long]) == alone


def test_sampling_repeats(answerer, tiny, jsonl, expected):
    questions = list(distinct(read_questions(jsonl)).values())
    first, again = (ask(make(answerer, tiny, 2, temperature=1.5), questions) for _ in range(2))
    assert first == again != expected


def test_which_prompts_go_together():
    assert list(plan_batches([3, 9, 5, 9, 4], 2, roomy=100)) == [[1, 3], [2, 4], [0]]
    # prompts above 4 tokens are cut short by the context's end: only equals beside them
    assert list(plan_batches([3, 9, 5, 9, 4], 3, roomy=4)) == [[1, 3], [2], [4, 0]]
    assert list(plan_batches([], 3, roomy=4)) == []
    # lengths are sorted within 32 batches
    assert list(plan_batches([*[1] * 32, 2], 1, roomy=9)) == [[i] for i in range(33)]


def test_a_prompt_that_fills_the_context(answerer, tiny, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question_id": 5, "text": "red " * 600}) + "\n")
    with pytest.raises(UserError, match=r"q.jsonl:1: question 5: the prompt is \d+ .* reads 512"):
        ask(make(answerer, tiny, 1), read_questions(path))


def test_special_tokens_typed_in_a_question_are_text(answerer, tiny, jsonl):
    question = dataclasses.replace(distinct(read_questions(jsonl)).popitem()[1], text="</s> <s>a")
    ids, _ = make(answerer, tiny, 1)._tokenize(question)
    assert answerer.tokenizer.eos_token_id not in ids[1:]
    assert "</s> <s>a ASSISTANT:" in answerer.tokenizer.decode(ids)


def test_a_token_that_the_llm_does_not_have(answerer, tiny, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question_id": 5, "text": "a <extra>"}) + "\n")
    asked = make(answerer, tiny, 1)
    tokenizer = copy.deepcopy(answerer.tokenizer)
    tokenizer.add_tokens(["<extra>"])
    with pytest.raises(UserError, match=r"q.jsonl:1: question 5: .*'<extra>'"):
        ask(dataclasses.replace(asked, tokenizer=tokenizer), read_questions(path))


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_broken_image_is_named(flags, tmp_path, tiny, content, expected):
    folder = tmp_path / "images"
    shutil.copytree(tiny.images, folder)
    (folder / "004.jpg").write_bytes(content)
    broken = [*flags, "--image-folder", str(folder), "--batch-size", "1"]
    with pytest.raises(UserError, match=r"jsonl:3: question 7: .*004.jpg: the image"):
        command.main(broken)
    shutil.copy(tiny.images / "004.jpg", folder)
    command.main(broken)
    assert len(rows(out(tmp_path))) == 6


def test_the_command(flags, tmp_path, jsonl_rows, expected, capsys):
    command.main(flags)
    found = rows(out(tmp_path))
    assert [row["prompt"] for row in found] == [row["text"] for row in jsonl_rows]
    assert [row["question_id"] for row in found] == [row["question_id"] for row in jsonl_rows]
    for row in found:
        assert row["text"] == expected[str(row["question_id"]), row["prompt"]]
        assert row["model_id"] == "tiny-llava"
    assert found[1] == found[5]
    assert len({row["answer_id"] for row in found}) == 5
    assert [a.text for a in read_answers(out(tmp_path))] == [row["text"] for row in found]
    said = capsys.readouterr()
    assert said.out == f"{out(tmp_path)}: 6 answers, 5 of them asked for now\n"
    assert said.err.splitlines()[-1].startswith("questions: 5/5")
    assert {p.name for p in out(tmp_path).parent.iterdir()} == {"tiny.jsonl", "tiny.run.json"}


def no_model(*_, **__):
    raise AssertionError("the model was loaded")


def test_resumes_after_a_cut_at_every_byte(flags, tmp_path, monkeypatch):
    command.main(flags)
    whole = out(tmp_path).read_bytes()
    lines = whole.splitlines(keepends=True)
    start = len(whole) - len(lines[-1]) - len(lines[-2])

    class Known:
        """Answers as the model has, at once."""

        asked: list = []  # noqa: RUF012

        def answers(self, questions):
            self.asked += questions
            by_key = {(str(r["question_id"]), r["prompt"]): r["text"] for r in rows_before}
            yield from ([(q, by_key[q.key])] for q in questions)

    rows_before = rows(out(tmp_path))
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("llava_sea.eval.answering.load_answerer", lambda *_: Known())
    # The last line repeats the second: the one before it is the last that was asked for.
    for length in range(start, start + len(lines[-2]) + 1):
        out(tmp_path).write_bytes(whole[:length])
        Known.asked.clear()
        command.main(flags)
        assert out(tmp_path).read_bytes() == whole
        complete = length >= start + len(lines[-2]) - 1  # the newline may be missing
        assert [q.question_id for q in Known.asked] == [] if complete else [9]


@pytest.fixture
def answered(flags, tmp_path, monkeypatch) -> bytes:
    """What the command has written; from here on no model is loaded."""
    command.main(flags)
    monkeypatch.setattr("llava_sea.eval.answering.load_llava", no_model)
    return out(tmp_path).read_bytes()


def test_a_finished_file_needs_no_model(flags, tmp_path, answered):
    before = out(tmp_path).stat()
    command.main(flags)
    assert out(tmp_path).stat().st_mtime_ns == before.st_mtime_ns


def test_shards_of_another_number_of_processes_are_resumed(flags, tmp_path, answered):
    lines = answered.splitlines(keepends=True)
    folder = out(tmp_path).parent
    out(tmp_path).write_bytes(lines[2])
    (folder / "tiny.shard-0-of-3.jsonl").write_bytes(lines[3] + lines[0])
    (folder / "tiny.shard-2-of-3.jsonl").write_bytes(lines[1] + lines[4])
    command.main(flags)
    assert out(tmp_path).read_bytes() == answered
    assert not list(folder.glob("*shard*"))


def test_two_processes_share_the_questions(flags, tmp_path, two_processes):
    first, second = two_processes(command.main, flags)
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert first.out.endswith("6 answers, 5 of them asked for now\n") and not second.out
    together = out(tmp_path).read_bytes()
    assert {p.name for p in out(tmp_path).parent.iterdir()} == {"tiny.jsonl", "tiny.run.json"}
    shutil.rmtree(out(tmp_path).parent)
    command.main(flags)
    assert out(tmp_path).read_bytes() == together


def test_an_error_of_the_first_process_is_said_once(flags, two_processes):
    first, second = two_processes(command.main, [*flags, "--image-folder", "nowhere"])
    assert (first.status, second.status) == (2, 2)
    assert "003.png: no such image" in first.err
    assert "Traceback" not in first.err + second.err and "error" not in second.err


@pytest.mark.parametrize(
    "environment", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "many"}, {"WORLD_SIZE": "2", "RANK": "x"}]
)
def test_an_environment_that_is_no_launchers(flags, monkeypatch, environment):
    monkeypatch.delenv("RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="torchrun or deepspeed"):
        command.main(flags)


def test_llavas_chunks(flags, tmp_path):
    command.main(flags)
    whole = out(tmp_path).read_bytes()
    parts = []
    for index in range(4):  # six questions in fours of two: the last part is empty
        part = tmp_path / f"4_{index}.jsonl"
        command.main(
            [*flags, "--answers-file", str(part), "--num-chunks", "4", f"--chunk-idx={index}"]
        )
        parts.append(part.read_bytes())
    assert b"".join(parts) == whole and parts[3] == b""


@pytest.mark.parametrize(
    "more, message",
    [
        (["--temperature", "0.5"], "otherwise: --temperature 0.0 and now 0.5"),
        (["--conv-mode", "llama_2"], "otherwise: --conv-mode None and now llama_2"),
        (["--max-new-tokens", "3"], "otherwise: --max-new-tokens 12 and now 3"),
        (["--num-chunks", "2"], "otherwise: --num-chunks 1 and now 2"),
    ],
)
def test_answers_made_otherwise_are_refused(flags, tmp_path, answered, more, message):
    with pytest.raises(UserError, match=message):
        command.main([*flags, *more])
    assert out(tmp_path).read_bytes() == answered


def test_another_models_answers_are_refused(flags, tmp_path, answerer, answered):
    twin = tmp_path / answerer.folder.name  # the same name, trained further
    shutil.copytree(answerer.folder, twin)
    weights = next(twin.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
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
    flags, tmp_path, jsonl, jsonl_rows, answered, fields, message
):
    changed = [*jsonl_rows[:2], jsonl_rows[2] | fields, *jsonl_rows[3:]]
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in changed))
    with pytest.raises(UserError, match=message):
        command.main(flags)
    assert out(tmp_path).read_bytes() == answered


def test_a_question_more_is_asked(flags, tmp_path, jsonl):
    command.main(flags)
    before = rows(out(tmp_path))
    with jsonl.open("a") as file:
        file.write(json.dumps({"question_id": 10, "text": "And?"}) + "\n")
    command.main(flags)
    assert rows(out(tmp_path))[:-1] == before
    assert rows(out(tmp_path))[-1]["prompt"] == "And?"


def test_a_file_that_says_nothing_of_its_run_is_refused(flags, tmp_path):
    out(tmp_path).parent.mkdir()
    out(tmp_path).write_text('{"question_id": 7, "prompt": "x", "text": "y"}\n')
    with pytest.raises(UserError, match=r"no tiny.run.json beside it says how"):
        command.main(flags)
    (out(tmp_path).parent / "tiny.run.json").write_text("{}")
    with pytest.raises(UserError, match=r"tiny.run.json: does not say how tiny.jsonl was made"):
        command.main(flags)


def test_a_line_that_is_no_answer(flags, tmp_path, answered):
    out(tmp_path).write_bytes(answered + b"{}\n")
    with pytest.raises(UserError, match=r"tiny.jsonl:7: not an answer"):
        command.main(flags)


def test_a_second_run_is_kept_off(flags, tmp_path, answered):
    with (out(tmp_path).parent / "tiny.run.json").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing into it"):
            command.main(flags)
    command.main(flags)


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
        (["--temperature", "-1"], "--temperature -1.0: must be 0, or"),
        (["--top_p", "1.5"], "--top_p 1.5: must be a number above 0"),
        (["--batch-size", "0"], "--batch_size 0: must be"),
        (["--num_beams", "0"], "--num_beams 0: must be"),
        (["--num-chunks", "2", "--chunk-idx", "2"], "--chunk_idx 2: .* 0 to 1"),
        (["--conv-mode", "v7"], "--conv-mode 'v7': no such template"),
        (["--device", "toaster"], "--device toaster: not on this machine"),
        (["--model-path", "./nowhere"], "nowhere"),
        (["--image-folder", ""], "question '003' has the image '003.png': give its folder"),
        (["--image-folder", "no"], r"003'.*; .*7: no/004.jpg: no such image .and 1 more"),
        (["--single-pred-prompt"], "--single-pred-prompt: .*Leave it out"),
    ],
)
def test_flags_that_cannot_be(flags, tmp_path, monkeypatch, more, message):
    monkeypatch.setattr("llava_sea.eval.answering.load_llava", no_model)
    with pytest.raises(UserError, match=message):
        command.main([*flags, *more])
    assert not out(tmp_path).exists()


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


def test_float32_weights_answer_in_bfloat16(answerer, tiny, jsonl, expected):
    model = copy.deepcopy(answerer.model)
    to_bfloat16(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    frequencies = {b.dtype for name, b in model.named_buffers() if name.endswith("inv_freq")}
    assert frequencies == {torch.float32}
    halved = dataclasses.replace(make(answerer, tiny, 5), model=model)
    questions = list(distinct(read_questions(jsonl)).values())
    assert ask(halved, questions).keys() == expected.keys()


def test_llavas_flags_in_both_spellings():
    text = (
        "--model_path m --model-base b --question_file q --image_folder i --answers_file a "
        "--conv_mode v1 --top-p 0.5 --num-beams 2 --max-new-tokens 9 --num_chunks 3 "
        "--chunk_idx 1 --single_pred_prompt --lang cn"
    )
    args = command.parse(text.split())
    assert (args.model_path, args.answers_file, args.top_p, args.chunk_idx) == ("m", "a", 0.5, 1)
    plain = command.parse(["--model-path", "m", "--question-file", "q", "--answers-file", "a"])
    assert (plain.temperature, plain.max_new_tokens, plain.num_beams) == (0, 128, 1)


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
