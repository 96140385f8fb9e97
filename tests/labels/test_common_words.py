import pytest

from llava_sea.errors import UserError
from llava_sea.labels.common_words import read_common_words


def test_marks_comments_case_and_the_stop_list(tmp_path):
    path = tmp_path / "2of12.txt"
    path.write_text("# common words\nzebra\nAbacuses%\n\nice cream\na\nx\nphoto\nclip art\ndog's\n")
    assert read_common_words(path) == (["abacuses", "dog", "ice cream", "zebra"], 4)


@pytest.mark.parametrize("line", ["1234", "4x4", "cat,dog", "%%", "cat\t12"])
def test_lines_that_are_no_word(tmp_path, line):
    path = tmp_path / "list.txt"
    path.write_text(f"cat\n{line}\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: .* is not a word"):
        read_common_words(path)


@pytest.mark.parametrize("content", ["", "# nothing\n\n", "the\nphoto\n"])
def test_an_empty_list(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_text(content)
    with pytest.raises(UserError, match="the list holds no words"):
        read_common_words(path)
