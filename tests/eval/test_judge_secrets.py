"""The judge's key is its endpoint's alone, and nobody reads it anywhere else."""

import base64
import json
from urllib.parse import quote

import pytest

from llava_sea.errors import UserError
from llava_sea.eval.judge import Case, GradeCache, OpenAIJudge

CASE = Case("v1_9", "truth", "prediction", "the prompt")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
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
    endpoint.replies = [
        (status, f"Bearer {key} is no grade" if status == 200 else f"{key!s} " * 90)
    ]
    judge = OpenAIJudge(endpoint.url, "judge", KEY, tries=2, sleep=lambda seconds: None)
    with pytest.raises(UserError) as caught:
        judge.grade(CASE)
    assert endpoint.requests[0][1] == f"Bearer {KEY}"
    seen, logged = capfd.readouterr(), caplog.text
    for shown in (str(caught.value), judge.name, seen.out, seen.err, logged):
        assert "secret" not in shown
    assert "***" in str(caught.value)


def test_the_key_is_not_kept_with_the_grades(endpoint, tmp_path):
    endpoint.replies = [(200, "1.0 said by sk-secret")]
    path = tmp_path / "grades.jsonl"
    grade = GradeCache(path).grade(OpenAIJudge(endpoint.url, "m", "sk-secret"), CASE)
    assert (grade.value, grade.reply) == (1.0, "1.0 said by ***")
    assert "secret" not in path.read_text()


def test_a_password_in_the_address_is_sent_and_not_shown(endpoint):
    url = endpoint.url.replace("//", "//me:p%40ss@")
    credentials = base64.b64encode(b"me:p@ss").decode()
    judge = OpenAIJudge(url, "judge", "secret", tries=1)
    assert judge.grade(CASE).value == 1.0
    assert endpoint.requests[0][1] == f"Basic {credentials}"  # and the key stays at home
    endpoint.replies = [(401, f"no Basic {credentials} p@ss p%40ss")]
    with pytest.raises(UserError) as caught:
        judge.grade(CASE)
    for secret in (credentials, "p@ss", "p%40ss"):
        assert secret not in str(caught.value) and secret not in judge.name


@pytest.mark.parametrize(
    "url",
    ["http://me:secret@[", "me:secret@host/v1", "http://me:se/secret@host", "http://x y?k=secret"],
)
def test_a_broken_address_is_shown_without_its_password(url):
    with pytest.raises(UserError, match="must be like http") as caught:
        OpenAIJudge(url, "m")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [200, 400])
def test_a_reply_is_read_up_to_a_limit(endpoint, status):
    endpoint.replies = [(status, "0.5 " + "x" * 2**22)]
    with pytest.raises(UserError, match=r"larger than 1,048,576 bytes|HTTP 400: 0\.5 x") as caught:
        OpenAIJudge(endpoint.url, "judge").grade(CASE)
    assert len(str(caught.value)) < 1000 and len(endpoint.requests) == 1
