"""A training template as Jinja, written from its texts.

A message's content is a string, with ``<image>`` where an image goes, or a list of image and text
items, which are joined. A turn's only image moves to its front, as in training; several stay
where they are. A system message is refused: the model knows the one it was trained with.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from llava_sea.constants import IMAGE_TOKEN
from llava_sea.conversation import Template


class Spaces(NamedTuple):
    """What a way of writing the template puts at the front, and where it adds a space."""

    lead: str
    """``bos_token``, a token's text in quotes, or nothing: a Jinja expression."""
    after_lead: str
    after_image: str
    before_reply: str
    """After an image that no text follows."""
    before_blank: bool = False
    """Whether `after_image` also stands before text that begins with a blank."""


def write_jinja(template: Template, spaces: Spaces) -> str:
    """Write a template as Jinja, from its texts."""
    system = template.system
    begin = system + template.first
    lead = [f"{{{{- {spaces.lead} -}}}}"] if spaces.lead else []
    if spaces.lead and begin:
        lead += _put(spaces.after_lead)
    user = _CAPTION if template.caption_only else _TURN
    reply_after_image = spaces.before_reply * bool(template.reply) + template.reply
    texts = {
        "FIRST": template.first,
        "AGAIN": template.again,
        "IMAGE": IMAGE_TOKEN,
        "GAP": spaces.after_image,
        "BREAK": spaces.after_image + "\n",
        "REPLY_AFTER_IMAGE": reply_after_image,
        "REPLY": template.reply,
        "ANSWER_GAP": spaces.after_image * template.caption_only,
        "START": template.answer_start,
        "END": template.answer_end + template.after,
    }
    body = _BEGIN + user + _END
    if spaces.before_blank:
        body = re.sub(r" and not [\w.]+\.startswith\(' '\)", "", body)
    for name, text in texts.items():
        body = body.replace(f"@{name}@", json.dumps(text, ensure_ascii=False))
    return "\n".join([*lead, *_put(system), body])


def _put(text: str) -> list[str]:
    return [f"{{{{- {json.dumps(text, ensure_ascii=False)} -}}}}"] if text else []


_BEGIN = """\
{%- set turn = namespace(expected='user', text='', bare=false) -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- raise_exception('the system prompt is fixed by the training; send no system message') -}}
{%- endif -%}
{%- if message['role'] != turn.expected -%}
{{- raise_exception('user and assistant must alternate, and the user begins') -}}
{%- endif -%}
{%- set turn.text = '' -%}
{%- if message['content'] is string -%}
{%- set turn.text = message['content'] -%}
{%- else -%}
{%- for item in message['content'] or [] -%}
{%- if item['type'] == 'text' -%}
{%- set turn.text = turn.text + item['text'] -%}
{%- elif item['type'] in ['image', 'image_url'] -%}
{%- set turn.text = turn.text + @IMAGE@ -%}
{%- else -%}
{{- raise_exception('content is text and images; not understood: ' + item['type']) -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if turn.expected == 'user' -%}
"""

_TURN = """\
{%- if loop.first -%}{{- @FIRST@ -}}{%- else -%}{{- @AGAIN@ -}}{%- endif -%}
{%- set parts = turn.text.split(@IMAGE@) -%}
{%- if parts | length == 2 -%}
{%- set rest = (parts[0] + parts[1]) | trim -%}
{{- @IMAGE@ -}}
{%- if rest -%}{{- @BREAK@ + rest -}}{%- endif -%}
{%- set turn.bare = not rest -%}
{%- else -%}
{%- for part in parts -%}
{%- if not loop.first -%}
{{- @IMAGE@ -}}
{%- if part and not part.startswith(' ') -%}{{- @GAP@ -}}{%- endif -%}
{%- endif -%}
{{- part -}}
{%- endfor -%}
{%- set turn.bare = parts | length > 1 and not parts[-1] -%}
{%- endif -%}
{%- if not loop.last or add_generation_prompt -%}
{%- if turn.bare -%}{{- @REPLY_AFTER_IMAGE@ -}}{%- else -%}{{- @REPLY@ -}}{%- endif -%}
{%- endif -%}
"""

_CAPTION = """\
{#- trained on images and captions alone: what else the turn says is left out, as in training -#}
{{- @IMAGE@ -}}
{%- set turn.bare = true -%}
"""

_END = """\
{%- set turn.expected = 'assistant' -%}
{%- else -%}
{%- if turn.bare and not turn.text.startswith(' ') -%}{{- @ANSWER_GAP@ -}}{%- endif -%}
{%- if turn.text -%}{{- @START@ + turn.text + @END@ -}}{%- endif -%}
{%- set turn.expected = 'user' -%}
{%- endif -%}
{%- endfor -%}
"""
