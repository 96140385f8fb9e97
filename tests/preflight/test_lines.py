"""Every line of the page: well on a world that is well, red with the way out on a broken one."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_sea.errors import UserError
from llava_sea.preflight import checkpoints, corpus, measure, numerics, run
from llava_sea.preflight.__main__ import main, split
from llava_sea.preflight.page import OK, RED, WARNING, Line, Page, red, redact
from llava_sea.preflight.random_batches import Sizes
from llava_sea.train.train_mem import pick_attention
from tests import worlds

MINI = Path(__file__).parents[2] / "playground" / "models"


@pytest.fixture
def stage_of(tiny, tmp_path):
    """A stage of a recipe with the tiny world's parts; keyword arguments are flags."""

    def make(number=1, **changes):
        values = {
            "model_name_or_path": tiny.llm,
            "vision_tower": tiny.clip,
            "version": "plain" if number == 1 else "v1",
            "tune_mm_mlp_adapter": number == 1,
            "data_path": tiny.data,
            "image_folder": tiny.images,
            "output_dir": tmp_path / "run",
            "per_device_train_batch_size": 4,
            "report_to": "none",
        }
        if number == 1:
            values["sea_labels"] = tmp_path / "no labels yet"
        flags = worlds.command_line(values | changes)
        made = run.read_stage(number, flags, argparse.Namespace(num_gpus=1))
        made.config = checkpoints.config_of(made.arguments)
        return made

    return make


def look(name, function, *given):
    """Return a line as the page takes it."""
    page = Page()
    page.check(name, function, *given)
    return page.lines[-1]


def fail(error):
    raise error


def copied(source, folder, **settings):
    """Copy a checkpoint and change its tokenizer's settings."""
    shutil.copytree(source, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def test_flags_of_one_stage_do_not_trouble_the_other_and_wrong_ones_are_red(stage_of):
    own, stages = split(["--num_gpus", "2", "--warm_start", "--c", "--stage1", "--a", "--stage2"])
    assert (own, stages) == (["--num_gpus", "2"], {0: ["--c"], 1: ["--a"], 2: []})
    both = {"sea_window": 3, "lora_enable": True, "lora_r": 4}
    one, two = stage_of(1, **both), stage_of(2, **both)
    assert one.arguments.sea.sea_window == 3 and not one.arguments.training.lora_enable
    assert two.step().lora_rank == 4
    line = look("flags 1", stage_of, 1)  # any function's error is a line
    line = look("flags 1", lambda: run._read(1, ["--sea_wieght", "1"], None, []))
    assert line.state == RED and "did you mean --sea_weight" in line.found


def test_installed(stage_of):
    line = look("installed", run.installed_line, [stage_of()])
    assert line.state in (OK, WARNING) and f"torch {torch.__version__}" in line.found
    assert "no GPU, gloo" in line.found and "attention sdpa" in line.found
    wrong = stage_of(attn_implementation="flash_attention_2")
    line = look("installed", run.installed_line, [wrong])
    assert line.state == RED and "--attn_implementation flash_attention_2" in line.found
    assert "pass sdpa" in line.found


BROKEN = {
    "miner": ("mine_top_words", lambda f: lambda *a: (f(*a)[0], f(*a)[1] + 1e-4)),
    "alignment loss": ("symmetric_infonce", lambda f: lambda *a: 1.001 * f(*a)),
    "packing": ("PackedCollator", lambda f: lambda *a, **k: lambda s: as_one(f(*a, **k)(s))),
    "tiny step": (
        "tiny_llava",
        lambda f: lambda s: f(s) if s.dtype == torch.float64 else rounded(f(s)),
    ),
}


def as_one(batch):
    """Let the samples of a row see each other."""
    width = batch["input_ids"].shape[1]
    return batch | {"position_ids": torch.arange(width)[None], "sample_lengths": [width]}


def rounded(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.float8_e4m3fn).to(parameter))
    return model


@pytest.mark.parametrize("name", numerics.CHECKS)
def test_numbers_of_the_device(name, monkeypatch):
    line = look(name, numerics.check, name, numerics.Setting())
    assert line.state == OK and "no GPU" in line.found, line
    assert line.details["difference"] < line.details["tolerance"]
    wrong, make = BROKEN[name]
    monkeypatch.setattr(numerics, wrong, make(getattr(numerics, wrong)))
    line = look(name, numerics.check, name, numerics.Setting())
    assert line.state == RED and "--attn_implementation" in line.way_out


def test_numbers_in_bfloat16():
    for name in ("packing", "tiny step"):
        setting = numerics.Setting("cpu", torch.bfloat16)
        assert look(name, numerics.check, name, setting).state == OK


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", numerics.CHECKS)
def test_numbers_of_a_gpu(name, dtype):
    line = look(name, numerics.check, name, numerics.Setting("cuda", dtype, pick_attention(dtype)))
    assert line.state == OK, line


def test_data_and_its_lengths(stage_of, tiny, tmp_path):
    stage = stage_of()
    line = look("data 1", corpus.data_line, stage)
    assert line.state == OK and stage.records == stage.images == 24
    assert stage.mean.images == 1 and 16 < stage.mean.length <= stage.longest.length
    assert look("data 1", corpus.data_line, stage_of(image_folder=tmp_path)).state == RED
    short = look("data 1", corpus.data_line, stage_of(model_max_length=12))
    assert short.state == RED and "llava_sea.check" in short.way_out
    stage.config = None  # the models' line is red
    line = look("data 1", corpus.data_line, stage)
    assert line.state == WARNING and "24 records" in line.found and "models 1" in line.way_out


def test_a_layer_that_the_tower_lacks_is_told_once(stage_of):
    stage = stage_of()
    stage.arguments.model.mm_vision_select_layer = 99
    line = look("models 1", run._config, stage)
    assert line.state == RED and "--mm_vision_select_layer 99" in line.found


def test_files_of_the_llm(stage_of, tmp_path):
    assert look("LLM files", checkpoints.llm_line, stage_of().arguments).state == OK
    folder = copied(MINI / "llm-small", tmp_path / "llm")
    (folder / "model.safetensors").write_bytes(b"half")
    line = look("LLM files", checkpoints.llm_line, stage_of(model_name_or_path=folder).arguments)
    assert line.state == RED and str(folder) in line.found


def test_the_tokenizer_against_sentencepiece(stage_of, tmp_path):
    folder = copied(MINI / "llm-small", tmp_path / "llm")
    arguments = stage_of(model_name_or_path=folder).arguments
    line = look("tokenizer", checkpoints.tokenizer_line, arguments)
    assert line.state == WARNING and line.details["compared"] > 20  # a first blank is lost there
    whole = (folder / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(b"no model")
    line = look("tokenizer", checkpoints.tokenizer_line, arguments)
    assert line.state == WARNING and "no SentencePiece model" in line.found
    (folder / "tokenizer.model").write_bytes(whole)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"].reverse()
    path.write_text(json.dumps(content))
    line = look("tokenizer", checkpoints.tokenizer_line, arguments)
    assert line.state == RED and "instead of" in line.found and "tokenizer.json" in line.way_out


def test_the_pad_token(stage_of, grown_llm, tmp_path):
    texts = ["a red ball, small", "a box"]
    assert look("pad token", checkpoints.pad_line, stage_of().arguments, texts).state == OK
    beyond = stage_of(model_name_or_path=grown_llm).arguments
    line = look("pad token", checkpoints.pad_line, beyond)
    assert line.state == RED and "'[PAD]'" in line.found and "pad_token" in line.way_out
    comma = copied(MINI / "llm-small", tmp_path / "llm", pad_token=",")
    line = look(
        "pad token", checkpoints.pad_line, stage_of(model_name_or_path=comma).arguments, texts
    )
    assert line.state == RED and "1 of 2 texts" in line.found


def test_token_ids_against_rows(stage_of, grown_llm, tmp_path):
    assert look("token ids", checkpoints.ids_line, stage_of(2).arguments).state == OK
    line = look("token ids", checkpoints.ids_line, stage_of(model_name_or_path=grown_llm).arguments)
    assert line.state == WARNING and "<extra>" in line.found
    folder = copied(grown_llm, tmp_path / "llm", eos_token="<extra>")
    line = look("token ids", checkpoints.ids_line, stage_of(model_name_or_path=folder).arguments)
    assert line.state == RED and "own tokenizer" in line.way_out


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VICUNA = (
    "A system prompt of its own. {% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content"
    " }} {% else %}ASSISTANT: {{ m.content }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def test_the_template_against_the_llms_own(stage_of, tmp_path):
    arguments = stage_of(2).arguments
    line = look("chat template", checkpoints.template_line, arguments)
    assert line.state == OK and "none of its own" in line.found
    for number, (jinja, state) in enumerate(
        {
            VICUNA: OK,
            CHATML: RED,
            VICUNA.replace("</s>", "</s> "): WARNING,
            VICUNA.replace("</s>", ""): WARNING,  # one more end here than there
        }.items()
    ):
        folder = copied(MINI / "llm-small", tmp_path / f"llm {number}", chat_template=jinja)
        arguments = stage_of(2, model_name_or_path=folder).arguments
        line = look("chat template", checkpoints.template_line, arguments)
        assert line.state == state, line
        if state == RED:
            assert line.way_out == "pass --version qwen" and "<|im_start|>" in line.found
    folder = copied(
        MINI / "llm-small", tmp_path / "llm", chat_template="{{ raise_exception('no') }}"
    )
    arguments = stage_of(2, model_name_or_path=folder).arguments
    assert look("chat template", checkpoints.template_line, arguments).state == WARNING


def test_the_vision_tower(stage_of, tiny, tmp_path):
    assert look("vision tower", checkpoints.tower_line, stage_of().arguments).state == OK
    shutil.copytree(tiny.clip, tmp_path / "clip")
    path = tmp_path / "clip" / "model.safetensors"
    state = load_file(path)
    next(t for n, t in state.items() if "vision" in n and t.ndim == 4).fill_(float("nan"))
    save_file(state, path, {"format": "pt"})
    line = look(
        "vision tower", checkpoints.tower_line, stage_of(vision_tower=tmp_path / "clip").arguments
    )
    assert line.state == RED and "fetch them again" in line.way_out
    line = look("models 1", stage_of, 1)
    wrong = stage_of()
    wrong.arguments.model.vision_tower = str(tiny.llm)
    line = look("models 1", run._config, wrong)
    assert line.state == RED and "known are" in line.found


def test_labels_that_say_nothing_of_the_images_are_red(stage_of, tmp_path):
    arguments = stage_of(vision_tower=MINI / "clip").arguments  # its images are noise
    plan = corpus.LabelPlan(str(MINI / "clip"))
    line = look("labels", lambda: corpus.labels_line(arguments, plan, tmp_path / "x.html")[0])
    assert line.state == RED and "Ways out" in line.found


def test_labels_of_another_encoder_are_red(stage_of, tiny_siglip_labels, tiny, tmp_path):
    arguments = stage_of(sea_labels=tiny_siglip_labels).arguments
    plan = corpus.LabelPlan(str(tiny.clip))
    line = look("labels", lambda: corpus.labels_line(arguments, plan, tmp_path / "x.html")[0])
    assert line.state == RED and "transformed differently" in line.found


def test_memory_too_small_names_flags_and_measured_memory_wins(stage_of):
    stage = stage_of()
    line = look("memory 1", measure.memory_line, stage, 1e12, "GPU")
    assert line.state == OK and "weights" in line.found and "logits" in line.found
    assert line.details["bytes"]["total"] > 0
    stage.longest = Sizes(200_000, 100_000, 1)
    line = look("memory 1", measure.memory_line, stage, 3.2e9, "GPU")
    assert line.state == RED and "--per_device_train_batch_size" in line.way_out
    assert "--gradient_accumulation_steps" in line.way_out
    line = look("memory 1", measure.memory_line, stage, 1e6, "GPU")
    assert line.state == RED and "no flag here makes it fit" in line.way_out
    stage.measured = {"out_of_memory": "CUDA out of memory"}
    assert look("memory 1", measure.memory_line, stage, 1e12, "GPU").state == RED
    stage.measured = {"peak": 10}
    assert look("memory 1", measure.memory_line, stage, 1e6, "GPU").state == OK


def test_steps_that_fail_are_red(stage_of, monkeypatch):
    def out_of_memory(stage, result, folder):
        result.write_text(json.dumps({"out_of_memory": "CUDA out of memory"}))
        return ""

    monkeypatch.setattr(measure, "_launch", out_of_memory)
    line = look("steps 1", measure.steps_line, stage_of())
    assert line.state == RED and "memory 1" in line.way_out
    monkeypatch.setattr(measure, "_launch", lambda *_: "a\nerror: NCCL says no\nb")
    line = look("steps 1", measure.steps_line, stage_of())
    assert line.state == RED and "NCCL says no" in line.found
    monkeypatch.setattr(measure, "SMALL", 10)
    assert look("steps 1", measure.steps_line, stage_of()).state == WARNING


def test_hours(stage_of):
    one, two = stage_of(1, num_train_epochs=2), stage_of(2)
    assert look("time", measure.time_line, [one, two], 0.0, 0).state == WARNING
    one.records = two.records = 4 * 900
    one.measured = {"step": 4.0, "plain_step": 3.0}
    line = look("time", measure.time_line, [one, two], 100.0, 360_000)
    assert line.state == WARNING and "stage 2" in line.way_out
    two.measured = {"step": 8.0}
    line = look("time", measure.time_line, [one, two], 100.0, 360_000)
    assert line.state == OK
    expected = {"labels": 1.0, "stage 1": 2.0, "SEA adds": 0.5, "stage 2": 6.0}
    assert {k: line.details[k] for k in expected} == pytest.approx(expected)


def test_a_folder_too_full(stage_of, monkeypatch):
    needed = measure.disk_needs([stage_of(), stage_of(2)])
    assert sum(needed.values()) > 1e5
    assert look("disk", measure.disk_line, needed).state == OK
    usage = namedtuple("usage", "total used free")(10, 10, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    line = look("disk", measure.disk_line, needed)
    assert line.state == RED and "OUTPUT_DIR" in line.way_out


def test_the_page_prints_counts_and_writes_without_home_and_keys(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "a-very-secret-thing")
    page = Page()
    page.add(Line("one", f"{Path.home()}/x, a-very-secret-thing, hf_abcdefghijkl"))
    assert not page.check("two", lambda: 1 / 0)
    assert not page.check("full", lambda: fail(OSError(errno.ENOSPC, "No space", str(tmp_path))))
    full = page.lines.pop()
    assert full.state == RED and f"{tmp_path}: No space" in full.found and "room" in full.found
    page.add(Line("three", "odd", WARNING, "look"))
    assert page.verdict("x") == "NOT READY: 1 red (two); each line says what to change"
    page.write(tmp_path / "new" / "page.json", "said", number=float("nan"))
    found = json.loads((tmp_path / "new" / "page.json").read_text())
    assert found["lines"][0]["found"] == "~/x, ***, ***" and found["number"] is None
    assert "ZeroDivisionError" in found["lines"][1]["details"]["traceback"]
    assert "with this page's JSON file" in capsys.readouterr().out
    page.lines = [line for line in page.lines if line.state != RED]
    assert page.verdict("2 h").startswith("READY (1 warning): 2 h")
    assert redact("x") == "x" and red("a", "b", "c").state == RED


def test_labels_that_would_lie_in_a_file_are_red(stage_of, tiny, tmp_path):
    arguments = stage_of(sea_labels=tiny.data).arguments
    plan = corpus.LabelPlan(str(tiny.clip), None, "best", None)
    line = look("labels", corpus.labels_line, arguments, plan, tmp_path / "x.html")
    assert line.state == RED and f"--sea_labels {tiny.data}: is no folder" in line.found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_page_that_is_told_to_end_leaves_nothing(stage_of, monkeypatch, tmp_path, number):
    """Its ranks end and their folder is gone; the launcher here is a sleep."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    started = []

    class Launcher(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__(["sleep", "100"], **options)
            started.append(self)
            threading.Timer(0.2, os.kill, (os.getpid(), number)).start()

    monkeypatch.setattr(measure.subprocess, "Popen", Launcher)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stage = stage_of()
    monkeypatch.setattr(run, "fill_page", lambda *_: look("steps 1", measure.steps_line, stage))
    try:
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            main(["--output", str(tmp_path / "page.json"), "--stage1", "--version", "plain"])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert started[0].poll() is not None and [path.name for path in tmp_path.iterdir()] == []


def test_what_one_missing_file_hides_is_red_once():
    page = Page()
    for name in ("llm", "tokenizer"):
        page.check(name, lambda: fail(UserError("/m/llm: no such folder")))
    assert [line.state for line in page.lines] == [RED, WARNING]
    assert page.lines[1].found == "not looked at: see llm, RED above"
    assert page.verdict("") == "NOT READY: 1 red (llm); each line says what to change"
