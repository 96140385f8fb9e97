"""A small random model that answers at length, its checkpoint, and questions of every kind."""

from __future__ import annotations

import atexit
import base64
import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llava_sea.conversation import get_template
from llava_sea.data.images import ImageTransform
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import tokenize_prompt
from llava_sea.errors import run_command
from llava_sea.eval.questions import Question, distinct, read_questions
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.write import write_llava


@pytest.fixture(scope="session")
def answerer(tiny, tmp_path_factory) -> SimpleNamespace:
    """The parts of a model and its checkpoint's folder."""
    root = tmp_path_factory.mktemp("eval")
    llm = root / "llm"
    tokenizer = AutoTokenizer.from_pretrained(tiny.llm)
    tokenizer.save_pretrained(llm)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,  # logits far apart: greedy texts then do not hang on rounding
    )
    LlamaForCausalLM(config).save_pretrained(llm)
    parts = SimpleNamespace(
        model=build_llava(str(llm), str(tiny.clip)).eval(),
        tokenizer=load_tokenizer(str(llm), model_max_length=500),
        transform=ImageTransform.from_pretrained(str(tiny.clip), "pad"),
        template=get_template("v1"),
        folder=root / "tiny-llava",
    )
    write_llava(
        parts.folder,
        parts.model,
        parts.tokenizer,
        parts.transform,
        parts.template,
        extra_config={"conversation_template": "v1", "mm_vision_tower": str(tiny.clip)},
    )
    return parts


def _run_rank(main: Callable, flags: list[str], rank: int, port: int, folder: Path) -> None:
    atexit._clear()  # those of the parent are not this process's
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = (folder / f"{rank}.{name}").open("w")
        os.dup2(stream.fileno(), number)
        setattr(sys, name, stream)
    torch.set_num_threads(1)  # a fork has no threads of its parent's
    run_command(lambda: main([*flags, f"--local_rank={rank}"]))


@pytest.fixture
def two_processes(tmp_path) -> Callable[[Callable, list[str]], list[SimpleNamespace]]:
    """Run a command's main as two forked ranks; return status and output of both."""

    def run(main: Callable, flags: list[str]) -> list[SimpleNamespace]:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        folder = tmp_path / "ranks"
        folder.mkdir()
        fork = multiprocessing.get_context("fork")
        ranks = [
            fork.Process(target=_run_rank, args=(main, flags, rank, port, folder))
            for rank in range(2)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(timeout=600)
        return [
            SimpleNamespace(
                status=rank.exitcode,
                out=(folder / f"{number}.stdout").read_text(),
                err=(folder / f"{number}.stderr").read_text(),
            )
            for number, rank in enumerate(ranks)
        ]

    return run


@pytest.fixture(scope="session")
def few(eight, tmp_path_factory) -> Path:
    """The miniature eight, with few questions."""
    folder = Path(shutil.copytree(eight, tmp_path_factory.mktemp("few") / "eight"))
    for path in folder.glob("*/llava*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:: 50 if path.parent.name == "pope" else 100]))
    return folder


@pytest.fixture(scope="session")
def jsonl_rows() -> list[dict]:
    """Questions as TextVQA's: ids repeat, texts differ in length, two rows are the same."""
    short = "Answer the question using a single word or phrase."
    rows = [
        {"question_id": "003", "image": "003.png", "text": f"What is beside it?\n{short}"},
        {"question_id": "003", "image": "003.png", "text": f"Who?\n{short}", "category": "default"},
        {"question_id": 7, "image": "004.jpg", "text": f"Which colour has the ball?\n{short}"},
        {"question_id": 8, "text": "Is there no image?"},
        {"question_id": 9, "image": "005.png", "text": "the red box beside the ball " * 4 + "?"},
    ]
    return [*rows, rows[1]]


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def jsonl(tmp_path, jsonl_rows) -> Path:
    """The file of `jsonl_rows`."""
    return write_lines(tmp_path / "questions.jsonl", jsonl_rows)


@pytest.fixture(scope="session")
def questions(jsonl_rows, tmp_path_factory) -> list[Question]:
    """The questions of `jsonl_rows`, each once."""
    path = write_lines(tmp_path_factory.mktemp("jsonl") / "questions.jsonl", jsonl_rows)
    return list(distinct(read_questions(path)).values())


@pytest.fixture(scope="session")
def expected(answerer, tiny, questions) -> dict[tuple[str, str], str]:
    """The answers of 12 tokens to `questions`, one at a time by hand."""
    found = {question.key: by_hand(answerer, tiny, question) for question in questions}
    assert len(set(found.values())) == len(found), "all different, or the tests show little"
    return found


@torch.no_grad()
def by_hand(answerer, tiny, question: Question) -> str:
    """The likeliest token each time, from the whole sequence."""
    turns = [Turn("human", question.first_turn)]
    ids, mask = tokenize_prompt(turns, answerer.template, answerer.tokenizer, 16)
    model = answerer.model
    embeds = model.get_input_embeddings()(torch.tensor([ids]))
    if question.image:
        image = Image.open(tiny.images / question.image).convert("RGB")
        pixels = answerer.transform(image)[None]
        visual = torch.stack(list(model.get_image_features(pixels).pooler_output))
        embeds = embeds.masked_scatter(torch.tensor([mask])[..., None], visual)
    new: list[int] = []
    while len(new) < 12 and new[-1:] != [2]:
        hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
        new.append(int(model.lm_head(hidden[:, -1]).argmax()))
        embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([new[-1:]]))], 1)
    return answerer.tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.fixture
def table(tiny, tmp_path):
    """MMBench's table: a question, its rotated copy with the same image, one with two options."""
    image = base64.b64encode((tiny.images / "001.png").read_bytes()).decode()
    other = base64.b64encode((tiny.images / "002.jpg").read_bytes()).decode()
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"]
    rows = [
        columns,
        ["1", "Which?", '"Look\nwell."', "red", "blue", '"a ""b"""', "nan", "A", "colour", image],
        ["1000001", "Which?", "NaN", "blue", "red", "", "green", "B", "colour", "1"],
        ["2", "Is it?", "", "yes", "no", "", "", "A", "other", other],
    ]
    path = tmp_path / "bench.tsv"
    path.write_text("\n".join("\t".join([*row, "x"]) for row in rows) + "\n")
    return path


@pytest.fixture
def conversations(tmp_path):
    """ScienceQA's list: with and without an image."""
    rows = [
        {
            "id": "4",
            "image": "006.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nContext: N/A\nWhich?\nA. red\nB. blue"},
                {"from": "gpt", "value": "The answer is A."},
            ],
        },
        {"id": "5", "conversations": [{"from": "human", "value": "Which?\nA. red\nB. blue"}]},
    ]
    path = tmp_path / "llava_test_CQM-A.json"
    path.write_text(json.dumps(rows, indent=1))
    return path


class Endpoint:
    """A fake endpoint: gives the replies in order, the last one for ever, and keeps requests."""

    def __init__(self):
        self.replies, self.requests, self.waits = [(200, "1.0")], [], []
        self.given_up = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append((self.path, self.headers.get("Authorization"), body))
                replies = endpoint.replies
                status, text = replies.pop(0) if len(replies) > 1 else replies[0]
                if status == "slow":
                    endpoint.given_up.wait(600)
                    return
                if status == 200:
                    message = {"choices": [{"message": {"content": text}}], "model": "judge-0613"}
                    text = json.dumps(message)
                self.send_response(status)
                self.send_header("Retry-After", "3")
                if 300 <= status < 400:
                    self.send_header("Location", text)
                self.end_headers()
                with contextlib.suppress(OSError):  # who asks need not read all of it
                    self.wfile.write(text.encode())

            def do_GET(self):  # after a redirect that was followed
                endpoint.requests.append((self.path, self.headers.get("Authorization"), None))

            def log_message(self, *arguments):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def sleep(self, seconds: float) -> None:
        """Take the place of `time.sleep` between two tries."""
        self.waits.append(seconds)
        self.given_up.set()


@contextlib.contextmanager
def serving() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    thread = threading.Thread(target=endpoint.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield endpoint
    endpoint.server.shutdown()
    thread.join()
    endpoint.server.server_close()


@pytest.fixture
def endpoint(monkeypatch) -> Iterator[Endpoint]:
    """A judge's endpoint; its `waits` are the seconds between tries, which are not slept."""
    monkeypatch.setenv("no_proxy", "*")
    with serving() as endpoint:
        monkeypatch.setattr("time.sleep", endpoint.sleep)
        yield endpoint


@pytest.fixture
def elsewhere(endpoint) -> Iterator[Endpoint]:
    """Another one."""
    with serving() as endpoint:
        yield endpoint
