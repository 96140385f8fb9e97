import json

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer
from llava_sea.eval.judge import Case, GradeCache, LocalJudge, OpenAIJudge, read_grade
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


def judge_at(endpoint, waits=None, **options):
    waits = [] if waits is None else waits
    return OpenAIJudge(endpoint.url, "judge", "secret", sleep=waits.append, **options)


CASE = Case("v1_9", "truth", "prediction", "the prompt")


def test_prompt_is_the_papers():
    prompt = grading_prompt("What is x?", "-1<AND>-5", "x = 3")
    assert prompt.startswith(GRADING_PROMPT)
    assert prompt.endswith(" | 1.0\n\nWhat is x? | -1 <AND> -5 | x = 3 | ")
    assert "What is x in the equation? | -1 <AND> -5 | x = -5 or 5 | 0.5\n" in prompt
    assert len(GRADING_PROMPT) == 2290  # the official evaluator's, which it equals


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("0.5", 0.5),
        (" 1.0 | ", 1.0),
        ("0", 0.0),
        ("1", 1.0),
        ("0.85.", 0.85),
        ("0.", None),  # broken off: it may have been 0.9
        ("1.", None),
        ("1.5", None),
        ("1.05", None),
        ("10", None),
        ("0/10", None),
        ("0,5", None),  # a comma for the point: not 0
        ("1e-1", None),
        ("0.5-0.7", None),
        ("0.5, it is half right", 0.5),
        ("0.5/1", None),
        ("0.85 / 1", None),
        ("1 out of 10", None),
        ("0 of 2 parts", None),
        ("1 often", 1.0),
        ("-0.5", None),
        ("The score is 0.5", None),
        ("", None),
    ],
)
def test_reads_grades(reply, value):
    assert read_grade(reply) == value


@pytest.mark.parametrize(
    ("truth", "prediction", "value"),
    [
        # The equation of the paper's own examples.
        ("-1<AND>-5", "x = 3", 0.0),
        ("-1<AND>-5", "x = -1", 0.5),
        ("-1<AND>-5", "x = -5 or 5", 0.5),
        ("-1 <AND> -5", "x = -1 or x = -5", 1.0),
        ("Bill<OR>Gates", "gates", 1.0),
        ("one two<OR>three", "two", 0.5),
        ("a<AND>b<OR>c", "a", 0.5),
        ("a<AND>b<OR>c", "c", 1.0),
        ("the red big car", "a RED bicycle", 0.3),  # 1/4, rounded up
        ("one two three", "three", 0.3),
        ("50-3", "50", 0.5),  # words 50 and 3: a minus between numbers is none
        ("stop", "", 0.0),
        ("...", "...", 0.0),  # no words to find
    ],
)
def test_local_judge(truth, prediction, value):
    assert LocalJudge().grade(Case("v1_0", truth, prediction, "")).value == value


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


def test_grades_are_kept_and_a_stopped_run_goes_on(metadata, tmp_path, endpoint):
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


def test_a_broken_reply_is_asked_again_warmer(endpoint):
    endpoint.replies = [(200, "I think"), (200, None), (200, "well"), (200, "0.7")]
    assert judge_at(endpoint).grade(CASE).value == 0.7
    bodies = [body for _, _, body in endpoint.requests]
    assert [body["temperature"] for body in bodies] == [0.0, 0.0, 0.5, 1.0]
    assert bodies[1]["messages"][0]["content"] == (
        "the prompt\nPredict the correctness of the answer (digit): "
    )


def test_replies_without_a_grade_are_an_error_and_no_guess(endpoint):
    endpoint.replies = [(200, "no idea")]
    with pytest.raises(UserError, match=r"question v1_9: no grade .* in 3 replies.*'no idea'"):
        judge_at(endpoint, tries=3).grade(CASE)
    assert len(endpoint.requests) == 3


def test_busy_endpoints_are_waited_for(endpoint):
    waits = []
    endpoint.replies = [(500, ""), (429, "slow down"), (503, ""), (200, "0.2")]
    assert judge_at(endpoint, waits).grade(CASE).value == 0.2
    assert waits == [3.0, 3.0, 4.0]  # 1, 2, 4, and the endpoint asked for 3
    endpoint.replies = [(500, "down")]
    with pytest.raises(UserError, match=r"v1_9: no reply from .* in 2 tries, the last: HTTP 500"):
        judge_at(endpoint, tries=2).grade(CASE)


def test_a_reply_that_takes_too_long_is_asked_for_again(endpoint):
    endpoint.replies = [("slow", ""), (200, "0.2")]
    judge = OpenAIJudge(
        endpoint.url, "judge", timeout=0.2, sleep=lambda seconds: endpoint.given_up.set()
    )
    assert judge.grade(CASE).value == 0.2
    assert endpoint.given_up.is_set()


def test_nobody_there(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    judge = OpenAIJudge("http://127.0.0.1:9", "judge", tries=2, sleep=lambda seconds: None)
    with pytest.raises(UserError, match="v1_9: no reply from"):
        judge.grade(CASE)


def test_a_wrong_model_is_refused_at_once(endpoint):
    endpoint.replies = [(404, '{"error": {"message": "The model `judge` does not exist"}}')]
    with pytest.raises(
        UserError, match=r"model `judge` does not exist.*Mend the model's name"
    ) as e:
        judge_at(endpoint).grade(CASE)
    assert len(endpoint.requests) == 1
    assert "secret" not in str(e.value)


@pytest.mark.parametrize(
    ("base_url", "path"),
    [("", "/v1"), ("/", "/v1"), ("/v1", "/v1"), ("/v1/", "/v1"), ("/api/v3", "/api/v3")],
)
def test_addresses_as_openais_clients_take_them(endpoint, base_url, path):
    OpenAIJudge(endpoint.url + base_url, "judge").grade(CASE)
    assert endpoint.requests[0][:2] == (f"{path}/chat/completions", None)


def test_an_address_that_is_none():
    with pytest.raises(UserError, match="'localhost:8000' must be like http"):
        OpenAIJudge("localhost:8000", "judge")


def test_a_broken_cache_line_is_named(tmp_path):
    (tmp_path / "g.jsonl").write_text('{"value": 1.0}\n')
    with pytest.raises(UserError, match=r"g.jsonl:1: not a grade"):
        GradeCache(tmp_path / "g.jsonl")


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
    with pytest.raises(UserError, match=r"mm-vet.json: v1_0 needs .* of rec, ocr"):
        score([], metadata, LocalJudge(), cache=cache)
    metadata.write_text("[]")
    with pytest.raises(UserError, match="object of questions by id"):
        score([], metadata, LocalJudge(), cache=cache)


@pytest.mark.parametrize("url", ["http://[", "http://x:port", "http://x/a b", "http://", "ftp://x"])
def test_addresses_that_cannot_be(url):
    with pytest.raises(UserError, match=r"must be like http://HOST:PORT/v1"):
        OpenAIJudge(url, "m")


def test_a_key_is_taken_without_its_line_end(endpoint):
    judge = OpenAIJudge(endpoint.url, "m", "secret\r\n")
    assert judge.grade(Case("v1_0", "a", "a", "p")).value == 1.0
    assert endpoint.requests[0][1] == "Bearer secret"
    with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
        OpenAIJudge(endpoint.url, "m", "two\nlines")
    assert "two" not in str(caught.value)


@pytest.mark.parametrize("value", ["0.5", 7, None, True])
def test_a_kept_grade_that_is_no_number_is_refused(tmp_path, value):
    path = tmp_path / "grades.jsonl"
    GradeCache(path).grade(LocalJudge(), Case("v1_0", "a", "a", "p"))
    row = json.loads(path.read_text())
    path.write_text(json.dumps(row | {"value": value}) + "\n")
    with pytest.raises(UserError, match=r"grades.jsonl:1: not a grade"):
        GradeCache(path)


def test_a_folder_in_the_place_of_the_grades(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        GradeCache(tmp_path)
