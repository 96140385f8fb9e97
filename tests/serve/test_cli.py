"""The command as users call it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

import pytest

from llava_sea.errors import UserError
from llava_sea.model.projector_io import projector_state, save_projector
from llava_sea.serve import cli

QUESTIONS = ["What is it?", "Which colour?"]


@pytest.fixture
def answers(converse) -> list[str]:
    """The greedy answers to `QUESTIONS`."""
    return [turn.text for turn in converse(QUESTIONS)[1::2]]


def test_each_line_of_a_pipe_is_a_turn_and_an_empty_one_ends(command, answers, monkeypatch, capfd):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*QUESTIONS, "", "More?"])))
    cli.main(command)
    assert capfd.readouterr().out == "".join(answer + "\n" for answer in answers)


@pytest.mark.parametrize("end", ["", EOFError, KeyboardInterrupt])
def test_in_a_terminal(command, answers, monkeypatch, capsys, end):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    typed = iter([QUESTIONS[0], "an <image>?", "caf\udce9?", QUESTIONS[1], end])

    def type_in(prompt: str) -> str:
        assert prompt == "USER: "
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", type_in)
    cli.main(command)
    out = capsys.readouterr().out
    assert "Ctrl-D ends" in out
    for answer in answers:
        assert f"ASSISTANT: {answer}\n" in out
    assert "ASSISTANT: (leave <image> out" in out and " text)\n" in out
    assert next(typed, None) is None


def test_a_pipe_of_bytes_that_are_no_text(command, answers, monkeypatch, capsys):
    data = f"{QUESTIONS[0]}\ncaf\xe9?\n".encode("latin-1")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    with pytest.raises(UserError, match=r"^standard input, line 2: not utf-8 text"):
        cli.main(command)
    assert capsys.readouterr().out == answers[0] + "\n"


def test_a_base_that_is_no_language_model(tiny, talker, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("x\n"))
    save_projector(
        tmp_path / "mm_projector.bin", projector_state(talker.model.model.multi_modal_projector)
    )
    config = {"model_type": "llava_llama", "mm_projector_type": "mlp2x_gelu"}
    config |= {"mm_vision_tower": str(tiny.clip), "conversation_template": "v1"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    flags = ["--model-path", str(tmp_path), "--image-file", str(talker.picture)]
    with pytest.raises(UserError, match=rf"{tiny.clip}: .* no language model"):
        cli.main([*flags, "--model-base", str(tiny.clip)])


def test_help_does_not_load_torch():
    code = (
        "import sys\nfrom llava_sea.serve import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--max-new-tokens" in done.stdout


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--conv-mode", "v7"],
            "--conv-mode 'v7': no such conversation template; there are: plain, .*v1",
        ),
        (["--load-4bit"], "--load-4bit: needs bitsandbytes"),
        (["--load-8bit"], "--load-8bit: needs bitsandbytes"),
        (["--device", "cuda:77"], "--device cuda:77: not on this machine"),
        (["--device", "toaster"], "--device toaster: not on this machine"),
        (["--image-file", "none.png"], "--image-file none.png: no such file"),
        (["--model-path", "./nowhere"], "nowhere"),
        (["--model-base", "x"], "--model-base x: .* leave"),
        (["--temperature", "-1"], "--temperature -1.0: must be 0, or a number from"),
        (["--max_new_tokens=0"], "--max_new_tokens 0: must be a whole number from 1"),
        (["--conv-mode", "qwen"], r"has no <\|im_start\|>"),
    ],
)
def test_flags_that_cannot_be(command, flags, message, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("x\n"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        cli.main([*command, *flags])


@pytest.mark.parametrize(
    "recorded, message",
    [
        (None, "does not record the conversation template.* --conv-mode .*plain, .*v1"),
        ("v7", "was trained with the template 'v7', which is not known"),
    ],
)
def test_no_template_is_guessed(command, talker, tmp_path, monkeypatch, capsys, recorded, message):
    folder = tmp_path / "copy"
    shutil.copytree(talker.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["conversation_template"] = recorded
    (folder / "config.json").write_text(json.dumps(config))
    flags = [*command, "--model-path", str(folder)]
    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\n"))
    with pytest.raises(UserError, match=message):
        cli.main(flags)
    cli.main([*flags, "--conv-mode", "v1"])
    assert capsys.readouterr().out.strip()


def test_a_model_of_captions_says_so(command, monkeypatch, caplog):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is it?\n"))
    cli.main([*command, "--conv-mode", "plain", "--max-new-tokens", "2"])
    assert "writes captions, whatever is asked" in caplog.text
