"""``--version auto``: the LLM's own chat template (Jinja), read into a `Template`.

What the Jinja puts around turns is found by rendering conversations of marked turns up to and
through every answer; so training, generation and export treat it like any other template. Each
record is rendered as well and compared (`llava_sea.conversation`).

Readings, the same in training, generation and the exported Jinja:

- a date in the text is fixed (`DATE`), so that runs repeat;
- ``enable_thinking`` is false. Qwen3 then begins the answer to come with an empty think block and
  leaves the block out of earlier ones: here every answer has it, so that a prompt is what training
  has before the answer. The block is prompt, not answer;
- white space that the Jinja takes off the ends of a turn is taken off;
- supervised is what comes after the generation prompt (or, if later, after the beginning of
  ``{% generation %}``), up to and with the token that ends the turn.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template

from llava_sea.conversation import compare_own, unlike
from llava_sea.data.records import Turn
from llava_sea.errors import UserError
from llava_sea.pretrained import WRONG_FORM
from llava_sea.templates import AUTO, Template

DATE = datetime.date(2024, 7, 26)
"""What ``strftime_now`` gives: the day that Llama 3.1's own template falls back on."""

_BEGIN, _END = "{# the LLM's own chat template #}", "{# the end of it #}"
_WAY_OUT = "Name a template with --version (v1, llama_3, qwen, ...), or give it another one"
_ENDS: tuple[str | None, ...] = ("", "\n", " \n", None)
"""Characters that a template may take off; None is all white space."""


def read_template(tokenizer: Any) -> Template:
    """Read the chat template of an LLM's tokenizer, or of one that was exported with it.

    Raises:
        UserError: if there is none, or the text of a conversation is not the beginning of its
            continuation's; names the template, the difference and the way out.
    """
    where = f"--version {AUTO}: the chat template of {tokenizer.name_or_path or 'the tokenizer'}"
    try:
        source = str(tokenizer.get_chat_template())
        source.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} holds half a character (character {error.start} is an unpaired surrogate). "
            f"{_WAY_OUT}"
        ) from None
    except ValueError:
        if isinstance(tokenizer.chat_template, dict) and tokenizer.chat_template:
            names = ", ".join(map(repr, tokenizer.chat_template))
            raise UserError(
                f"{where} cannot be chosen: there are several ({names}), none named 'default'. "
                f"{_WAY_OUT}"
            ) from None
        raise UserError(f"{where} is missing (a base LLM has none). {_WAY_OUT}") from None
    if _BEGIN in source:
        source = source.partition(_BEGIN)[2].partition(_END)[0]
    names = tokenizer.special_tokens_map.items()
    tokens = tuple((name, text) for name, text in names if isinstance(text, str))
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    try:
        return _Reading(source.removesuffix("\n"), tokens, added).template()
    except UserError as error:
        raise UserError(f"{where} cannot be trained with: {error}. {_WAY_OUT}") from None


def write(
    template: Template, messages: Sequence[Mapping[str, str]], *, prompt: bool = False
) -> str:
    """Render messages by a template's Jinja; with `prompt` up to where the answer begins.

    Raises:
        UserError: with what the Jinja says against them.
    """
    return _render(template, messages, add_generation_prompt=prompt)[0][0]


def _render(template: Template, messages: Sequence[Mapping[str, str]], **options: bool) -> Any:
    settings: dict[str, Any] = {**dict(template.tokens), **options}
    try:
        chats = [[dict(message) for message in messages]]
        return render_jinja_template(chats, chat_template=template.jinja, **settings)
    except (jinja2.TemplateError, *WRONG_FORM, ValueError, RecursionError, MemoryError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"it refuses a conversation ({what})") from None


class _Reading:
    """What a Jinja source writes around marked turns."""

    def __init__(
        self, source: str, tokens: tuple[tuple[str, str], ...], added: Sequence[str]
    ) -> None:
        self.source = source
        words = sorted(filter(str.strip, added), key=len, reverse=True)  # Gemma's have line breaks
        self.added = re.compile("|".join(map(re.escape, words)) or "(?!)")
        self.made = Template(AUTO, "", "", "", "", "", "", jinja=_fixed(source), tokens=tokens)

    def template(self) -> Template:
        """Put the template together and compare it with the Jinja, white space included."""
        self._follow_tags()
        self._write_openers_alike()
        made = self._cut()
        for role in ("trim_user", "trim_answer"):
            made = _with_trim(made, role)
        if what := compare_own(made, _turns(6)) or compare_own(made, _turns(5)):
            raise UserError(what)
        return made

    def _texts(self, count: int) -> tuple[str, list[int]]:
        """Return the text of so many turns (an odd number: the prompt) and where each begins."""
        text = write(self.made, [_message(turn) for turn in _turns(count)], prompt=count % 2 == 1)
        found = [text.count(turn.text) for turn in _turns(count)]
        if found != [1] * count:
            raise UserError(f"of {count} turns it writes {found} times each")
        return text, [text.index(turn.text) for turn in _turns(count)]

    def _follow_tags(self) -> None:
        """Make what stands between the generation prompt and a tag's beginning prompt as well."""
        if not re.search(r"{%-?\s*generation\s*-?%}", self.source):
            return
        prompt, (text, places) = self._texts(1)[0], self._texts(2)
        messages = [_message(turn) for turn in _turns(2)]
        _, spans = _render(self.made, messages, return_assistant_tokens_mask=True)
        begins = [start for start, end in spans[0] if start <= places[1] < end]
        if not begins:
            raise UserError("its generation tags leave an answer out")
        if text.startswith(prompt) and begins[0] > len(prompt):
            missing = json.dumps(text[len(prompt) : begins[0]])
            more = f"{{%- if add_generation_prompt %}}{{{{- {missing} -}}}}{{% endif %}}"
            self.made = replace(self.made, jinja=self.made.jinja + more)

    def _write_openers_alike(self) -> None:
        """Put before every answer what stands before the last one."""
        text, (_, last) = self._texts(2)
        longer, (_, first, *_) = self._texts(4)
        start = text.index(_turns(1)[0].text) + len(_turns(1)[0].text)
        new, old = text[start:last], longer[start:first]
        if new != old:
            if not new.startswith(old):
                raise UserError(f"before an answer it writes {new!r}, later {old!r}")
            new, old = json.dumps(new), json.dumps(old)
            alike = f"{{% filter replace({new}, {old}) | replace({old}, {new}) %}}"
            jinja = f"{alike}{self.made.jinja}{{% endfilter %}}"
            self.made = replace(self.made, jinja=jinja)

    def _cut(self) -> Template:
        """Cut the texts of one answer and of what follows it into a template's parts."""
        user, answer = (turn.text for turn in _turns(2))
        prompt, _ = self._texts(1)
        text, places = self._texts(2)
        after, (_, _, again) = self._texts(3)
        tail = places[1] + len(answer)
        if not text.startswith(prompt):
            raise UserError(f"no prompt begins its answer: {unlike(text, prompt)}")
        if not after.startswith(text[:tail]):
            raise UserError(f"a later turn changes earlier ones: {unlike(after, text[:tail])}")
        # The turn's end is the first token, or EOS after other tokens (Command R: two of them).
        eos = re.escape(dict(self.made.tokens).get("eos_token", "")) or "(?!)"
        for pattern in (re.compile(f"(?:{self.added.pattern})*?{eos}").match, self.added.search):
            ends = [pattern(text, tail), pattern(after, tail, again)]
            if ends[0] and ends[1]:
                break
        else:
            raise UserError("it ends an answer with no token of the tokenizer")
        last, end = ends[0].end(), ends[1].end()
        made = replace(
            self.made,
            system=prompt[: places[0]],
            reply=prompt[places[0] + len(user) :],
            answer_start=text[len(prompt) : places[1]],
            answer_end=after[tail:end],
            again=after[end:again],
            last_end=text[tail:last],
            closing=text[last:],
            stop=self.added.findall(ends[1][0])[-1],
        )
        texts = made.system + made.reply + made.answer_end + made.again + made.last_end
        return replace(made, special=tuple(dict.fromkeys(self.added.findall(texts))))


def _fixed(source: str) -> str:
    """Return a Jinja source between marks, with what must not vary put before it."""
    head = ""
    if "strftime_now" in source:
        formats = sorted(set(re.findall(r"strftime_now\(\s*[\"'](.+?)[\"']", source)))
        dates = json.dumps({one: DATE.strftime(one) for one in formats})
        head += f"{{%- macro strftime_now(format) -%}}{{{{- {dates}.get(format, '{DATE}') -}}}}"
        head += "{%- endmacro -%}"
    if "enable_thinking" in source:
        head += "{%- set enable_thinking = false -%}"
    return head + _BEGIN + source + _END


def _turns(count: int) -> list[Turn]:
    return [Turn(("human", "gpt")[n % 2], f"zq{n}mark") for n in range(count)]


def _message(turn: Turn) -> dict[str, str]:
    return {"role": {"human": "user", "gpt": "assistant"}[turn.role], "content": turn.text}


def _with_trim(template: Template, name: str) -> Template:
    """Find what the Jinja takes off the ends of a speaker's turns."""
    speaker = {"trim_user": "human", "trim_answer": "gpt"}[name]
    for side, edge in enumerate(("\n \t \n{}", "{}\n \t \n")):
        talk = [
            Turn(turn.role, edge.format(turn.text)) if turn.role == speaker else turn
            for turn in _turns(4)
        ]
        for characters in _ENDS:
            ends = list(getattr(template, name))
            ends[side] = characters
            changed: dict[str, Any] = {name: tuple(ends)}
            tried = replace(template, **changed)
            if not compare_own(tried, talk):
                break
        template = tried
    return template
