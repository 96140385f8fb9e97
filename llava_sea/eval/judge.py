"""Judges that grade an answer from 0.0 to 1.0, and the file that keeps their grades.

`OpenAIJudge` asks a model behind any endpoint that speaks OpenAI's chat completions, a local server
among them. It never guesses: what it cannot read it asks again, then stops with an error that names
the question. `LocalJudge` compares words; its grades are no LLM's and say so by their name.

`GradeCache` keeps each grade on disk as it is given, so a run that stopped goes on without paying
twice, and the same answers get the same grades again.

The key is the endpoint's alone: no redirect is followed, and wherever an endpoint's words are shown
or kept, the key and a password of its address are starred out of them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, quote_plus, unquote, urlsplit

from llava_sea.errors import UserError, naming
from llava_sea.files import LIST_BYTES, read_file
from llava_sea.terminal import without_password


@dataclass(frozen=True)
class Case:
    """An answer to grade.

    Attributes:
        question_id: of the question, for errors and the record.
        truth: what is right; ``<AND>`` joins what is asked for together, ``<OR>`` alternatives.
        prediction: the answer.
        prompt: the whole text for an LLM, question, truth and prediction included.
    """

    question_id: str
    truth: str
    prediction: str
    prompt: str


@dataclass(frozen=True)
class Grade:
    """A judge's grade.

    Attributes:
        value: 0.0 (wrong) to 1.0 (right).
        reply: what the judge said.
        model: which model the endpoint says it was.
        date: of grading, UTC, e.g. "2026-01-31".
    """

    value: float
    reply: str
    model: str
    date: str


class Judge(Protocol):
    """Who grades.

    Attributes:
        name: says who it is; grades are kept under it.
        deterministic: whether the same case has the same grade at any time.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def deterministic(self) -> bool: ...  # noqa: D102

    def grade(self, case: Case) -> Grade: ...  # noqa: D102


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Take a redirect for the refusal that it is: another host would get the key and grade."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


class OpenAIJudge:
    """A model behind an OpenAI-compatible endpoint, at temperature 0."""

    deterministic = False
    _LARGEST_REPLY = 2**20
    # What MM-Vet's official evaluator adds when it has to ask again, at 0 the first time and 0.5
    # warmer each time after that (github.com/yuweihao/MM-Vet, mm-vet_evaluator.py).
    _AGAIN = "\nPredict the correctness of the answer (digit): "
    _WARMER = 0.5

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str = "",
        *,
        tries: int = 5,
        timeout: float = 60.0,
        max_tokens: int = 16,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Take an endpoint.

        Args:
            base_url: as OpenAI's clients take it, e.g. "https://api.openai.com/v1"; "/v1" is
                added to an address without a path. With ``USER:PASSWORD@`` before the host these
                are sent in place of a key.
            model: the model's name there.
            api_key: sent as a bearer token, if any.
            tries: how often a request is sent that fails, and how often a reply without a grade is
                asked again.
            timeout: seconds for a reply.
            max_tokens: of a reply. The official evaluator allows 3, in which some tokenizers write
                no "0.5".
            sleep: waits some seconds.

        Raises:
            UserError: if `base_url` is no http address, or the key cannot be sent.
        """
        try:
            parts = urlsplit(base_url)
            right = parts.scheme in ("http", "https") and bool(parts.hostname)
            right = right and parts.port != 0 and base_url.isascii() and " " not in base_url
        except ValueError:  # a bracket left open, a port that is no number
            right = False
        if not right:
            shown = without_password(base_url.partition("?")[0])
            raise UserError(
                f"the judge's address {shown!r} must be like http://HOST:PORT/v1 or https://HOST/v1"
            )
        path, host = parts.path.rstrip("/") or "/v1", parts.netloc.rpartition("@")[2]
        self._url = f"{parts.scheme}://{host}{path}/chat/completions"
        self.name = f"{model} at {host}"
        self._model = model
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
            encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._authorization, secrets = f"Basic {encoded}", [encoded, password or user]
        else:
            key = api_key.strip()
            if not all(c.isascii() and c.isprintable() for c in key):
                raise UserError(
                    "the judge's key holds characters that no key has; see OPENAI_API_KEY"
                )
            self._authorization, secrets = f"Bearer {key}" if key else "", [key]
        # as they are, as an address has them, as JSON has them
        written = {f(secret) for secret in secrets for f in (str, quote, quote_plus, _in_json)}
        self._secrets = sorted(written - {""}, key=len, reverse=True)
        self._opener = urllib.request.build_opener(_NoRedirects())
        self._tries, self._timeout, self._max_tokens = tries, timeout, max_tokens
        self._sleep = sleep

    def grade(self, case: Case) -> Grade:
        """Ask until a reply starts with a number from 0 to 1.

        Raises:
            UserError: if none of `tries` replies does, or the endpoint refuses or stays away.
        """
        replies = []
        for attempt in range(self._tries):
            reply = self._post(
                {
                    "model": self._model,
                    "messages": [
                        {"role": "user", "content": case.prompt + (self._AGAIN if attempt else "")}
                    ],
                    "temperature": min(max(attempt - 1, 0) * self._WARMER, 2.0),
                    "max_tokens": self._max_tokens,
                },
                case.question_id,
            )
            text, model = _content(reply)
            value = read_grade(text)
            text, model = self._starred(text), self._starred(model)
            if value is not None:
                return Grade(value, text, model or self._model, _today())
            replies.append(text)
        raise UserError(
            f"judge {self.name}, question {case.question_id}: no grade from 0.0 to 1.0 in "
            f"{self._tries} replies, the last {replies[-1][:200]!r}; take a judge that follows the "
            "prompt. Earlier grades are kept, and the same command goes on from here"
        )

    def _post(self, body: dict[str, Any], question_id: str) -> Any:
        """Send a request, again where that may help; None for a reply that is not JSON."""
        headers = {"Content-Type": "application/json"}
        if self._authorization:
            headers["Authorization"] = self._authorization
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        where, trouble = f"judge {self.name}, question {question_id}", ""
        for attempt in range(self._tries):
            asked_wait = 0.0
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    data = response.read(self._LARGEST_REPLY + 1)
                if len(data) > self._LARGEST_REPLY:
                    raise UserError(
                        f"{where}: the reply of {self._url} is larger than "
                        f"{self._LARGEST_REPLY:,} bytes; is it an endpoint of chat completions?"
                    )
                return _parsed(data)
            except urllib.error.HTTPError as error:
                said = b""
                with error, contextlib.suppress(OSError, http.client.HTTPException):
                    said = error.read(self._LARGEST_REPLY)
                said_text = self._starred(said.decode(errors="replace"))[:500]
                trouble = f"HTTP {error.code}: {said_text}"
                if 300 <= error.code < 400:
                    raise UserError(
                        f"{where}: {self._url} leads elsewhere (HTTP {error.code}), and the key is "
                        "sent nowhere else; give the address that answers itself"
                    ) from None
                if error.code not in (408, 429) and error.code < 500:
                    raise UserError(
                        f"{where}: the endpoint {self._url} refused: {trouble}. Mend the model's "
                        "name, the key or the address"
                    ) from None
                wait = error.headers.get("Retry-After", "")
                asked_wait = min(float(wait), 60.0) if wait.isdecimal() else 0.0
            except (OSError, http.client.HTTPException) as error:  # time-outs are OSErrors
                trouble = self._starred(repr(error))
            if attempt + 1 < self._tries:
                self._sleep(max(2.0**attempt, asked_wait))
        raise UserError(
            f"{where}: no reply from {self._url} in {self._tries} tries, the last: {trouble}. "
            "Earlier grades are kept, and the same command goes on from here"
        )

    def _starred(self, text: str) -> str:
        """Return what an endpoint says without the key, should it say that again."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class LocalJudge:
    """No LLM: the share of the truth's words that the answer has, rounded to 0.1.

    Of ``<OR>`` alternatives the best counts, of ``<AND>`` parts the mean (``<OR>`` binds less).
    Case and punctuation do not matter, order and negation neither, so its numbers compare with its
    own alone. For runs without an endpoint.
    """

    name = "local word-match judge, not an LLM"
    deterministic = True

    def grade(self, case: Case) -> Grade:
        """Grade by words."""
        there = set(_words(case.prediction))
        share = max(
            _mean([_found(part, there) for part in alternative.split("<AND>")])
            for alternative in case.truth.split("<OR>")
        )
        value = int(share * 10 + 0.5) / 10
        return Grade(value, f"{value:.1f}", self.name, _today())


class GradeCache:
    """Grades on disk, a JSON object a line, by judge and by the prompt's SHA-256."""

    def __init__(self, path: Path) -> None:
        """Open or start a file.

        Raises:
            UserError: if it is a folder, or a line is no grade. A last line that was cut off is
                taken away: its question is asked again.
        """
        self._path = path
        self._grades: dict[tuple[str, str], Grade] = {}
        if path.is_dir():
            raise UserError(f"{path}: is a folder, and the grades' file is to be there; move it")
        path.parent.mkdir(parents=True, exist_ok=True)
        data = read_file(path, LIST_BYTES) if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
            try:
                row = json.loads(line)
                grade = Grade(**{name: row[name] for name in Grade.__dataclass_fields__})
                if type(grade.value) not in (int, float) or not 0 <= grade.value <= 1:
                    raise TypeError(f"the value is {grade.value!r}")
                self._grades[row["judge"], row["prompt_sha256"]] = grade
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}:{number}: not a grade ({error!r}); remove the line, and the question "
                    "is asked again"
                ) from error
        if whole != data:
            with open(path, "r+b") as file:
                file.truncate(len(whole))

    def grade(self, judge: Judge, case: Case) -> Grade:
        """Return the kept grade, or the judge's, which is then kept."""
        prompt = case.prompt.encode(errors="surrogatepass")
        key = (judge.name, hashlib.sha256(prompt).hexdigest())
        if key not in self._grades:
            grade = judge.grade(case)
            row = {"question_id": case.question_id, "judge": key[0], "prompt_sha256": key[1]}
            row |= {"answer": case.prediction} | asdict(grade)
            with naming(self._path), open(self._path, "ab") as file:
                file.write(json.dumps(row).encode() + b"\n")
            self._grades[key] = grade
        return self._grades[key]


def read_grade(reply: str) -> float | None:
    """Return the number that a reply starts with, None where that is none from 0 to 1.

    A number that breaks off ("0.") is none, nor is a ratio ("0/10", "1 out of 10"), nor one that
    goes on in another way ("0,5", "1e-1", "0.5-0.7").
    """
    found = re.match(
        r"\s*((?:0\.\d+|1\.0+)(?=\.?[,;|)]?(?:\s|$))|[01](?=[,;|)]?(?:\s|$)))"
        r"(?!\s*(?:/|%|(?:out )?of\b))",
        reply,
    )
    return float(found[1]) if found else None


def _parsed(data: bytes) -> Any:
    """Return a reply's JSON; None where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _content(reply: Any) -> tuple[str, str]:
    """Return a reply's text and its model; empty where there is none."""
    try:
        text, model = reply["choices"][0]["message"]["content"], reply.get("model")
    except (KeyError, IndexError, TypeError, AttributeError):
        return "", ""
    return (text if isinstance(text, str) else ""), (model if isinstance(model, str) else "")


def _words(text: str) -> list[str]:
    return re.findall(r"(?<!\w)-?\d+(?:[.,]\d+)*|\w+", text.casefold())


def _found(part: str, there: set[str]) -> float:
    words = _words(part)
    return _mean([float(word in there) for word in words]) if words else 0.0


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()
