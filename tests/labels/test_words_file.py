import hashlib

import pytest

from llava_sea.errors import UserError
from llava_sea.labels.words_file import HEADER, WordEntry, read_words, write_words

ENTRIES = [WordEntry("red cat", 3, "NP"), WordEntry("caf\u00e9", 1, "NN"), WordEntry("z", 0, "x")]


def test_written_words_come_back_with_their_hash(tmp_path):
    path = tmp_path / "words.tsv"
    sha256 = write_words(path, ENTRIES)
    assert read_words(path) == ENTRIES
    assert path.read_bytes() == (HEADER + "\nred cat\t3\tNP\ncaf\u00e9\t1\tNN\nz\t0\tx\n").encode()
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("", "the word list is empty"),
        ("a\t1\n", "line 2: expected 3 columns .* found 2"),
        ("a\t2\tNN\n\nb\t1\tNN\n", "line 3: expected 3 columns .* found 1"),
        ("a\t1\tNN\nb\tx\tNN\n", "line 3: the count 'x' is not a number"),
        ("a\t-1\tNN\n", "line 2: the count '-1' is not a number"),
        (f"a\t{'9' * 5000}\tNN\n", "line 2: the count '9+' is not a number from 0 to"),
        ("a\t1\t\n", "line 2: the part of speech '' is not a name"),
        ("Cat\t1\tNN\n", "line 2: 'Cat' is not a lower-case word"),
        ("a  b\t1\tNN\n", "line 2: 'a  b' is not a lower-case word or phrase with single spaces"),
        ("\t1\tNN\n", "line 2: '' is not"),
        ("a\t2\tNN\na\t1\tNN\n", "line 3: 'a' is there a second time"),
        ("a\t1\tNN\nb\t2\tNN\n", "line 3: 'b' is out of order"),
        ("b\t1\tNN\na\t1\tNN\n", "line 3: 'a' is out of order"),
    ],
)
def test_malformed_lists_are_refused_with_the_line(tmp_path, rows, expected):
    path = tmp_path / "words.tsv"
    path.write_text(f"{HEADER}\n{rows}")
    with pytest.raises(UserError, match=expected):
        read_words(path)


def test_files_that_are_no_list(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"line 1: expected the header 'word.*found 'cat'"):
        read_words(path)
    path.write_bytes(f"{HEADER}\n".encode() + b"caf\xe9\t1\tNN\n")
    with pytest.raises(UserError, match=r"not UTF-8 .* line 2"):
        read_words(path)
    with pytest.raises(UserError, match=r"none\.tsv: cannot be read"):
        read_words(tmp_path / "none.tsv")
