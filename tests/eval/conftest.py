"""A small random model that answers at length, its checkpoint, and questions of every kind."""

from __future__ import annotations

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

from llava_sea.errors import run_command
from playground.benchmarks.build import build
from tests import worlds


@pytest.fixture(scope="session")
def answerer(tiny, tmp_path_factory) -> SimpleNamespace:
    """The parts of a model and its checkpoint's folder."""
    root = tmp_path_factory.mktemp("eval")
    return worlds.talker(root, tiny, max_length=500, max_position_embeddings=512)


def _run_rank(main: Callable, flags: list[str], rank: int, port: int, folder: Path) -> None:
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
def eight(tmp_path_factory) -> Path:
    """The miniature eight."""
    folder = tmp_path_factory.mktemp("benchmarks")
    build(folder)
    return folder


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


@pytest.fixture
def jsonl(tmp_path, jsonl_rows):
    """The file of `jsonl_rows`."""
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in jsonl_rows))
    return path


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
