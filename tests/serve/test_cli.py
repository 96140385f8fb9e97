"""The chat: its pictures' limits, its questions from a pipe, its answers."""

from __future__ import annotations

import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from llava_sea.conversation import get_template
from llava_sea.data.images import ImageTransform
from llava_sea.errors import UserError
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.write import write_llava
from llava_sea.serve import cli
from llava_sea.serve.picture import fetch, read_picture

PNG = io.BytesIO()
Image.new("RGB", (40, 30), (200, 10, 10)).save(PNG, "PNG")


class Handler(BaseHTTPRequestHandler):
    """A picture, a redirect to a file, a flood, a trickle."""

    def do_GET(self):
        if self.path == "/to-file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/none" else 200)
        self.end_headers()
        if self.path == "/picture":
            self.wfile.write(PNG.getvalue())
        elif self.path == "/flood":
            for _ in range(64):
                self.wfile.write(bytes(1 << 16))
        elif self.path == "/trickle":
            for _ in range(30):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture(scope="module")
def server():
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


def test_a_picture_from_an_address(server):
    assert read_picture(f"{server}/picture").size == (40, 30)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none", "cannot be read"),
        ("/to-file", "not allowed"),
        ("/flood", "larger than 1 MiB"),
        ("/trickle", "not read within 0 s"),
    ],
)
def test_limits_of_addresses(server, path, message):
    with pytest.raises(UserError, match=message):
        fetch(server + path, max_bytes=2**20, max_seconds=0.4)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file:///etc/passwd", "only http, https and local files"),
        ("nowhere.png", "no such file"),
        ("http://127.0.0.1:9/x.png", "cannot be read"),
    ],
)
def test_places_that_hold_no_picture(place, message):
    with pytest.raises(UserError, match=message):
        read_picture(place)


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(UserError, match=r"--image-file .*text\.png"):
        read_picture(str(tmp_path / "text.png"))


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "model"
    write_llava(
        folder,
        build_llava(str(tiny.llm), str(tiny.clip)),
        load_tokenizer(str(tiny.llm), model_max_length=512),
        ImageTransform.from_pretrained(str(tiny.clip), "pad"),
        get_template("v1"),
    )
    return folder


def flags(tiny, checkpoint, *more):
    picture = tiny.images / tiny.records[0]["image"]
    return ["--model-path", str(checkpoint), "--image-file", str(picture), *more]


def test_questions_from_a_pipe(tiny, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("what is it?\nwhich colour?\n\nnot asked\n"))
    cli.main(flags(tiny, checkpoint, "--temperature", "0", "--max_new_tokens", "4"))
    answers = capsys.readouterr().out.split("\n")
    chat = cli.open_chat(
        cli.parse(flags(tiny, checkpoint, "--temperature=0", "--max-new-tokens=4"))
    )
    expected = [chat.ask("what is it?"), chat.ask("<image> which colour?")]
    assert answers == "\n".join([*expected, ""]).split("\n")
    assert [turn.role for turn in chat.turns] == ["human", "gpt"] * 2
    assert chat.turns[0].text == "<image>\nwhat is it?"
    assert chat.turns[2].text == "which colour?"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--load-4bit"], "not quantised here"),
        (["--temperature", "-1"], "must not be negative"),
        (["--conv-mode", "v9"], "no such conversation template"),
        (["--conv-mode", "qwen"], "has no <|im_start|>".replace("|", r"\|")),
    ],
)
def test_wrong_flags_are_named(tiny, checkpoint, more, message):
    with pytest.raises(UserError, match=message):
        cli.main(flags(tiny, checkpoint, *more))


def test_a_model_that_is_none(tiny):
    with pytest.raises(UserError, match="no checkpoint that can be loaded"):
        cli.main(flags(tiny, tiny.llm))
