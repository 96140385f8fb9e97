"""A small random model that answers at length, its checkpoint, and questions of every kind."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from llava_sea.data.records import Turn
from llava_sea.data.tokenize import tokenize_prompt
from llava_sea.eval.questions import Question, distinct, read_questions
from tests import worlds


@pytest.fixture(scope="session")
def answerer(tiny, tmp_path_factory) -> SimpleNamespace:
    """The parts of a model and its checkpoint's folder."""
    root = tmp_path_factory.mktemp("eval")
    return worlds.talker(root, tiny, max_length=500, max_position_embeddings=512)


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
