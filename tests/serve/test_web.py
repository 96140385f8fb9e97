"""The page: limits, errors as text, patches' words, flags; in a browser once (slow)."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image

from llava_sea.data.words import vocabulary_words
from llava_sea.errors import UserError
from llava_sea.files import read_text
from llava_sea.model.projector_io import projector_state, save_projector
from llava_sea.serve import page as page_module
from llava_sea.serve import web
from llava_sea.serve.page import Page, find_words, open_page


@pytest.fixture(scope="session")
def words_file(talker, tmp_path_factory):
    """A word list: some of the vocabulary's words."""
    path = tmp_path_factory.mktemp("words") / "words.tsv"
    words = sorted(vocabulary_words(talker.tokenizer, 10_000))[:30]
    path.write_text("word\tcount\tpos\n" + "".join(f"{word}\t1\tNN\n" for word in words))
    return path


@pytest.fixture(scope="session")
def before(talker, tmp_path_factory):
    """Another projector."""
    path = tmp_path_factory.mktemp("before") / "mm_projector_initial.bin"
    state = projector_state(talker.model.model.multi_modal_projector)
    save_projector(path, {name: -tensor.flip(0) for name, tensor in state.items()})
    return path


def flags(talker, *more: object) -> list[str]:
    start = ["--model-path", talker.folder, "--temperature", 0, "--max-new-tokens", 12]
    return [*map(str, (*start, "--device", "cpu", *more))]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def page(talker, before, words_file) -> Page:
    return open_page(web.parse(flags(talker, "--before", before, "--words", words_file)))


def last(answers) -> tuple[list, str]:
    """The last thing shown, and the text left in the question's box."""
    *_, (history, left) = answers
    return history, left


def test_the_words_of_patches_are_the_nearest_of_both_projectors(page, talker, before, words_file):
    chat, shown = page.start(str(talker.picture))
    table = talker.model.get_input_embeddings().weight.detach()
    words = [line.split("\t")[0] for line in read_text(words_file).splitlines()[1:]]
    lists = re.findall(r"<u>row.*?</u>(.*?)</div>", shown, re.S)
    assert len(lists) == 2 * 16
    own = talker.model.model.multi_modal_projector
    other = torch.load(before, weights_only=True)
    found = []
    for first in (True, False):
        state = projector_state(own)
        state = other if first else state
        weight = {name.removeprefix("model.mm_projector."): t for name, t in state.items()}
        hidden = talker.model.model.vision_tower(chat.pixels[None], output_hidden_states=True)
        features = hidden.hidden_states[talker.model.config.vision_feature_layer][0, 1:]
        for x in features.detach():
            x = torch.nn.functional.gelu(weight["0.weight"] @ x + weight["0.bias"])
            x = weight["2.weight"] @ x + weight["2.bias"]
            near = []
            for word in words:
                ids = talker.tokenizer("a " + word, add_special_tokens=False).input_ids
                skip = len(talker.tokenizer("a", add_special_tokens=False).input_ids)
                target = table[ids[skip:]].mean(0)
                near.append((float(torch.cosine_similarity(x, target, dim=0)), word))
            found.append(sorted(near, reverse=True)[:5])
    for text, near in zip(lists, found, strict=True):
        said = re.findall(r"<i>(.*?)<b>(.*?)</b></i>", text)
        assert [word for word, _ in said] == [word for _, word in near]
        assert [float(c) for _, c in said] == pytest.approx([c for c, _ in near], abs=0.0051)
    assert page.loaded.model.model.multi_modal_projector is page.projectors["after training"]


def test_answers_stream_and_are_the_clis(page, talker, naive):
    from llava_sea.serve.chat import Chat

    chat, _ = page.start(str(talker.picture))
    other = Chat(talker.model, talker.tokenizer, talker.template, chat.pixels, 12, 0.0)
    history: list = []
    for question in ("What is it?", " Which colour? "):
        seen = list(page.ask(question, history, chat))
        texts = [shown[-1]["content"] for shown, _ in seen]
        assert len(set(texts)) > 1, "an answer that comes at once does not stream"
        assert all(after.startswith(text) for text, after in itertools.pairwise(texts))
        history, left = seen[-1]
        assert left == "" and history[-2] == {"role": "user", "content": question.strip()}
        assert texts[-1] == other.ask(question.strip())
    assert chat.turns == other.turns


def test_a_stopped_answer_joins_as_far_as_it_came_and_frees_the_model(page, talker):
    chat, _ = page.start(str(talker.picture))
    whole = page.ask("What is it?", [], chat)
    shown = next(whole)[0][-1]["content"]
    whole.close()
    with page.lock:  # the answer ends at its next token
        pass
    end = time.monotonic() + 20
    while not chat.turns and time.monotonic() < end:
        time.sleep(0.01)
    (asked, answer) = chat.turns
    assert asked.text.endswith("What is it?") and answer.text.startswith(shown.strip())
    assert last(page.ask("Which colour?", [], chat))[0][-1]["content"]
    assert len(chat.turns) == 4


def test_one_generation_at_a_time(page, talker):
    chat, _ = page.start(str(talker.picture))
    with page.lock:
        answers = page.ask("What is it?", [], chat)
        got: list = []
        thread = threading.Thread(target=lambda: got.append(next(answers)))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not got
    thread.join(30)
    assert got
    list(answers)


def test_a_projector_of_stage_1_writes_captions(tiny, talker, tmp_path):
    own = projector_state(talker.model.model.multi_modal_projector)
    save_projector(tmp_path / "mm_projector.bin", own)
    config = {"model_type": "llava_llama", "mm_projector_type": "mlp2x_gelu"}
    config |= {"mm_vision_tower": str(tiny.clip), "conversation_template": "plain"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    base = str(talker.folder.parent / "llm")
    page = open_page(web.parse(flags(talker, "--model-path", tmp_path, "--model-base", base)))
    chat, shown = page.start(str(talker.picture))
    assert page.template.caption_only and shown.count("<u>row") == 16
    history: list = []
    for question in ("What is it?", "And now?"):
        history, _ = last(page.ask(question, history, chat))
    assert len(history) == 4 and history[1] == history[3]


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("x" * (page_module.MAX_QUESTION + 1), "2,001 letters"),
        ("  ", "type a question"),
        ("An <image>?", "leave <image> out"),
        ("why " * 400, "the LLM reads 1024"),
    ],
)
def test_a_question_that_is_not_asked_is_told_and_kept(page, talker, question, why):
    chat, _ = page.start(str(talker.picture))
    history, left = last(page.ask(question, [], chat))
    assert why in history[-1]["content"] and left == question
    assert len(history) == 1 and chat.turns == []


def test_there_is_an_end_to_a_conversation(page, talker, monkeypatch):
    monkeypatch.setattr(page_module, "MAX_QUESTIONS", 1)
    chat, _ = page.start(str(talker.picture))
    history, _ = last(page.ask("What is it?", [], chat))
    history, left = last(page.ask("Again?", history, chat))
    assert "start a new one" in history[-1]["content"] and left == "Again?"
    assert len(chat.turns) == 2


def test_without_an_image(page):
    chat, shown = page.start(None)
    assert chat is None and "Drop an image" in shown
    assert "drop an image first" in last(page.ask("What?", [], chat))[0][-1]["content"]


@pytest.mark.parametrize("kind", ["text", "broken", "bytes", "pixels", "missing", "<b>"])
def test_an_image_that_cannot_be_used_is_told_without_its_folder(page, tmp_path, kind, monkeypatch):
    path = tmp_path / ("<b>x" if kind == "<b>" else "dropped.png")
    Image.new("RGB", (64, 64)).save(path, format="PNG")
    if kind in ("text", "<b>"):
        path.write_text("no image")
    elif kind == "broken":
        path.write_bytes(path.read_bytes()[:60])
    elif kind == "bytes":
        monkeypatch.setattr(page_module, "MAX_BYTES", 50)
    elif kind == "pixels":
        monkeypatch.setattr("llava_sea.data.images.MAX_PIXELS", 64 * 64 - 1)
    else:
        path.unlink()
    chat, shown = page.start(str(path))
    assert chat is None and 'class="problem"' in shown and str(tmp_path) not in shown
    assert path.name in shown or "&lt;b&gt;x" in shown
    assert "<b>x" not in shown


def test_too_little_memory_is_told_and_defects_are_not(page, talker, monkeypatch):
    def fail(text):
        def read(*_):
            raise RuntimeError(text)

        monkeypatch.setattr(page.reader, "grid", read)
        return page.start(str(talker.picture))

    assert "too little memory" in fail("CUDA out of memory. Tried")[1]
    with pytest.raises(RuntimeError, match="shapes"):
        fail("shapes do not fit")
    assert page.loaded.model.model.multi_modal_projector is page.projectors["after training"]


def test_words_of_the_vocabulary(tiny, talker):
    words = find_words(None, talker.tokenizer, 10_000).words
    tokens = talker.tokenizer.get_vocab()
    assert words and all(f"\u2581{word}" in tokens or f"\u0120{word}" in tokens for word in words)
    assert all(word.isalpha() and word == word.lower() and len(word) > 1 for word in words)


def test_a_vocabulary_that_marks_no_spaces(talker, monkeypatch):
    plain = type(talker.tokenizer)
    monkeypatch.setattr(plain, "convert_ids_to_tokens", lambda self, ids: ["word"] * len(ids))
    with pytest.raises(UserError, match="--words"):
        vocabulary_words(talker.tokenizer, 100)


@pytest.mark.parametrize(
    "more", [["--before", "missing.bin"], ["--words", "missing.tsv"], ["--port", "0"]]
)
def test_flags_are_refused_in_one_line(talker, more, capsys):
    with pytest.raises(UserError, match=f"^{more[0]} {re.escape(more[1])}: [^\n]*$"):
        web.parse(flags(talker, *more))


def test_a_projector_that_does_not_fit_is_refused_by_its_flag(talker, words_file):
    with pytest.raises(UserError, match=f"^--before {words_file}"):
        open_page(web.parse(flags(talker, "--before", words_file)))


def test_without_gradio_the_extra_is_named(talker, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "no_proxy"):
        monkeypatch.setenv(name, "")  # taken back with what the command sets
    with pytest.raises(UserError, match=r"pip install -e \"\.\[web\]\""):
        web.main(flags(talker, "--port", free_port()))


def test_the_page_keeps_to_itself(page, monkeypatch):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    gradio = pytest.importorskip("gradio")
    given: dict = {}
    monkeypatch.setattr(gradio.Blocks, "launch", lambda self, **options: given.update(options))
    blocks = web.launch(page, gradio)
    assert given["server_name"] == "127.0.0.1" and given["share"] is False
    assert not blocks.analytics_enabled
    assert given["max_file_size"] == page_module.MAX_BYTES
    asking = [fn for fn in blocks.fns.values() if fn.concurrency_id == "model"]
    assert len(asking) == 2 and all(fn.concurrency_limit == 1 for fn in asking)
    assert all(fn.api_visibility == "private" for fn in blocks.fns.values())


@pytest.mark.parametrize("host", ["127.0.0.1", "no such host", "192.0.2.1"])
def test_an_address_that_cannot_be_served_is_refused_in_one_line(talker, host):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(UserError, match=f"^--host {host} --port {port}: [^\n]*$"):
            web.main(flags(talker, "--host", host, "--port", port))


@pytest.fixture
def served(talker, before, words_file, tmp_path):
    """The command, as users start it; its address."""
    pytest.importorskip("gradio")
    port = free_port()
    more = ["--before", before, "--words", words_file, "--port", port]
    command = [sys.executable, "-m", "llava_sea.serve.web", *flags(talker, *more)]
    log = tmp_path / "log"
    environment = os.environ | {"TMPDIR": str(tmp_path), "http_proxy": "http://127.0.0.1:9"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        end = time.monotonic() + 120
        while "Ctrl-C" not in log.read_text() and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.2)
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert not list(tmp_path.glob("llava_sea-*")), "dropped images are left"
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
def test_in_a_browser(served, talker, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    (tmp_path / "text.png").write_text("no image")
    hosts = set()
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        tab.goto(served)
        box, drop = tab.locator("textarea"), tab.locator("input[type=file]")
        box.fill("What?")
        box.press("Enter")
        tab.get_by_text("(drop an image first").wait_for()
        assert box.input_value() == "What?"
        drop.set_input_files(tmp_path / "text.png")
        tab.locator(".patches .problem").wait_for()
        tab.get_by_label("Remove Image").click()
        tab.locator(".patches .hint").wait_for()
        drop.set_input_files(talker.picture)
        tab.locator(".patches .panels").wait_for()
        box.fill("What is it?")
        box.press("Enter")
        tab.locator(".bot", has_text=re.compile(r"\w")).wait_for()
        playwright.expect(tab.locator(".user")).to_contain_text("What is it?")
        patch = tab.locator(".patches .lists").last.locator("li").nth(5)
        playwright.expect(patch.locator("div")).to_be_hidden()
        patch.hover()
        playwright.expect(patch.locator("div")).to_be_visible()
        assert re.match(r"row 2, column 2\n", patch.inner_text())
        assert len(patch.locator("i").all()) == 5
        tab.get_by_text("New conversation").click()
        playwright.expect(tab.locator(".bot")).to_have_count(0)
        browser.close()
    assert {host for host in hosts if host} == {urlsplit(served).netloc}
