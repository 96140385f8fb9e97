"""What is before an answer has the same tokens in training and in generation, whatever follows."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_sea.constants import IGNORE_INDEX
from llava_sea.conversation import render
from llava_sea.data.tokenize import tokenize_prompt, tokenize_record
from tests.worlds import parsed

TEXTS = st.lists(
    st.sampled_from(["\n", "\n\n", " ", "  ", "\t", "a", "b", "red", ".", "x", "7", "é", "<", "|"]),
    min_size=1,
    max_size=6,
).map("".join)
TALKS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)


@given(talk=TALKS, image=st.booleans())
@settings(
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_prompt_is_the_beginning_of_training(kind, talk, image):
    tokenizer, template = kind
    first, *others = (text for pair in talk for text in pair)
    named = {"image": "x.jpg"} if image else {}
    record = parsed(first + "\n<image>" * image, *others, **named)
    found = tokenize_record(record, template, tokenizer, 3, 10_000)
    prompts = []
    for number in range(0, len(record.turns), 2):
        ids, mask = tokenize_prompt(record.turns[: number + 1], template, tokenizer, 3)
        assert found.input_ids[: len(ids)] == ids and found.image_mask[: len(ids)] == mask
        assert found.labels[len(ids) - 1] == IGNORE_INDEX
        assert found.labels[len(ids)] == found.input_ids[len(ids)]
        prompts.append(ids)
    if image:
        return
    # It is LLaVA's text, and LLaVA's tokens but where a prompt would merge.
    whole = tokenizer("".join(s.text for s in render(record, template)), add_special_tokens=False)
    bos = int(found.input_ids[0] != whole.input_ids[0])
    assert tokenizer.decode(found.input_ids[bos:]) == tokenizer.decode(whole.input_ids)
    if all(whole.input_ids[: len(ids) - bos] == ids[bos:] for ids in prompts):
        assert found.input_ids[bos:] == whole.input_ids
