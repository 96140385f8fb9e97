"""Which cells of MMBench's table hold something, and which options a question shows, as in LLaVA.

LLaVA reads the table with pandas, to which some texts are no value, and takes "nan" and "none" in
any case for none as well (its model_vqa_mmbench.py). A question's options end before the first that
is absent. A cell of nothing but blanks, which LLaVA would show, is absent here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_NUMBERS = frozenset(("NaN", "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"))
_WORDS = frozenset(("#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "n/a", "NULL", "null", "None"))
NO_VALUES = _NUMBERS | _WORDS
"""What `pandas.read_table` takes for no value by default, beside the empty cell."""


def is_absent(cell: str) -> bool:
    """Say whether a cell holds no value."""
    return not cell.strip() or cell in NO_VALUES or cell.lower() in ("nan", "none")


def shown_options(row: Mapping[str, str], letters: Iterable[str]) -> dict[str, str]:
    """Return the options that a question shows, letter to text.

    Args:
        row: cells by column; a column that is not there is an absent cell.
        letters: of the options, in their order.
    """
    shown: dict[str, str] = {}
    for letter in letters:
        if is_absent(row.get(letter, "")):
            break
        shown[letter] = row[letter]
    return shown
