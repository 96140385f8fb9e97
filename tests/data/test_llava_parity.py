"""Ids and masks equal those of LLaVA's length arithmetic, rewritten here from its description."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_sea.conversation import get_template
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import tokenize_record
from tests.worlds import parsed

P = 3
PICTURE = -200
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
EXAMPLES = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def ids_of(prompt, tokenizer, has_image=True):
    """Chunks between pictures tokenised apart, the later ones without their BOS."""
    chunks = prompt.split("<image>") if has_image else [prompt]
    ids = tokenizer(chunks[0]).input_ids
    for chunk in chunks[1:]:
        ids = [*ids, PICTURE, *tokenizer(chunk).input_ids[1:]]
    return ids


def expand(ids, labels, limit):
    """Each picture's sentinel becomes P places; then the cut."""
    out = []
    for token, label in zip(ids, labels, strict=True):
        out += [(PICTURE, -100)] * P if token == PICTURE else [(token, label)]
    return out[:limit]


def llava_v1(turns, tokenizer, has_image, limit):
    """The v1 rule; None where the summed lengths do not fit and LLaVA masks everything."""
    prompt = SYSTEM + " "
    for role, text in turns:
        if has_image and "<image>" in text:
            text = ("<image>\n" + text.replace("<image>", "").strip()).strip()
        speaker, end = ("USER", " ") if role == "human" else ("ASSISTANT", "</s>")
        prompt += f"{speaker}: {text}{end}" if text else f"{speaker}:"
    ids = ids_of(prompt, tokenizer, has_image)
    labels = list(ids)
    done = 1
    labels[0] = -100
    for number, part in enumerate(prompt.split("</s>")):
        pieces = part.split(" ASSISTANT: ")
        if part == "" or len(pieces) != 2:
            break
        less = int(number > 0 and not tokenizer.legacy)
        question = len(ids_of(pieces[0] + " ASSISTANT: ", tokenizer, has_image)) - 2 - less
        labels[done : done + question] = [-100] * question
        done += len(ids_of(part, tokenizer, has_image)) - less
    return expand(ids, labels, limit) if done == len(ids) else None


def llava_plain(caption, tokenizer, limit):
    ids = ids_of("<image>" + caption + "\n", tokenizer)
    hidden = len(ids_of("<image>", tokenizer))
    return expand(ids, [-100] * hidden + ids[hidden:], limit)


def ours(record, version, tokenizer, limit):
    found = tokenize_record(record, get_template(version), tokenizer, P, limit)
    ids = [PICTURE if m else i for i, m in zip(found.input_ids, found.image_mask, strict=True)]
    return list(zip(ids, found.labels, strict=True))


TEXTS = [
    "a",
    "red",
    " ",
    "  ",
    "\n",
    "kettle",
    "USER",
    ":",
    "é",
    "船",
    "🙂",
    "3.5",
    "'s",
    "\t",
    "<",
]
text = st.lists(st.sampled_from(TEXTS), max_size=8).map("".join)
question = text.filter(bool)
answer = st.one_of(text, st.sampled_from(["", "\n", " ", "\n\na", " red"]))


@st.composite
def conversations(draw):
    """Rounds of question and answer; a picture in one of them, or the literal in plain text."""
    rounds = draw(st.lists(st.tuples(question, answer), min_size=1, max_size=3))
    turns = [list(pair) for pair in rounds]
    turns[-1][1] = turns[-1][1] or "a"  # LLaVA masks all of a record that ends with an empty answer
    has_image = draw(st.booleans())
    if has_image or draw(st.booleans()):
        at = draw(st.integers(0, len(turns) - 1))
        before, after = draw(text), draw(text)
        turns[at][0] = f"{before}<image>{after}"
    flat = (text for pair in turns for text in pair)
    return parsed(*flat, image="a.jpg" if has_image else None)


@EXAMPLES
@given(record=conversations())
def test_v1(trained_tokenizer, record):
    expected = llava_v1(record.turns, trained_tokenizer, record.image is not None, 2048)
    assert expected is not None
    assert ours(record, "v1", trained_tokenizer, 2048) == expected


@EXAMPLES
@given(record=conversations(), share=st.floats(0.3, 0.99))
def test_v1_truncated(trained_tokenizer, record, share):
    whole = ours(record, "v1", trained_tokenizer, 2048)
    first = next(n for n, (_, label) in enumerate(whole) if label != -100)
    last_image = max((n for n, (token, _) in enumerate(whole) if token == PICTURE), default=0)
    limit = max(first + 1, last_image + 1, int(share * len(whole)))
    expected = llava_v1(record.turns, trained_tokenizer, record.image is not None, limit)
    assert ours(record, "v1", trained_tokenizer, limit) == expected


@EXAMPLES
@given(caption=text.filter(str.strip), limit=st.integers(2 + P, 20))
def test_plain(trained_tokenizer, caption, limit):
    record = parsed("Say it. <image>", caption, image="a.jpg")
    assert ours(record, "plain", trained_tokenizer, limit) == llava_plain(
        caption, trained_tokenizer, limit
    )


def test_the_arithmetic_above_is_not_idle(trained_tokenizer):
    """It finds masks for several rounds, and gives up where LLaVA's users know it does."""
    turns = parsed("a", "red", "a", "red").turns
    found = llava_v1(turns, trained_tokenizer, False, 2048)
    assert sum(token == label for token, label in found) >= 4
    assert llava_v1([*turns[:3], Turn("gpt", "")], trained_tokenizer, False, 2048) is None
