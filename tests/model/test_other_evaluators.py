"""Exports scored by lm_eval (MMLU's way of asking) and by lmms-eval, through their commands.

``LLAVA_SEA_LM_EVAL_PYTHON`` and ``LLAVA_SEA_LMMS_PYTHON`` name a Python that has lm_eval (0.4.13
was tried) and one that has lmms_eval (0.7.3, with transformers 5.23 and 4.57); without them these
are skipped. Neither a dataset nor the hub is needed.
"""

import json
import os

import numpy as np
import pytest
import torch
from model_world import run_elsewhere, with_bos, write
from transformers import AutoModelForCausalLM, AutoTokenizer

from llava_sea.eval.generation import Answerer, Decoding
from llava_sea.eval.questions import Question
from llava_sea.model.export import main
from tests.worlds import save_images

LM_EVAL = os.environ.get("LLAVA_SEA_LM_EVAL_PYTHON")
LMMS_EVAL = os.environ.get("LLAVA_SEA_LMMS_PYTHON")
LETTERS = "ABCD"
TEXTS = ["What is beside the red ball?", "Which one?\nA. a kite\nB. a tree\nAnswer now."]
pytestmark = pytest.mark.slow
# MMLU's task in lm_eval, but for where its questions are.
LM_TASK = """\
task: mmlu_of_balls
dataset_path: json
dataset_kwargs: {data_files: {test: FILE, dev: FILE}}
test_split: test
fewshot_split: dev
fewshot_config: {sampler: first_n}
output_type: multiple_choice
doc_to_text: "{{question.strip()}}\\nA. {{choices[0]}}\\nB. {{choices[1]}}\\nC. {{choices[2]}}\\n\\
  D. {{choices[3]}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
LMMS_TASK = """\
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


def export(case, folder, kind):
    write(case, folder / "llava")
    main([f"--format={kind}", f"--model_path={folder / 'llava'}", f"--output_dir={folder / kind}"])
    return folder / kind


def write_task(folder, name, task, rows):
    """Write a task and its questions where the flags of `evaluate` look for them."""
    (folder / "tasks").mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = task.replace("FILE", json.dumps(str(folder / "rows.jsonl")))
    (folder / "tasks" / f"{name}.yaml").write_text(text)


def evaluate(python, module, folder, model, name, *flags):
    """Run an evaluator's command; return what it answered to each question."""
    flags = ["--include_path", str(folder / "tasks"), "--tasks", name, "--model", *model, *flags]
    flags += ["--device", "cpu", "--log_samples", "--output_path", "out"]
    print(run_elsewhere(python, ["-m", module, *flags], folder))
    (samples,) = (folder / "out").rglob("*samples*.jsonl")
    return [json.loads(line) for line in samples.read_text().splitlines()]


@pytest.mark.skipif(not LM_EVAL, reason="LLAVA_SEA_LM_EVAL_PYTHON names no Python with lm_eval")
def test_lm_eval_gives_our_log_likelihoods(make_case, tmp_path):
    llm = export(with_bos(make_case("clip-pad-v1")), tmp_path, "llm")
    tokenizer, model = AutoTokenizer.from_pretrained(llm), AutoModelForCausalLM.from_pretrained(llm)

    @torch.no_grad()
    def likelihood(context, continuation):
        start = len(tokenizer(context).input_ids)
        ids = torch.tensor(tokenizer(context + continuation).input_ids)
        predicted = model(input_ids=ids[None, :-1]).logits[0].log_softmax(-1)[start - 1 :]
        return predicted.gather(1, ids[start:, None]).sum().item()

    def asked(question):
        choices = zip(LETTERS, question["choices"], strict=True)
        options = "".join(f"{letter}. {text}\n" for letter, text in choices)
        return f"{question['question']}\n{options}Answer:"

    colours = ["red", "green", "blue", "black"]
    questions = [
        {
            "question": f"Which one is the {colour} {thing}?",
            "choices": [f"a {c} {thing}" for c in colours],
            "answer": answer,
        }
        for answer, colour in enumerate(colours)
        for thing in ("ball", "kite")
    ]
    write_task(tmp_path, "mmlu_of_balls", LM_TASK, questions)
    model_flags = ["hf", "--model_args", f"pretrained={llm},dtype=float32"]
    rows = evaluate(
        LM_EVAL, "lm_eval", tmp_path, model_flags, "mmlu_of_balls", "--num_fewshot", "2"
    )
    assert len(rows) == len(questions)
    examples = "".join(f"{asked(e)} {LETTERS[e['answer']]}\n\n" for e in questions[:2])
    right = 0
    for row in rows:
        question = row["doc"]
        ours = [likelihood(examples + asked(question), f" {letter}") for letter in LETTERS]
        theirs = [float(value) for value, _ in row["filtered_resps"]]
        assert theirs == pytest.approx(ours, abs=1e-4) and len(set(theirs)) == 4
        right += ours.index(max(ours)) == question["answer"]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(results.read_text())["results"]["mmlu_of_balls"]["acc,none"]
    assert found == pytest.approx(right / len(questions))


@pytest.mark.skipif(not LMMS_EVAL, reason="LLAVA_SEA_LMMS_PYTHON names no Python with lmms_eval")
@pytest.mark.parametrize(
    "name", ["clip-pad-v1", "clip-square-v1-legacy", "dinov2-pad-llava_v1-tied"]
)
def test_lmms_eval_gives_our_answers(make_case, name, tmp_path):
    case = with_bos(make_case(name))
    folder = export(case, tmp_path, "lmms")
    for number in range(len(TEXTS)):
        rng = np.random.default_rng(number)
        save_images(tmp_path, [f"{number}.png"], (30, 47 - 20 * number), rng)
    questions = [Question(n, text, f"{n}.png", text, "test") for n, text in enumerate(TEXTS)]
    answerer = Answerer(
        case.model, case.tokenizer, case.transform, case.template, tmp_path, Decoding(8)
    )
    answers = {q.question_id: text for batch in answerer.answers(questions) for q, text in batch}
    assert len(set(answers.values())) == len(TEXTS)
    rows = [
        {"image": str(tmp_path / f"{n}.png"), "text": text, "answer": right}
        for n, (text, right) in enumerate(zip(TEXTS, [answers[0], "no"], strict=True))
    ]
    write_task(tmp_path, "balls", LMMS_TASK, rows)
    (tmp_path / "tasks" / "balls.py").write_text(DOC_TO_VISUAL)
    model = ["llava_hf", "--model_args", f"pretrained={folder},device_map=cpu,dtype=float32"]
    found = evaluate(LMMS_EVAL, "lmms_eval", tmp_path, model, "balls", "--batch_size", "1")
    assert {row["doc_id"]: row["filtered_resps"].strip() for row in found} == answers
    assert [row["exact_match"] for row in found] == [1, 0]
