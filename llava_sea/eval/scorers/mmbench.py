"""MMBench: its table, and circular accuracy: a question counts if all its rotations are right.

The table is read with pandas as LLaVA reads it: tab-separated, with the columns index, question, A,
B, C, D (or more letters) and image (base64); hint, answer and category may be there. A cell that
pandas takes for no value is absent, and so is "nan" or "none" in any case, as in LLaVA's
model_vqa_mmbench.py, and a cell of blanks alone. An image's cell may hold the index of another row,
whose image it shares.

Rotations are rows of their own, each asked once (LLaVA's round 0): index i + k * 1,000,000 is
question i with its options turned k times, with its own answer. Only the dev tables have answers;
the test tables are scored by the OpenCompass server alone.

Answers are read by the rules of VLMEvalKit's `can_infer` (August 2026), which ask no LLM. The first
that applies decides:

1. a known refusal to answer is no option;
2. the letter of an option, as a word of its own, where the answer has no other option's letter and
   this one is among its last four words; ``.()[],:;!*#{}`` count as blanks ("B!", "**B**",
   "Option B"). An article "A" counts as a letter;
3. the word "Z", where there is no option's letter, is no option;
4. the letter after the first "answer is" that has one ("The answer is **B**, because ...");
5. the option whose text the answer contains in any case, if one alone and the answer, from an
   "answer is" on, is at most twice as long as all options together ("The answer is blue").

Anything else is unread and wrong, an empty answer among them. VLMEvalKit differs in three things.
In 4 it takes any letter, also the "b" of "the answer is blue" and the article of "the answer is a
car"; here it must be a word, and a small letter the last word. In 5 it counts the length of the
whole answer. Its options are all that the table has; here they are those that LLaVA shows, and the
letter of another is never read. Where an LLM is asked about unread answers, numbers may be a little
higher.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from llava_sea.errors import UserError, import_extra
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.official import check_ids, percent, percents
from llava_sea.files import read_text

Row = dict[str, str]
"""Cells by column; "" where one is absent."""

LETTERS = "ABCD"
ROTATION = 1_000_000
MATCHING = "VLMEvalKit's can_infer (letter, or one option's text), options shown alone; no LLM"
_BLANKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_WORDS = 4
_ANSWER_IS = re.compile(r"(?i:answer\s+is)\s+\**([A-D]|[a-d](?=\W*$))(?!\w)")
_REFUSALS = (  # VLMEvalKit's, word for word
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def read_table(path: Path, text: str | None = None) -> list[Row]:
    """Read the table, from its text where that has been read; each row's index is unique."""
    pandas = import_extra("pandas", "eval")
    text = read_text(path) if text is None else text
    try:
        frame = pandas.read_table(io.StringIO(text), dtype=str)
    except ValueError as error:
        raise UserError(f"{path}: broken table ({error}); is the file whole?") from None
    lacking = [name for name in ("index", "question", "A", "B") if name not in frame]
    if lacking:
        raise UserError(
            f"{path}: the table has no column {', '.join(lacking)}; MMBench's has index, question, "
            f"hint, A, B, C, D, image, this one {', '.join(frame)[:200]}"
        )
    if not len(frame):
        raise UserError(f"{path}: the table has no rows; fetch it again")
    rows = [
        {name: cell if _is_value(cell) else "" for name, cell in cells.items()}
        for cells in frame.fillna("").to_dict("records")
    ]
    seen: set[int] = set()
    for number, row in enumerate(rows, start=1):
        index = row["index"].strip()
        if not index.isdecimal():
            raise UserError(
                f"{path}: row {number}: the index {index!r} is no number; fetch the table again"
            )
        if int(index) in seen:
            raise UserError(f"{path}: index {index} is there twice; fetch the table again")
        seen.add(int(index))
        row["index"] = str(int(index))
    return rows


def _is_value(cell: str) -> bool:
    return bool(cell.strip()) and cell.lower() not in ("nan", "none")


def shown_options(row: Mapping[str, str], letters: Iterable[str]) -> dict[str, str]:
    """Return the options that a question shows, letter to text: those before the first absent."""
    return {letter: row[letter] for letter in takewhile(row.get, letters)}


def images_by_index(rows: Iterable[Row], path: Path) -> dict[str, bytes]:
    """Return the image file of each row."""
    cells = {row["index"]: row.get("image", "") for row in rows}
    decoded: dict[str, bytes] = {}

    def find(index: str) -> bytes:
        passed = [index]
        while (cell := cells[passed[-1]]) in cells:
            if cell in passed:
                raise UserError(
                    f"{path}: index {index}: its image is that of row {cell}, which leads back"
                )
            passed.append(cell)
        if passed[-1] not in decoded:
            decoded[passed[-1]] = _decode(cell, f"{path}: index {index}")
        return decoded[passed[-1]]

    return {index: find(index) for index in cells}


def _decode(cell: str, where: str) -> bytes:
    if not cell:
        raise UserError(f"{where}: the row has no image; is the file whole?")
    if cell.isdecimal():
        raise UserError(f"{where}: its image is that of row {cell}, which is not in the table")
    try:
        return base64.b64decode(re.sub(r"\s", "", cell), validate=True)
    except ValueError as error:
        raise UserError(f"{where}: the image is no base64 text ({error})") from None


def read_letter(text: str, options: dict[str, str]) -> str | None:
    """Return the letter of the option that an answer gives, None where it gives none."""
    if any(refusal in text for refusal in _REFUSALS):
        return None
    words = text.translate(_BLANKS).split()
    letters = options.keys() & set(words)
    if len(letters) == 1:
        (letter,) = letters
        if words.index(letter) >= len(words) - _LAST_WORDS:
            return letter
    elif not letters and "Z" in words:
        return None
    said = _ANSWER_IS.search(text)
    if said and said[1].upper() in options:
        return said[1].upper()
    text = text.lower()
    if len(text.rpartition("answer is")[2]) > 2 * sum(map(len, options.values())):
        return None
    found = [letter for letter, option in options.items() if option.lower() in text]
    return found[0] if len(found) == 1 else None


def score(answers: Sequence[Answer], table: Path) -> Score:
    """Score answers to MMBench.

    Returns:
        The circular accuracy over questions. Of its parts, "vanilla" is the share of right rows,
        the categories are circular, and "unread answers" is a share of rows.
    """
    rows = read_table(table)
    _check_scorable(rows, table)
    texts = by_id(answers)
    check_ids(texts, {row["index"] for row in rows}, table)
    letters: dict[str, str | None] = {}
    questions: dict[int, list[bool]] = defaultdict(list)
    first: dict[int, Row] = {}
    missing = set()
    for row in rows:
        key, question = row["index"], int(row["index"]) % ROTATION
        if key in texts:
            letters[key] = read_letter(texts[key], shown_options(row, LETTERS))
        else:
            missing.add(question)
        questions[question].append(letters.get(key) == row["answer"].strip())
        first.setdefault(question, row)
    right = {question: all(rights) for question, rights in questions.items()}

    vanilla = sum(map(sum, questions.values()))
    unread = sum(letter is None for letter in letters.values())
    parts = {"vanilla": percent(vanilla, len(rows)), "unread answers": percent(unread, len(rows))}
    for column in ("l2-category", "category"):
        names = {key: _cell(row, column) for key, row in first.items()}
        parts |= percents((f"{column}: {name}", right[key]) for key, name in names.items() if name)
    protocol = {
        "matching": MATCHING,
        "rows": str(len(rows)),
        "rotations": _rotations(rows),
        "missing answers": "wrong",
    }
    hidden = sum(row["answer"].strip() not in shown_options(row, LETTERS) for row in rows)
    if hidden:
        protocol["rows whose right option is not shown"] = f"{hidden}, wrong"
    return Score(
        benchmark="mmbench",
        value=percent(sum(right.values()), len(right)),
        metric="circular accuracy",
        split="dev",
        questions=len(right),
        missing=len(missing),
        protocol=protocol,
        parts=parts,
    )


def _check_scorable(rows: list[Row], table: Path) -> None:
    for row in rows:
        answer = row.get("answer", "").strip()
        if not answer:
            raise UserError(
                f"{table}: index {row['index']} has no answer, as in the test tables: only the "
                "OpenCompass server can score them. Write the submission instead, or take the dev "
                "table"
            )
        if answer not in tuple(LETTERS):
            raise UserError(
                f"{table}: index {row['index']} has the answer {answer!r}, which is none of "
                f"{', '.join(LETTERS)}; fetch the table again"
            )
    if all(int(row["index"]) < ROTATION for row in rows):
        raise UserError(
            f"{table}: has no rotated rows (index i + k * {ROTATION}), so its circular accuracy "
            "would be another number under that name; take the official table, e.g. "
            "mmbench_dev_20230712.tsv"
        )


def _rotations(rows: list[Row]) -> str:
    """Say whether every question is there once for each of its options."""
    counts = Counter(int(row["index"]) % ROTATION for row in rows)
    options = {int(row["index"]) % ROTATION: len(shown_options(row, LETTERS)) for row in rows}
    lacking = [question for question, count in counts.items() if count < options[question]]
    if not lacking:
        return "complete"
    return f"{len(lacking)} questions have fewer than options, the first is {lacking[0]}"


def _cell(row: Row, column: str) -> str:
    """Return a cell; the Chinese tables write L2-category."""
    return next((cell for name, cell in row.items() if name.lower() == column), "").strip()
