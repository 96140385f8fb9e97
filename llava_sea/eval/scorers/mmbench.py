"""MMBench: circular accuracy, a question counting only if every rotation of it is answered right.

The official table has the rotations as rows of their own: index i + k * 1,000,000 is question i
with its options turned k times, with its own answer. Only the dev tables have answers; the test
tables are scored by the OpenCompass server alone.

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

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from llava_sea.errors import UserError
from llava_sea.eval.answers import Answer, by_id
from llava_sea.eval.mmbench_cells import is_absent, shown_options
from llava_sea.eval.score import Score
from llava_sea.eval.scorers.official import check_ids, percent
from llava_sea.files import open_file

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
_LARGEST_CELL = 1 << 30  # the pictures are cells, in base64; csv's own limit is 128 KiB


def read_table(path: Path) -> list[dict[str, str]]:
    """Read an MMBench table (.tsv) without its pictures.

    Returns:
        The rows, column name to cell, each with digits as "index"; cells are as they stand, also
        those that are absent to `llava_sea.eval.mmbench_cells`.

    Raises:
        UserError: if it is not there or a row is not like its header.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_CELL))
    rows: list[dict[str, str]] = []
    seen: set[int] = set()
    if not path.exists():
        raise UserError(f"{path}: there is no such file; put the official table there")
    try:
        with io.TextIOWrapper(open_file(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t")
            header = next(reader, [])
            if not {"index", "question", "A", "B"} <= set(header):
                raise UserError(f"{path}: its first line must name index, question, A, B, ...")
            for cells in filter(None, reader):  # blank lines have no cells
                row = dict(zip(header, cells, strict=False))
                if len(cells) != len(header) or not row["index"].strip().isdecimal():
                    raise UserError(
                        f"{path}:{reader.line_num}: the row has {len(cells)} cells of "
                        f"{len(header)}, or its index is no number; fetch the table again"
                    )
                if int(row["index"]) in seen:
                    raise UserError(
                        f"{path}:{reader.line_num}: index {row['index']} is there twice"
                    )
                seen.add(int(row["index"]))
                row.pop("image", None)
                rows.append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table ({error}); fetch it again") from error
    return rows


def read_letter(text: str, options: dict[str, str]) -> str | None:
    """Return the option that an answer gives, None where it gives none.

    Args:
        text: the answer.
        options: letter to text, of the options that the row shows.
    """
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


def score(answers: Sequence[Answer], table: Path, *, split: str = "dev") -> Score:
    """Score answers to MMBench.

    Args:
        answers: by row index, rotations included.
        table: the official .tsv with answers, e.g. mmbench_dev_20230712.tsv.
        split: its name, for the record.

    Returns:
        The circular accuracy over questions. Of its parts, "vanilla" is the share of right rows,
        the categories are circular, and "unread answers" is a share of rows.

    Raises:
        UserError: if the table has no answers or no rotations, or an answer is to no row of it.
    """
    rows = read_table(table)
    _check_scorable(rows, table)
    texts = by_id(answers)
    keys = [str(int(row["index"])) for row in rows]
    check_ids(texts, set(keys), table)
    letters = {
        key: read_letter(texts[key], _options(row))
        for key, row in zip(keys, rows, strict=True)
        if key in texts
    }
    questions: dict[int, list[bool]] = defaultdict(list)
    first: dict[int, dict[str, str]] = {}
    missing = set()
    for key, row in zip(keys, rows, strict=True):
        question = int(key) % ROTATION
        questions[question].append(letters.get(key) == row["answer"].strip())
        first.setdefault(question, row)
        if key not in texts:
            missing.add(question)
    right = {question: all(rights) for question, rights in questions.items()}

    vanilla = sum(map(sum, questions.values()))
    unread = sum(letter is None for letter in letters.values())
    parts = {"vanilla": percent(vanilla, len(rows)), "unread answers": percent(unread, len(rows))}
    for column in ("l2-category", "category"):
        for name in sorted({_cell(row, column) for row in first.values()} - {""}):
            those = [key for key, row in first.items() if _cell(row, column) == name]
            parts[f"{column}: {name}"] = percent(sum(right[key] for key in those), len(those))
    protocol = {
        "matching": MATCHING,
        "rows": str(len(rows)),
        "rotations": _rotations(rows),
        "missing answers": "wrong",
    }
    hidden = sum(row["answer"].strip() not in _options(row) for row in rows)
    if hidden:
        protocol["rows whose right option is not shown"] = f"{hidden}, wrong"
    return Score(
        benchmark="mmbench",
        value=percent(sum(right.values()), len(right)),
        metric="circular accuracy",
        split=split,
        questions=len(right),
        missing=len(missing),
        protocol=protocol,
        parts=parts,
    )


def _check_scorable(rows: list[dict[str, str]], table: Path) -> None:
    if not rows:
        raise UserError(f"{table}: has no rows; fetch it again")
    for row in rows:
        answer = row.get("answer", "").strip()
        if is_absent(answer):
            raise UserError(
                f"{table}: index {row['index']} has no answer, as in the test tables: only the "
                "OpenCompass server can score them. Write the submission instead, or take the dev "
                "table"
            )
        # A right option "NA" is not shown, so no answer is right; an empty one is a broken table.
        there = answer in LETTERS and row.get(answer, "").strip().lower() not in ("", "nan")
        if not there:
            raise UserError(
                f"{table}: index {row['index']} has the answer {answer!r}, which is none of its "
                "options; fetch the table again"
            )
    if all(int(row["index"]) < ROTATION for row in rows):
        raise UserError(
            f"{table}: has no rotated rows (index i + k * {ROTATION}), so its circular accuracy "
            "would be another number under that name; take the official table, e.g. "
            "mmbench_dev_20230712.tsv"
        )


def _rotations(rows: list[dict[str, str]]) -> str:
    """Say whether every question is there once for each of its options."""
    counts = Counter(int(row["index"]) % ROTATION for row in rows)
    options = {int(row["index"]) % ROTATION: len(_options(row)) for row in rows}
    lacking = [question for question, count in counts.items() if count < options[question]]
    if not lacking:
        return "complete"
    return f"{len(lacking)} questions have fewer than options, the first is {lacking[0]}"


def _options(row: dict[str, str]) -> dict[str, str]:
    return shown_options(row, LETTERS)


def _cell(row: dict[str, str], column: str) -> str:
    """Return a cell, "" where it is absent; the Chinese tables write L2-category."""
    cell = next((cell for name, cell in row.items() if name.lower() == column), "")
    return "" if is_absent(cell) else cell.strip()
