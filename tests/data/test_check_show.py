"""What --show prints, worked out by hand with a tokenizer whose merges are listed in conftest."""

import pytest

from llava_sea.check.__main__ import main
from llava_sea.check.show import show_tokens
from llava_sea.conversation import get_template
from llava_sea.data.tokenize import Tokenized, tokenize_record
from llava_sea.errors import UserError
from tests.worlds import edited, parsed

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)


def lines_of(tokenizer, version, image, *texts, limit=2048):
    record = parsed(*texts, image=image)
    tokens = tokenize_record(record, get_template(version), tokenizer, 576, limit)
    lines = [line.text for line in show_tokens(tokens, tokenizer)]
    return lines[: lines.index("")], lines[lines.index("token ids") + 1 :]


def cells(tokenizer, *pieces):
    ids = tokenizer.convert_tokens_to_ids(list(pieces))
    return "   ".join(f"{i} {piece}" for i, piece in zip(ids, pieces, strict=True))


def test_plain(hand_tokenizer):
    text, ids = lines_of(hand_tokenizer, "plain", "a.jpg", "Say it.\n<image>", "a red kettle")
    assert text == [". <s>", ". <image x576>", "+ a red kettle\\n"]
    assert ids == [
        ". 1 <s>",
        ". 0 x576",
        "+ " + cells(hand_tokenizer, "▁a", "▁red", "▁kettle", "<0x0A>"),
    ]


def test_v1_two_rounds(hand_tokenizer):
    text, ids = lines_of(hand_tokenizer, "v1", "a.jpg", "<image>\nwhat is?", "a boat", "what?", "3")
    assert text == [
        ". <s>",
        f". {SYSTEM} USER: ",
        ". <image x576>",
        ". \\n",
        ". what is? ASSISTANT:",
        "+  a boat</s>",
        f". {' ' if hand_tokenizer.legacy else ''}USER: what? ASSISTANT:",
        "+  3</s>",
    ]
    assert ids[-1] == "+ " + cells(hand_tokenizer, "▁3", "</s>")
    assert "+ " + cells(hand_tokenizer, "▁a", "▁boat", "</s>") in ids
    assert max(map(len, ids)) <= 102


def test_text_only_and_cut(hand_tokenizer):
    whole, _ = lines_of(hand_tokenizer, "v1", None, "what is?", "a red boat")
    assert whole == [". <s>", f". {SYSTEM} USER: what is? ASSISTANT:", "+  a red boat</s>"]
    record = parsed("what is?", "a red boat")
    limit = len(tokenize_record(record, get_template("v1"), hand_tokenizer, 576, 999).labels) - 2
    cut, _ = lines_of(hand_tokenizer, "v1", None, "what is?", "a red boat", limit=limit)
    assert cut == [*whole[:2], "+  a red"]


def test_a_wrong_mask_would_show(hand_tokenizer):
    ids = hand_tokenizer.convert_tokens_to_ids(["<s>", "▁a", "▁red", "▁boat"])
    tokens = Tokenized(ids, [-100, -100, ids[2], -100], [False] * 4)
    lines = [line.text for line in show_tokens(tokens, hand_tokenizer)][:4]
    assert lines == [". <s>", ". a", "+  red", ".  boat"]


def test_byte_level_text_and_escapes(byte_level_tokenizer):
    text, ids = lines_of(byte_level_tokenizer, "plain", "a.jpg", "<image>", "café\x1b[31m red 🙂")
    assert text == [". <image x576>", "+ café\\x1b[31m red 🙂\\n"]
    assert "\x1b" not in "".join(ids) and ids[0] == ". 0 x576"


@pytest.fixture
def flags(tiny):
    return [
        *("--model_name_or_path", str(tiny.llm), "--vision_tower", str(tiny.clip)),
        *("--data_path", str(tiny.data), "--image_folder", str(tiny.images)),
    ]


def test_the_command(tiny, flags, capsys):
    assert main([*flags, "--show", "3", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    caption = tiny.records[3]["conversations"][1]["value"]
    assert lines[:6] == [
        f"record 3 (id 'rec-3') of {tiny.data}, --version plain",
        "image 003.png: 40 x 30 pixels, seen as 24 x 24 (square), 4 x 4 patches",
        "24 tokens: 16 of the image, 8 supervised (+), the others not (.)",
        "",
        ". <image x16>",
        f"+ {caption}\\n",
    ]
    assert f"record 0 (id 'rec-0') of {tiny.data}, --version plain" in lines


def test_colour_on_a_terminal(tiny, flags, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    main([*flags, "--show", "3"])
    assert "\x1b[1;32m+ a " in capsys.readouterr().out


def test_a_record_that_cannot_be_shown(tiny, flags, capsys, tmp_path):
    def spoil(records):
        records[1]["image"] = "gone.jpg"
        records[2]["conversations"] = []

    data = edited(tiny.heldout, tmp_path / "data.json", spoil)
    flags = [*flags, "--data_path", str(data)]
    assert main([*flags, "--show", "1", "2"]) == 1
    out = capsys.readouterr().out
    assert "gone.jpg: cannot be read (No such file" in out
    assert "record 2 (id 'rec-2'): \"conversations\" must be a list" in out
    with pytest.raises(UserError, match=r"--show 5: .* holds records 0 to 4"):
        main([*flags, "--show", "5"])
