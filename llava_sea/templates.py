"""The conversation templates that ``--version`` names: how turns become text, as plain data.

The strings are LLaVA's and its forks' (LLaVA-NeXT, LLaVA-pp, MGM), read in their
``conversation.py``; where a fork differs from what its LLM was trained with, the LLM's own format
is taken, and a comment says what was put right. One text serves training, generation and the
chat template of an exported model. The LLM's own chat template (``auto``) is in
`llava_sea.own_template`. Not here: LLaVA's ``v0`` and ``mmtag`` templates, which no
recipe uses, and Bunny's ``phi3`` (Vicuna's layout on Phi-3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from llava_sea.errors import UserError

AUTO = "auto"
"""``--version`` of the LLM's own chat template (`llava_sea.own_template`)."""

IMAGE_BREAK = "\n"
"""Between a turn's image, which moves to its front, and its text."""


@dataclass(frozen=True)
class Template:
    """How turns become text.

    ``system first U reply  answer_start A answer_end  after  again U2 reply ...``, where
    ``answer_start A answer_end`` is supervised and the rest is not. BOS is not in these texts: it
    comes once, at the front.
    """

    name: str  # the value of --version
    system: str  # the system prompt with its markup; empty if there is none
    first: str  # before the first human turn
    again: str  # before each later human turn
    reply: str  # between a human turn and what is supervised of the answer: a prompt's end
    answer_start: str
    answer_end: str
    after: str = ""
    stop: str = ""  # the token whose text ends an answer in generation
    bos: str = ""  # of the LLM, where its tokenizer does not put it there by itself
    pad: str = ""  # of the LLM's family, where the tokenizer names none of its own
    caption_only: bool = False  # LLaVA's stage 1: image and caption, no instruction

    # Of an LLM's own chat template, whose texts hold BOS where it writes one:
    jinja: str = ""
    tokens: tuple[tuple[str, str], ...] = ()  # special tokens by the name that the Jinja uses
    special: tuple[str, ...] = ()  # those in its texts
    last_end: str = ""  # instead of `answer_end` after the last answer, and
    closing: str = ""  # what follows there and is not supervised
    trim_user: tuple[str | None, str | None] = ("", "")  # what is taken off a turn's two ends;
    trim_answer: tuple[str | None, str | None] = ("", "")  # None is all white space

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The template's tokens that a tokenizer must have as one token each."""
        if self.jinja:
            return self.special
        text = self.system + self.first + self.reply + self.answer_end + self.after + self.again
        return tuple(dict.fromkeys(_SPECIAL.findall(self.bos + text)))


_SPECIAL = re.compile(r"</?s>|<\|\w+\|>|<(?:bos|eos|start_of_turn|end_of_turn)>")

_LANGUAGE_AND_VISION = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_META_SAFETY = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe.  Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased "
    "and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of "
    "answering something not correct. If you don't know the answer to a question, please don't "
    "share false information."
)


def _vicuna(name: str, person: str) -> Template:
    """Vicuna v1's layout; the space before an answer is the answer's, as LLaVA counts it."""
    system = (
        f"A chat between a curious {person} and an artificial intelligence assistant. "
        f"The assistant gives helpful, detailed, and polite answers to the {person}'s questions. "
    )
    return Template(
        name, system, "USER: ", "USER: ", " ASSISTANT:", " ", "</s>", stop="</s>", pad="<unk>"
    )


def _llama_2(name: str, system: str, between: str) -> Template:
    """Llama 2's layout; `between` is the BOS that Llama 2 has before each later round."""
    return Template(
        name,
        system=f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n" if system else "",
        first="" if system else "[INST] ",  # with a system prompt that begins the instruction
        again=f"{between}[INST] ",
        reply=" [/INST]",
        answer_start=" ",
        answer_end=" </s>",
        stop="</s>",
        bos="<s>",
        pad="<unk>",
    )


def _chatml(name: str, system: str, newline: str) -> Template:
    """ChatML; `newline` follows each message's end in Qwen's, in LLaVA's MPT layout nothing does.

    LLaVA-NeXT also trains on the markup of the user's turns; here, as in LLaVA, only on answers.
    """
    user = "<|im_start|>user\n"
    return Template(
        name,
        system=f"<|im_start|>system\n{system}<|im_end|>{newline}",
        first=user,
        again=user,
        reply=f"<|im_end|>{newline}<|im_start|>assistant\n",
        answer_start="",
        answer_end="<|im_end|>",
        after=newline,
        stop="<|im_end|>",
        pad="<|endoftext|>",
    )


_PLAIN = Template("plain", "", "", "", "", "", "\n", stop="\n", pad="<unk>", caption_only=True)

# MGM gives the assistant a second `system` header; LLaVA-pp's system prompt (Vicuna's there) holds
# the literal <|begin_of_text|> although the tokenizer adds one; LLaVA-NeXT's text is Meta's.
_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
_LLAMA_3 = Template(
    "llama_3",
    system=_HEADER.format("system") + _LANGUAGE_AND_VISION + "<|eot_id|>",
    first=_HEADER.format("user"),
    again=_HEADER.format("user"),
    reply="<|eot_id|>" + _HEADER.format("assistant"),
    answer_start="",
    answer_end="<|eot_id|>",
    stop="<|eot_id|>",
    bos="<|begin_of_text|>",
    pad="<|reserved_special_token_0|>",  # MGM's; LLaVA-pp adds a row for <pad> to the vocabulary
)

# MGM ends an answer with <eos> as well; LLaVA-NeXT's is Gemma's own format.
_GEMMA_INSTRUCT = Template(
    "gemma_instruct",
    system="",
    first="<start_of_turn>user\n",
    again="<start_of_turn>user\n",
    reply="<end_of_turn>\n<start_of_turn>model\n",
    answer_start="",
    answer_end="<end_of_turn>",
    after="\n",
    stop="<end_of_turn>",
    bos="<bos>",
    pad="<pad>",
)
_GEMMA = replace(_GEMMA_INSTRUCT, name="gemma", answer_end="<end_of_turn>\n<eos>", after="")

# LLaVA-pp finds the masks of this text by offsets of +1 and -2.
_PHI_3 = Template(
    "phi3",
    system="<|system|>\nYou are a helpful AI assistant.<|end|>\n",
    first="<|user|>\n",
    again="<|user|>\n",
    reply="<|end|>\n<|assistant|>\n",
    answer_start="",
    answer_end="<|end|>",
    after="\n",
    stop="<|end|>",
    pad="<|endoftext|>",
)

_MPT_SYSTEM = (
    "A conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers."
)
_VICUNA_V1 = _vicuna("v1", "user")
_MISTRAL = _llama_2("mistral_instruct", "", "")
_QWEN = _chatml("qwen", "You are a helpful assistant.", "\n")
# LLaVA-NeXT generates with this system prompt but trains with Qwen 2's.
_QWEN_2_5 = _chatml(
    "qwen_2_5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", "\n"
)
_SMOLLM2 = _chatml(
    "smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face", "\n"
)
_CHATML_DIRECT = _chatml("chatml_direct", "Answer the questions.", "")

TEMPLATES: dict[str, Template] = {
    "plain": _PLAIN,
    "v0_plain": _PLAIN,
    "v1": _VICUNA_V1,
    "vicuna_v1": _VICUNA_V1,
    "llava_v1": _vicuna("llava_v1", "human"),
    "llama_2": _llama_2("llama_2", _META_SAFETY, "<s>"),
    "llava_llama_2": _llama_2("llava_llama_2", _LANGUAGE_AND_VISION, "<s>"),
    "llama_3": _LLAMA_3,
    "llava_llama_3": _LLAMA_3,
    "llama3": _LLAMA_3,
    "gemma": _GEMMA,
    "gemma_instruct": _GEMMA_INSTRUCT,
    "phi3": _PHI_3,
    "phi3_instruct": _PHI_3,
    "qwen": _QWEN,
    "chatml": _QWEN,
    "qwen_1_5": _QWEN,
    "qwen_2": _QWEN,
    "qwen_2_5": _QWEN_2_5,
    "smollm2": _SMOLLM2,
    "mpt": _chatml("mpt", _MPT_SYSTEM, ""),
    "chatml_direct": _CHATML_DIRECT,
    "mistral_direct": _CHATML_DIRECT,
    "mistral_instruct": _MISTRAL,
    "mistral": _MISTRAL,
}


def check_version(version: str, flag: str = "--version") -> None:
    """Refuse the name of a template that is not there.

    Raises:
        UserError: if there is none of that name (LLaVA takes another one without a word).
    """
    if version not in TEMPLATES and version != AUTO:
        known = ", ".join([*TEMPLATES, AUTO])
        raise UserError(f"{flag} {version!r}: no such conversation template; there are: {known}")


def get_template(version: str, tokenizer: Any = None) -> Template:
    """Return the template that ``--version`` names; for ``auto`` the tokenizer's own.

    Raises:
        UserError: as `check_version`, or if the tokenizer's cannot be used.
    """
    check_version(version)
    if version != AUTO:
        return TEMPLATES[version]
    from llava_sea.own_template import read_template

    return read_template(tokenizer)


def pick_template(name: str | None, recorded: str | None, tokenizer: Any, path: str) -> Template:
    """Take the template that was asked for, else the one recorded in the checkpoint at `path`."""
    chosen, known = name or recorded, ", ".join([*TEMPLATES, AUTO])
    if chosen is None:
        raise UserError(
            f"{path}: does not record the conversation template of its training; give it with "
            f"--conv-mode (LLaVA-1.5: v1), one of {known}"
        )
    if chosen not in (*TEMPLATES, AUTO):
        raise UserError(
            f"{path}: was trained with the template {chosen!r}, which is not known here; choose "
            f"one with --conv-mode: {known}"
        )
    return get_template(chosen, tokenizer)
