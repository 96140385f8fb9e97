"""``--version auto`` wherever a version is taken: both stages, LoRA, checker, export, chat."""

import io
import json
import shutil

import pytest
from PIL import Image
from transformers import AutoProcessor

from llava_sea.check.__main__ import main as check
from llava_sea.conversation import get_template
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import tokenize_prompt
from llava_sea.errors import UserError
from llava_sea.eval import answer
from llava_sea.model import export
from llava_sea.model.load import find_template, load_llava
from llava_sea.serve import cli
from llava_sea.train.parse import parse_args
from tests import worlds

# Mistral's kind, with a think block before the last answer alone, as Qwen3's
JINJA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content | trim }}"
    "[/INST]{% else %}{{ '<think></think>' if loop.last else '' }}"
    "{{ m.content.split('</think>')[-1] + eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt and enable_thinking is false %}<think></think>{% endif %}"
)


@pytest.fixture
def llm(tiny, tmp_path):
    """The tiny LLM with a chat template of its own."""
    folder = shutil.copytree(tiny.llm, tmp_path / "llm")
    (folder / "chat_template.jinja").write_text(JINJA)
    return folder


def test_a_run_through_all_that_takes_a_version(
    llm, tiny, stage2_flags, train_here, tune_here, tmp_path, monkeypatch, capsys
):
    auto = {"version": "auto", "model_name_or_path": llm, "max_steps": 1, "save_strategy": "no"}
    stage1 = train_here("stage1", **auto)
    assert json.loads((stage1 / "config.json").read_text())["conversation_template"] == "auto"
    flags = stage2_flags(tmp_path / "none", **auto)
    assert check(flags) == 0
    # another chat template is another run
    assert "chat_template_sha256" in json.loads((stage1 / "run.json").read_text())

    projector = {"pretrain_mm_mlp_adapter": stage1 / "mm_projector.bin"}
    lora = tune_here("lora", **auto, **projector, lora_enable=True, pack_sequences=True)
    whole = tune_here("whole", **auto, **projector)
    expected = get_template("auto", load_llava(str(lora)).tokenizer)
    assert expected.reply == "[/INST]<think></think>" and expected.trim_user == (None, None)
    for folder in (llm, stage1, lora, whole):
        assert find_template("auto", str(folder)) == expected
    again = tune_here("again", **auto | {"model_name_or_path": whole})

    out = tmp_path / "exported"
    export.main(["--model_path", str(lora), "--output_dir", str(out), "--format", "lmms"])
    for folder in (whole, again, out):  # the chat template is the LLM's own, and its ids training's
        assert JINJA in (folder / "chat_template.jinja").read_text()
    export.main(
        ["--model_path", str(whole), "--output_dir", str(tmp_path / "l"), "--format", "llm"]
    )
    assert "cannot equal" not in capsys.readouterr().out

    loaded = load_llava(str(whole))
    length = loaded.model.config.image_seq_length
    talk = [Turn("human", "<image>\nWhat is it?"), Turn("gpt", "a kite"), Turn("human", "Sure?")]
    ids, _ = tokenize_prompt(talk, expected, loaded.tokenizer, length)
    items = [{"type": "text", "text": "What is it?"}, {"type": "image"}]
    messages = [
        {"role": "user", "content": items},
        {"role": "assistant", "content": "a kite"},
        {"role": "user", "content": [{"type": "text", "text": " Sure? "}]},
    ]
    processor = AutoProcessor.from_pretrained(whole)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    picture = Image.open(tiny.images / "001.png").convert("RGB")
    found = processor(text=text, images=picture, add_special_tokens=False).input_ids[0]
    places = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert [0 if i == places else i for i in found] == ids

    image = str(tiny.images / "001.png")
    for mode in ([], ["--conv-mode", "auto"]):
        monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\n"))
        cli.main(
            ["--model-path", str(whole), "--image-file", image, "--max-new-tokens", "2", *mode]
        )
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"question_id": 1, "image": "001.png", "text": "What?"}))
    answer.main(
        [
            *("--model-path", str(out), "--question-file", str(questions), "--device", "cpu"),
            *("--image-folder", str(tiny.images), "--answers-file", str(tmp_path / "a.jsonl")),
        ]
    )
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1


def test_a_record_that_the_template_rewrites_is_named(
    llm, stage2_flags, tune_here, tmp_path, capsys
):
    data = tmp_path / "data.json"
    talk = ["Hi", "Me."], ["Hi", "<think>So.</think>Me."]
    data.write_text(json.dumps([worlds.record(n, None, *turns) for n, turns in enumerate(talk)]))
    auto = {"version": "auto", "model_name_or_path": llm, "data_path": data}
    assert check(stage2_flags(tmp_path / "none", **auto)) == 1
    assert "record 1 (id '1'): chat template: " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"record 1 .*--version auto"):
        tune_here("run", **auto)


def test_an_llm_without_a_chat_template_is_refused_before_it_is_loaded(
    tiny, tune_here, monkeypatch
):
    monkeypatch.setattr("llava_sea.train.stage2.build_llava", None)
    with pytest.raises(UserError, match=r"--version auto: .* is missing .*--version"):
        tune_here("run", version="auto")


def test_the_flag_is_parsed(stage2_flags, tmp_path):
    assert parse_args(stage2_flags(tmp_path, version="auto")).model.version == "auto"
