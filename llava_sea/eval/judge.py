"""Judges that grade an answer from 0.0 to 1.0, and the file that keeps their grades.

`OpenAIJudge` asks a model behind any endpoint that speaks OpenAI's chat completions. It never
guesses: a reply that it cannot read is asked for again, then it stops with an error that names the
question. `LocalJudge` compares words. `GradeCache` keeps each grade on disk as it is given, so a
run that stopped resumes without paying twice.

The key is the endpoint's alone: no redirect is followed, and wherever an endpoint's words are shown
or kept, the key is starred out of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

from llava_sea.errors import UserError, import_extra, naming
from llava_sea.files import LIST_BYTES, read_file, read_jsonl
from llava_sea.terminal import without_password

_RESUMES = "Earlier grades are kept, and the same command resumes from here"


@dataclass(frozen=True)
class Case:
    """An answer to grade; `prompt` is the whole text for an LLM.

    In `truth` ``<AND>`` joins parts that belong together, ``<OR>`` alternatives.
    """

    question_id: str
    truth: str
    prediction: str
    prompt: str


@dataclass(frozen=True)
class Grade:
    """A grade from 0.0 (wrong) to 1.0 (right), with the judge's words and the day (UTC)."""

    value: float
    reply: str
    model: str
    date: str


class OpenAIJudge:
    """A model behind an OpenAI-compatible endpoint, at temperature 0.

    Not `deterministic`: the same case may have another grade at another time.
    """

    deterministic = False
    _LARGEST_REPLY = 2**20
    # MM-Vet's official evaluator adds this when it has to ask again, at 0 the first time and 0.5
    # warmer each time after that (github.com/yuweihao/MM-Vet, mm-vet_evaluator.py).
    _AGAIN = "\nPredict the correctness of the answer (digit): "
    _WARMER = 0.5
    _MAX_TOKENS = 16  # the official evaluator allows 3: some tokenizers write no "0.5" with these

    def __init__(
        self, base_url: str, model: str, api_key: str = "", *, tries: int = 5, timeout: float = 60.0
    ) -> None:
        """Take an endpoint.

        Args:
            base_url: as OpenAI's clients take it; "/v1" is added to an address without a path.
            model: the model's name there.
            api_key: a bearer token; none for a server that wants none.
            tries: of a request that fails, and of a prompt whose reply has no grade.
            timeout: seconds for a reply.

        Raises:
            UserError: if the address or the key is none, or `openai` is not installed.
        """
        openai = import_extra("openai", "judge")
        url = _check_address(base_url)
        key = api_key.strip()
        if not all(c.isascii() and c.isprintable() for c in key):
            raise UserError("the judge's key holds characters that no key has; see OPENAI_API_KEY")
        self._authorization = f"Bearer {key}" if key else openai.Omit()
        # as it is, as an address has it, as JSON has it
        written = {key, quote(key), quote_plus(key), json.dumps(key)[1:-1]}
        self._secrets = sorted(written - {""}, key=len, reverse=True)
        self.name = f"{model} at {urlsplit(url).netloc}"
        self._url, self._model, self._tries = url, model, tries
        self._client = openai.OpenAI(
            base_url=self._url,
            api_key=key or "none",
            max_retries=tries - 1,  # of busy or absent endpoints; others refuse at once
            timeout=timeout,
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False, event_hooks={"response": [self._limit]}
            ),
        )

    def grade(self, case: Case) -> Grade:
        """Ask until a reply starts with a number from 0 to 1."""
        text = ""
        where = f"judge {self.name}, question {case.question_id}"
        for attempt in range(self._tries):
            prompt = case.prompt + (self._AGAIN if attempt else "")
            text, model = self._ask(prompt, min(max(attempt - 1, 0) * self._WARMER, 2.0), where)
            value = read_grade(text)
            text, model = self._starred(text), self._starred(model)
            if value is not None:
                return Grade(value, text, model or self._model, _today())
        raise UserError(
            f"{where}: no grade from 0.0 to 1.0 in {self._tries} replies, the last "
            f"{text[:200]!r}; take a judge that follows the prompt. {_RESUMES}"
        )

    def _ask(self, prompt: str, temperature: float, where: str) -> tuple[str, str]:
        import openai

        try:
            reply = self._client.chat.completions.with_raw_response.create(
                model=self._model,
                messages=[{"role": "user", "content": prompt}],
                temperature=temperature,
                max_tokens=self._MAX_TOKENS,
                extra_headers={"Authorization": self._authorization},
            )
            return _content(reply.content)
        except openai.APIStatusError as error:
            status = error.status_code
            trouble = f"HTTP {status}: {self._starred(error.response.text)[:500]}"
            if 300 <= status < 400:
                raise UserError(
                    f"{where}: {self._url} leads elsewhere (HTTP {status}), and the key is sent "
                    "nowhere else; give the address that answers itself"
                ) from None
            if status not in (408, 409, 429) and status < 500:
                raise UserError(
                    f"{where}: the endpoint {self._url} refused: {trouble}. Fix the model's name, "
                    "the key or the address"
                ) from None
        except openai.APIConnectionError as error:  # time-outs among them
            trouble = self._starred(repr(error.__cause__ or error))
        raise UserError(
            f"{where}: no reply from {self._url} in {self._tries} tries, the last: {trouble}. "
            f"{_RESUMES}"
        )

    def _limit(self, response: Any) -> None:
        """Let a reply be read up to the limit, as it is sent: what is packed may grow for ever."""
        response.headers.pop("content-encoding", None)
        read = response.iter_raw

        def iter_raw(*arguments: Any) -> Iterator[bytes]:
            size = 0
            for chunk in read(*arguments):
                size += len(chunk)
                if size > self._LARGEST_REPLY:
                    raise UserError(
                        f"judge {self.name}: a reply of {self._url} is larger than "
                        f"{self._LARGEST_REPLY:,} bytes; is it an endpoint of chat completions?"
                    )
                yield chunk

        response.iter_raw = iter_raw

    def _starred(self, text: str) -> str:
        """Return an endpoint's words without the key, should it repeat that."""
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
        share = 0.0
        for alternative in case.truth.split("<OR>"):
            found = [_found(part, there) for part in alternative.split("<AND>")]
            share = max(share, sum(found) / len(found))
        value = int(share * 10 + 0.5) / 10
        return Grade(value, f"{value:.1f}", self.name, _today())


Judge = OpenAIJudge | LocalJudge


class GradeCache:
    """Grades on disk, a JSON object a line, by judge and by the prompt's SHA-256."""

    def __init__(self, path: Path) -> None:
        """Open or start a file.

        Raises:
            UserError: if it is a folder, or a line is no grade. A last line that was cut off is
                removed: its question is asked again.
        """
        self._path = path
        self._grades: dict[tuple[str, str], Grade] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return
        data = read_file(path, LIST_BYTES)
        if (whole := data.rfind(b"\n") + 1) < len(data):
            os.truncate(path, whole)
        way_out = "remove the line, and the question is asked again"
        read_jsonl(path, "a grade", self._keep, way_out)

    def _keep(self, row: dict[str, Any]) -> None:
        grade = Grade(**{name: row[name] for name in Grade.__dataclass_fields__})
        if type(grade.value) not in (int, float) or not 0 <= grade.value <= 1:
            raise TypeError(f"the value is {grade.value!r}")
        self._grades[row["judge"], row["prompt_sha256"]] = grade

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
    continues in another way ("0,5", "1e-1", "0.5-0.7").
    """
    found = re.match(
        r"\s*((?:0\.\d+|1\.0+)(?=\.?[,;|)]?(?:\s|$))|[01](?=[,;|)]?(?:\s|$)))"
        r"(?!\s*(?:/|%|(?:out )?of\b))",
        reply,
    )
    return float(found[1]) if found else None


def _check_address(base_url: str) -> str:
    """Return the address without what follows its path, with "/v1" where it has none.

    Raises:
        UserError: if it is no http address, or holds a password; without that.
    """
    try:
        parts = urlsplit(base_url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        right = right and base_url.isascii() and " " not in base_url and "@" not in parts.netloc
    except ValueError:  # a bracket left open, a port that is no number
        right = False
    if not right:
        shown = without_password(base_url.partition("?")[0])
        raise UserError(
            f"the judge's address {shown!r} must be like http://HOST:PORT/v1 or https://HOST/v1, "
            "and its key stand in OPENAI_API_KEY"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _content(data: bytes) -> tuple[str, str]:
    """Return a reply's text and its model; empty where there is none."""
    try:
        reply = json.loads(data)
        text, model = reply["choices"][0]["message"]["content"], reply.get("model")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return "", ""
    return (text if isinstance(text, str) else ""), (model if isinstance(model, str) else "")


def _words(text: str) -> list[str]:
    return re.findall(r"(?<!\w)-?\d+(?:[.,]\d+)*|\w+", text.casefold())


def _found(part: str, there: set[str]) -> float:
    words = _words(part)
    return sum(word in there for word in words) / len(words) if words else 0.0


def _today() -> str:
    return datetime.now(timezone.utc).date().isoformat()
