"""A written checkpoint behind `transformers serve`: an OpenAI-style request with a picture."""

import base64
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from model_world import tokens_of, write
from PIL import Image

from tests import worlds

SERVING = ("fastapi", "uvicorn", "openai", "pydantic")
QUESTION = "What is beside the red ball?"
_START = "from transformers.cli.transformers import main; main()"


@pytest.fixture
def case(repo):
    """The miniature world's models with an untrained projector between them."""
    models = repo / "playground" / "models"
    return worlds.llava_parts(models / "llm-small", models / "clip", max_length=1024)


@pytest.fixture
def server(case, tmp_path):
    missing = [name for name in SERVING if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)}: pip install -e '.[serving]'")
    write(case, tmp_path / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", _START, "serve", str(tmp_path / "model")]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            cwd=tmp_path,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield f"http://127.0.0.1:{port}", process, tmp_path
    process.terminate()
    process.wait(30)


def ask(url, body):
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_request_with_a_picture_is_answered(case, server):
    url, process, folder = server
    deadline = time.monotonic() + 150
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5)
            break
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            time.sleep(0.5)
    pixels = np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    picture = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": QUESTION},
    ]
    body = {
        "model": str(folder / "model"),
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        "temperature": 0.0,
    }
    answer = ask(url, body)["choices"][0]["message"]
    assert answer["role"] == "assistant"

    prompt = tokens_of(case, f"<image>\n{QUESTION}", folder=folder, patches=64)
    ids, mask = list(prompt.input_ids), list(prompt.image_mask)
    ends = [case.tokenizer.eos_token_id]
    pixel_values = case.transform(Image.fromarray(pixels))
    new = worlds.greedy(case.model, ids, mask, pixel_values, 8, ends)
    ours = case.tokenizer.decode(new, skip_special_tokens=True)
    print(f"\n{answer['content']!r}")
    assert answer["content"].strip() == ours.strip() and ours.strip()
