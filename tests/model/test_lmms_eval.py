"""A checkpoint written for lmms-eval, answering through lmms-eval's own class and its command.

``LLAVA_SEA_LMMS_PYTHON`` names a Python that has lmms_eval (0.7.3 was tried, with transformers 5.23
and 4.57); without it these are skipped. Neither a dataset nor the hub is needed.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from model_world import run_elsewhere, tokens_of, with_bos, write
from PIL import Image

from llava_sea.eval.generation import Answerer, Decoding
from llava_sea.eval.questions import Question
from llava_sea.model.export import main

PYTHON = os.environ.get("LLAVA_SEA_LMMS_PYTHON")
SCRIPT = Path(__file__).with_name("answer_with_lmms_eval.py")
NEW_TOKENS = 8
TEXTS = ["What is beside the red ball?", "Which one?\nA. a kite\nB. a tree\nAnswer now."]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="LLAVA_SEA_LMMS_PYTHON names no Python with lmms_eval"),
]
TASK = """\
task: balls
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_visual: !function balls.doc_to_visual
doc_to_text: "{{text}}"
doc_to_target: "{{answer}}"
generation_kwargs: {max_new_tokens: 8, temperature: 0, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
DOC_TO_VISUAL = """\
from PIL import Image

def doc_to_visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]
"""


@pytest.fixture(
    scope="module",
    params=["clip-pad-v1", "clip-square-v1-legacy", "dinov2-pad-llava_v1-tied"],
)
def exported(request, make_case, tmp_path_factory) -> SimpleNamespace:
    """A case written for lmms-eval, with two questions and what training's code answers."""
    case = with_bos(make_case(request.param))
    root = tmp_path_factory.mktemp("for lmms eval")
    write(case, root / "llava")
    case.folder = root / "lmms"
    main(["--format=lmms", f"--model_path={root / 'llava'}", f"--output_dir={case.folder}"])
    rng = np.random.default_rng(0)
    questions, case.questions = [], []
    for number, text in enumerate(TEXTS):
        name = f"{number}.png"
        pixels = rng.integers(0, 255, (30, 47 - 20 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
        case.questions.append([str(root / name), text])
        questions.append(Question(number, text, name, text, "test"))
    answerer = Answerer(
        case.model, case.tokenizer, case.transform, case.template, root, Decoding(NEW_TOKENS)
    )
    answers = {q.question_id: text for batch in answerer.answers(questions) for q, text in batch}
    case.answers = [answers[number] for number in range(len(TEXTS))]
    assert len(set(case.answers)) == len(TEXTS)
    return case


def test_lmms_evals_classes_give_our_answers(exported, tmp_path):
    job = {"folder": str(exported.folder), "questions": exported.questions}
    (tmp_path / "job.json").write_text(json.dumps(job | {"new_tokens": NEW_TOKENS}))
    run_elsewhere(PYTHON, [SCRIPT, tmp_path / "job.json", tmp_path / "out.json"], tmp_path)
    found = json.loads((tmp_path / "out.json").read_text())
    config = json.loads((exported.folder / "config.json").read_text())
    for kind in ("chat", "simple"):
        for text, ids in zip(TEXTS, found[kind]["prompts"], strict=True):
            ours = tokens_of(exported, f"<image>\n{text}", folder=tmp_path)
            places = zip(ours.input_ids, ours.image_mask, strict=True)
            assert ids == [config["image_token_index"] if is_ else token for token, is_ in places]
            assert ids.count(1) == 1
        print(f"\n{kind}: {found[kind]['texts']}\nours: {exported.answers}")
        assert [text.strip() for text in found[kind]["texts"]] == exported.answers


def test_the_command_gives_our_answers(exported, tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    right = [exported.answers[0], "something else"]
    rows = [
        {"image": image, "text": text, "answer": answer}
        for (image, text), answer in zip(exported.questions, right, strict=True)
    ]
    (tmp_path / "balls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "balls.yaml").write_text(
        TASK.replace("FILE", json.dumps(str(tmp_path / "balls.jsonl")))
    )
    (tasks / "balls.py").write_text(DOC_TO_VISUAL)
    flags = ["--model", "llava_hf", "--tasks", "balls", "--include_path", str(tasks)]
    flags += ["--model_args", f"pretrained={exported.folder},device_map=cpu,dtype=float32"]
    flags += ["--device", "cpu", "--batch_size", "1", "--log_samples", "--output_path", "out"]
    said = run_elsewhere(PYTHON, ["-m", "lmms_eval", *flags], tmp_path)
    (samples,) = (tmp_path / "out").rglob("*samples_balls.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    print(f"\n{said}")
    texts = {row["doc_id"]: row["filtered_resps"] for row in found}
    assert [texts[n].strip() for n in range(len(TEXTS))] == exported.answers
    assert [row["exact_match"] for row in found] == [1, 0]
