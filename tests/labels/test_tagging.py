import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
from textblob.en import tag

from llava_sea.labels.tagging import BOUNDARY, TAG_OVERRIDES, tag_token, tag_tokens

WORDS = [
    "a",
    "the",
    "red",
    "wooden",
    "cats",
    "cat",
    "running",
    "painted",
    "zyxo",
    "zyxing",
    "and/or",
    "of",
    "is",
    "it's",
    "well-lit",
]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(WORDS) | st.text("abcdeilnorstuy-'", min_size=2), min_size=1))
def test_tags_of_tokens_equal_tags_of_the_caption(tokens):
    tokens = [token for token in tokens if token not in TAG_OVERRIDES]
    whole = [pair[1] for pair in tag(" ".join(tokens), tokenize=False)] if tokens else []
    assert [tag_token(token) for token in tokens] == whole


def test_repairs():
    def tags(text: str) -> list[str]:
        return tag_tokens(text.split())

    assert tags("the interior of it")[1] == "NN"
    assert tags("a drawing of it")[1] == "NN"
    assert tags("a red drawing of")[2] == "VBG"  # no determiner before it: left as it is
    assert tags("a stop sign")[1] == "NN"
    assert tags("the old building")[1] == "JJ"
    assert tags(f"it is {BOUNDARY} stop")[2:] == [BOUNDARY, tag_token("stop")]
    assert tags("a red sports car") == ["DT", "JJ", "NN", "NN"]


def test_textblob_is_imported_at_first_use_only():
    code = "import sys, llava_sea.labels.word_list; print('textblob' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
