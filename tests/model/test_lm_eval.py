"""An exported LLM scored by lm_eval's own model class, and through its command.

``LLAVA_SEA_LM_EVAL_PYTHON`` names a Python that has lm_eval (0.4.13 was tried); without it these
are skipped. Neither a dataset nor the hub is needed.
"""

import functools
import json
import os
from pathlib import Path

import pytest
import torch
from model_world import run_elsewhere, with_bos, write
from transformers import AutoModelForCausalLM, AutoTokenizer

from llava_sea.model.export import main

PYTHON = os.environ.get("LLAVA_SEA_LM_EVAL_PYTHON")
SCRIPT = Path(__file__).with_name("score_with_lm_eval.py")
LETTERS = "ABCD"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="LLAVA_SEA_LM_EVAL_PYTHON names no Python with lm_eval"),
]
# MMLU's task in lm_eval, but for where its questions are.
TASK = """\
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


@pytest.fixture(scope="module")
def llm(make_case, tmp_path_factory):
    root = tmp_path_factory.mktemp("exported")
    write(with_bos(make_case("clip-pad-v1")), root / "llava")
    main(["--format=llm", f"--model_path={root / 'llava'}", f"--output_dir={root / 'llm'}"])
    return root / "llm"


@functools.cache
def opened(folder):
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)


def ours(folder, context, continuation):
    """Sum the log-probabilities of the continuation's tokens."""
    tokenizer, model = opened(folder)
    start = len(tokenizer(context).input_ids)
    ids = torch.tensor(tokenizer(context + continuation).input_ids)
    with torch.no_grad():
        logits = model(input_ids=ids[None, :-1]).logits[0].log_softmax(-1)
    predicted = logits[start - 1 :]
    value = predicted.gather(1, ids[start:, None]).sum().item()
    return value, bool((predicted.argmax(-1) == ids[start:]).all())


def question_text(question):
    options = "".join(
        f"{letter}. {text}\n" for letter, text in zip(LETTERS, question["choices"], strict=True)
    )
    return f"{question['question']}\n{options}Answer:"


def test_log_likelihoods_are_ours(llm, tmp_path):
    requests = [
        ["a red ball beside a", " green box"],
        ["a red ball beside a", " blue house"],
        ["What is it?\nA. a kite\nB. a tree\nAnswer:", " A"],
        ["What is it?\nA. a kite\nB. a tree\nAnswer:", " B"],
    ]
    (tmp_path / "job.json").write_text(json.dumps({"folder": str(llm), "requests": requests}))
    run_elsewhere(PYTHON, [SCRIPT, tmp_path / "job.json", tmp_path / "out.json"], tmp_path)
    theirs = json.loads((tmp_path / "out.json").read_text())
    expected = [ours(llm, *pair) for pair in requests]
    print(f"\nlm_eval {theirs}\nours    {expected}")
    assert len({value for value, _ in theirs}) == len(requests)
    for (value, greedy), (our_value, our_greedy) in zip(theirs, expected, strict=True):
        assert value == pytest.approx(our_value, abs=1e-4) and greedy == our_greedy


def test_the_command_gives_our_log_likelihoods(llm, tmp_path):
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
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    (tmp_path / "questions.jsonl").write_text(lines)
    (tmp_path / "tasks").mkdir()
    task = TASK.replace("FILE", json.dumps(str(tmp_path / "questions.jsonl")))
    (tmp_path / "tasks" / "mmlu_of_balls.yaml").write_text(task)
    flags = ["--include_path", "tasks", "--tasks", "mmlu_of_balls", "--num_fewshot", "2"]
    flags += ["--model", "hf", "--model_args", f"pretrained={llm},dtype=float32"]
    flags += ["--device", "cpu", "--log_samples", "--output_path", "out"]
    said = run_elsewhere(PYTHON, ["-m", "lm_eval", *flags], tmp_path)
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == len(questions)

    examples = "".join(f"{question_text(e)} {LETTERS[e['answer']]}\n\n" for e in questions[:2])
    right, largest = 0, 0.0
    for row in rows:
        question = row["doc"]
        values = [ours(llm, examples + question_text(question), f" {c}")[0] for c in LETTERS]
        theirs = [float(value) for value, _ in row["filtered_resps"]]
        assert len(set(theirs)) == 4
        largest = max(largest, *(abs(a - b) for a, b in zip(theirs, values, strict=True)))
        right += values.index(max(values)) == question["answer"]
    print(f"\n{said}\nlargest difference {largest:.1e}; ours {right} of {len(questions)}")
    assert largest < 1e-4
    (results,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(results.read_text())["results"]["mmlu_of_balls"]["acc,none"]
    assert found == pytest.approx(right / len(questions))
