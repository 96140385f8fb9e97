import hashlib
import json

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.judge import LocalJudge, OpenAIJudge
from llava_sea.eval.scorers.mmvet import (
    GRADING_PROMPT,
    grading_prompt,
    official_ids,
    score,
    write_results,
)

METADATA = {
    "v1_0": {"question": "What is x?", "answer": "-1<AND>-5", "capability": ["ocr", "math"]},
    "v1_1": {"question": "Who?", "answer": "Bill<OR>Gates", "capability": ["rec", "know"]},
    "v1_2": {"question": "Where?", "answer": "on the left", "capability": ["rec"]},
    "v1_3": {"question": "Read it", "answer": "STOP", "capability": ["math", "ocr"]},
}
GIVEN = {0: "x = -1", 1: "gates, I think", 2: "in the box", 3: "stop!"}


@pytest.fixture
def metadata(tmp_path):
    path = tmp_path / "mm-vet.json"
    path.write_text(json.dumps(METADATA))
    return path


def answers(texts):
    return [Answer(key, "", text) for key, text in texts.items()]


def judge_at(endpoint):
    return OpenAIJudge(endpoint.url, "judge", "secret")


def test_prompt_is_the_papers():
    prompt = grading_prompt("What is x?", "-1<AND>-5", "x = 3")
    assert prompt.startswith(GRADING_PROMPT)
    assert prompt.endswith(" | 1.0\n\nWhat is x? | -1 <AND> -5 | x = 3 | ")
    assert "What is x in the equation? | -1 <AND> -5 | x = -5 or 5 | 0.5\n" in prompt
    # of the prompt in mm-vet_evaluator.py (github.com/yuweihao/MM-Vet, 7d717c2)
    official = "d1b3e0a5b4e72c888b77164489d705bba4dd149934fff564dfba6443d81afe3f"
    assert hashlib.sha256(GRADING_PROMPT.encode()).hexdigest() == official


def test_worked_case_with_the_local_judge(metadata, tmp_path):
    # Grades 0.5, 1.0, 1/3 -> 0.3 ("the"), 1.0.
    result = score(answers(GIVEN), metadata, LocalJudge(), cache=tmp_path / "grades.jsonl")
    assert result.value == pytest.approx(70.0)
    assert (result.questions, result.missing) == (4, 0)
    assert result.parts == pytest.approx(
        {
            "capability: rec": 65.0,
            "capability: ocr": 75.0,
            "capability: know": 100.0,
            "capability: math": 75.0,
            "combination: rec": 30.0,
            "combination: rec+know": 100.0,
            "combination: ocr+math": 75.0,
        }
    )
    assert result.protocol["judge"] == "local word-match judge, not an LLM"
    assert result.protocol.keys() == {
        "judge",
        "judge's prompt",
        "grades an answer",
        "empty or missing answers",
    }


def test_perfect_empty_and_missing_answers(metadata, tmp_path, endpoint):
    cache = tmp_path / "grades.jsonl"
    perfect = {key: row["answer"] for key, row in METADATA.items()}  # ids as the official file's
    assert score(answers(perfect), metadata, LocalJudge(), cache=cache).value == 100.0
    empty = dict.fromkeys(METADATA, " ")
    result = score(answers(empty), metadata, judge_at(endpoint), cache=cache)
    assert (result.value, result.missing, endpoint.requests) == (0.0, 0, [])
    result = score([], metadata, judge_at(endpoint), cache=cache)
    assert (result.value, result.missing, endpoint.requests) == (0.0, 4, [])


def test_asks_as_the_official_evaluator(metadata, tmp_path, endpoint):
    endpoint.replies = [(200, "0.0"), (200, "0.4"), (200, "1.0"), (200, "1.0")]
    result = score(answers(GIVEN), metadata, judge_at(endpoint), cache=tmp_path / "g.jsonl")
    assert result.value == pytest.approx(60.0)
    path, key, body = endpoint.requests[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"]) == ("judge", 0.0)
    prompt = grading_prompt("What is x?", "-1<AND>-5", "x = -1")
    assert body["messages"] == [{"role": "user", "content": prompt}]
    assert result.protocol["judge"] == f"judge at {endpoint.url.removeprefix('http://')}"
    assert result.protocol["model, as the endpoint says"] == "judge-0613"
    assert result.when.startswith("20")


def test_grades_are_kept_and_a_stopped_run_resumes(metadata, tmp_path, endpoint):
    cache = tmp_path / "results" / "g.jsonl"
    endpoint.replies = [(200, "0.0"), (200, "0.4"), (400, "out of credit")]
    with pytest.raises(UserError, match=r"question v1_2: .*HTTP 400: out of credit"):
        score(answers(GIVEN), metadata, judge_at(endpoint), cache=cache)
    with open(cache, "a") as file:
        file.write('{"question_id": "v1_2", "jud')  # killed while writing
    endpoint.replies, endpoint.requests = [(200, "1.0")], []
    first = score(answers(GIVEN), metadata, judge_at(endpoint), cache=cache)
    assert (first.value, len(endpoint.requests)) == (pytest.approx(60.0), 2)
    assert score(answers(GIVEN), metadata, judge_at(endpoint), cache=cache) == first
    assert len(endpoint.requests) == 2
    rows = [json.loads(line) for line in cache.read_text().splitlines()]
    assert [row["question_id"] for row in rows] == ["v1_0", "v1_1", "v1_2", "v1_3"]
    assert (rows[1]["answer"], rows[1]["value"]) == ("gates, I think", 0.4)
    # Another answer, or another judge, is asked anew.
    score(answers({**GIVEN, 2: "left"}), metadata, judge_at(endpoint), cache=cache)
    assert len(endpoint.requests) == 3
    assert score(answers(GIVEN), metadata, LocalJudge(), cache=cache).value == pytest.approx(70.0)


def test_results_as_the_official_evaluator_reads_them(tmp_path):
    write_results(
        [Answer(0, "", "zwölf"), Answer("v1_1", "", "b")], tmp_path / "results" / "x.json"
    )
    written = json.loads((tmp_path / "results" / "x.json").read_text())
    assert written == {"v1_0": "zwölf", "v1_1": "b"}
    with pytest.raises(UserError, match="v1_0 has two answers"):
        official_ids([Answer(0, "", "a"), Answer("v1_0", "", "b")])


def test_wrong_files_and_ids_are_named(metadata, tmp_path):
    cache = tmp_path / "g.jsonl"
    with pytest.raises(UserError, match="question_id 'v1_7'"):
        score(answers({7: "a"}), metadata, LocalJudge(), cache=cache)
    metadata.write_text(json.dumps({"v1_0": {**METADATA["v1_0"], "capability": ["smell"]}}))
    with pytest.raises(UserError, match=r"mm-vet.json: v1_0.* of rec, ocr"):
        score([], metadata, LocalJudge(), cache=cache)
    metadata.write_text("[]")
    with pytest.raises(UserError, match="object of questions by id"):
        score([], metadata, LocalJudge(), cache=cache)
