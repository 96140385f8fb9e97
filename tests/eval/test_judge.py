"""Judges: grades read and kept, an endpoint asked again or refused, a key that stays secret."""

import json
import sys
from urllib.parse import quote

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.judge import Case, GradeCache, LocalJudge, OpenAIJudge, read_grade

CASE = Case("v1_9", "truth", "prediction", "the prompt")


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
        ("50-3", "50", 0.5),  # words 50 and 3: a minus between numbers is none
        ("stop", "", 0.0),
        ("...", "...", 0.0),  # no words to find
    ],
)
def test_local_judge(truth, prediction, value):
    assert LocalJudge().grade(Case("v1_0", truth, prediction, "")).value == value


def test_a_broken_reply_is_asked_for_again_warmer(endpoint):
    endpoint.replies = [(200, "I think"), (200, None), (200, "well"), (200, "0.7")]
    assert OpenAIJudge(endpoint.url, "judge").grade(CASE).value == 0.7
    bodies = [body for _, _, body in endpoint.requests]
    assert [body["temperature"] for body in bodies] == [0.0, 0.0, 0.5, 1.0]
    assert bodies[1]["messages"][0]["content"] == (
        "the prompt\nPredict the correctness of the answer (digit): "
    )


def test_replies_without_a_grade_are_an_error_and_no_guess(endpoint):
    endpoint.replies = [(200, "no idea")]
    with pytest.raises(UserError, match=r"question v1_9: no grade .* in 3 replies.*'no idea'"):
        OpenAIJudge(endpoint.url, "judge", tries=3).grade(CASE)
    assert len(endpoint.requests) == 3


def test_busy_endpoints_are_waited_for(endpoint):
    endpoint.replies = [(500, ""), (429, "slow down"), (503, ""), (200, "0.2")]
    assert OpenAIJudge(endpoint.url, "judge").grade(CASE).value == 0.2
    assert endpoint.waits == [3.0, 3.0, 3.0]  # as the endpoint asks
    endpoint.replies = [(500, "down")]
    with pytest.raises(UserError, match=r"v1_9: no reply from .* in 2 tries, the last: HTTP 500"):
        OpenAIJudge(endpoint.url, "judge", tries=2).grade(CASE)


def test_a_reply_that_takes_too_long_is_asked_for_again(endpoint):
    endpoint.replies = [("slow", ""), (200, "0.2")]
    assert OpenAIJudge(endpoint.url, "judge", timeout=0.2).grade(CASE).value == 0.2
    assert len(endpoint.waits) == 1


def test_nobody_there(endpoint):
    judge = OpenAIJudge("http://127.0.0.1:9", "judge", tries=2)
    with pytest.raises(UserError, match=r"v1_9: no reply from http://127.0.0.1:9.*refused"):
        judge.grade(CASE)


def test_a_wrong_model_is_refused_at_once(endpoint):
    endpoint.replies = [(404, '{"error": {"message": "The model `judge` does not exist"}}')]
    with pytest.raises(UserError, match=r"HTTP 404: .*`judge` does not exist") as caught:
        OpenAIJudge(endpoint.url, "judge", "secret").grade(CASE)
    assert len(endpoint.requests) == 1 and "secret" not in str(caught.value)


@pytest.mark.parametrize("body", ["", "[]", "{", '{"choices": []}', "[" * 100_000])
def test_a_reply_that_is_no_completion_has_no_grade(endpoint, body):
    endpoint.replies = [(203, body)]
    with pytest.raises(UserError, match=r"no grade from .* in 2 replies"):
        OpenAIJudge(endpoint.url, "judge", tries=2).grade(CASE)


@pytest.mark.parametrize(
    ("base_url", "path"),
    [("", "/v1"), ("/", "/v1"), ("/v1", "/v1"), ("/v1/", "/v1"), ("/api/v3", "/api/v3")],
)
def test_addresses_as_openais_clients_take_them(endpoint, monkeypatch, base_url, path):
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    OpenAIJudge(endpoint.url + base_url, "judge").grade(CASE)
    assert endpoint.requests[0][:2] == (f"{path}/chat/completions", None)


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000", "http://[", "http://x:port", "http://x/a b", "http://", "ftp://x"),
        *("http://me:secret@[", "me:secret@host/v1", "http://me:se/secret@host"),
        "http://me:secret@host/v1",
        "http://x y?k=secret",
    ],
)
def test_an_address_that_is_none_is_shown_without_its_password(url):
    with pytest.raises(UserError, match="must be like http://HOST:PORT/v1") as caught:
        OpenAIJudge(url, "judge")
    assert "secret" not in str(caught.value)


def test_a_key_is_taken_without_its_line_end(endpoint):
    assert OpenAIJudge(endpoint.url, "m", "secret\r\n").grade(CASE).value == 1.0
    assert endpoint.requests[0][1] == "Bearer secret"
    with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
        OpenAIJudge(endpoint.url, "m", "two\nlines")
    assert "two" not in str(caught.value)


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r'openai.*pip install -e "\.\[judge\]"'):
        OpenAIJudge("http://x", "m")


@pytest.mark.parametrize("status", [300, 302, 307])
def test_no_redirect_is_followed(endpoint, elsewhere, status):
    endpoint.replies = [(status, f"{elsewhere.url}/v1/chat/completions")]
    with pytest.raises(UserError, match=rf"{endpoint.url}.* leads elsewhere .HTTP {status}"):
        OpenAIJudge(endpoint.url, "judge", "secret").grade(CASE)
    assert len(endpoint.requests) == 1 and elsewhere.requests == []


KEY = 'sk-top/"secret"+key'
FORMS = [KEY, quote(KEY), quote(KEY, safe=""), json.dumps(KEY)[1:-1]]


@pytest.mark.parametrize("key", FORMS)
@pytest.mark.parametrize("status", [200, 401, 500])
def test_an_endpoint_that_says_the_key_again_is_not_repeated(endpoint, status, key, capfd, caplog):
    caplog.set_level("DEBUG")
    endpoint.replies = [(status, f"Bearer {key} is no grade" if status == 200 else f"{key} " * 90)]
    judge = OpenAIJudge(endpoint.url, "judge", KEY, tries=2)
    with pytest.raises(UserError) as caught:
        judge.grade(CASE)
    assert endpoint.requests[0][1] == f"Bearer {KEY}"
    seen = capfd.readouterr()
    for shown in (str(caught.value), judge.name, seen.out, seen.err, caplog.text):
        assert "secret" not in shown
    assert "***" in str(caught.value)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_reply_is_read_up_to_a_limit(endpoint, status):
    endpoint.replies = [(status, "0.5 " + "x" * 2**22)]
    with pytest.raises(UserError, match=r"larger than 1,048,576 bytes"):
        OpenAIJudge(endpoint.url, "judge").grade(CASE)
    assert len(endpoint.requests) == 1


def test_kept_grades(endpoint, tmp_path):
    path = tmp_path / "grades.jsonl"
    endpoint.replies = [(200, "1.0 said by sk-secret")]
    judge = OpenAIJudge(endpoint.url, "m", "sk-secret")
    grade = GradeCache(path).grade(judge, CASE)
    assert (grade.value, grade.reply) == (1.0, "1.0 said by ***")
    assert "secret" not in path.read_text()
    assert GradeCache(path).grade(judge, CASE) == grade and len(endpoint.requests) == 1
    row = json.loads(path.read_text())
    for change in [{"value": value} for value in ("0.5", 7, None, True)]:
        path.write_text(json.dumps(row | change) + "\n")
        with pytest.raises(UserError, match=r"grades.jsonl:1: not a grade"):
            GradeCache(path)
    with pytest.raises(UserError, match="is a folder"):
        GradeCache(tmp_path)
