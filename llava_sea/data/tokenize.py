"""A record into token ids, labels and the places of the image's tokens.

The text between two images is tokenised in one piece, as LLaVA does, and a token is supervised if
it overlaps supervised text (character offsets): SentencePiece and byte-level BPE behave differently
at a cut, and counting tokens of pieces goes wrong at every one of them. There is one exception: a
model answers after the prompt's own tokens, so a prompt whose last token would merge with the
answer (one that begins with white space) is tokenised apart. The image's tokens are written out
(P each), so lengths are known; their ids are placeholders that nothing looks at.

Limits: needs a tokenizer with offsets ("fast"; every Llama, Gemma, Phi and Qwen tokenizer is one).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from llava_sea.constants import IGNORE_INDEX
from llava_sea.conversation import Segment, Template, render, render_prompt
from llava_sea.data import problems
from llava_sea.data.control_tokens import has_typed, make_twin
from llava_sea.data.records import Record, Turn
from llava_sea.errors import UserError

PLACEHOLDER_ID = 0
"""Token id at an image's places: a row that every embedding table has."""

Encoded = tuple[list[int], list[tuple[int, int]]]
"""Token ids and the characters ``[start, end)`` of each."""
Encode = Callable[[str], Encoded]

_ANCHOR = "a"
_TAIL, _COMPARED = 8, 3
"""Tokens before a prompt's end that are tokenised alone, and how many of them are compared."""


class Tokenized(NamedTuple):
    """Three lists of the same length: ids, labels (-100 where not supervised), image places."""

    input_ids: list[int]
    labels: list[int]
    image_mask: list[bool]


def padding_id(tokenizer: Any, num_rows: int) -> int:
    """Return an id to pad with that a table of `num_rows` has: pad, else unk (LLaVA's), eos, 0."""
    ids = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id, 0)
    return next(int(token) for token in ids if token is not None and token < num_rows)


def tell_beyond(ids: Sequence[int], tokenizer: Any, num_rows: int) -> str:
    """Say which ids have no row in an embedding table of `num_rows`; "" if all have one."""
    beyond = Counter(token for token in ids if token >= num_rows)
    if not beyond:
        return ""
    named = [
        f"{tokenizer.convert_ids_to_tokens(token)!r} (id {token}, {count} times)"
        for token, count in beyond.most_common(3)
    ]
    more = ", ..." if len(beyond) > len(named) else ""
    return f"{', '.join(named)}{more}: the LLM's embedding table has {num_rows} rows"


def tokenize_record(
    record: Record,
    template: Template,
    tokenizer: Any,
    image_tokens: int,
    model_max_length: int,
) -> Tokenized:
    """Tokenise a record for training.

    BOS comes first, once: the tokenizer's, if it adds one, else the template's; it is never
    supervised. The sequence is cut to `model_max_length` tokens, the image's included.

    Raises:
        UserError: if nothing of the record is supervised, or the cut takes away all that is, or
            takes away tokens of the image.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} gives no character offsets; use a fast tokenizer"
        )
    encode = _encoder(tokenizer)
    ids = _leading_ids(tokenizer, template)
    labels, image_mask = [IGNORE_INDEX] * len(ids), [False] * len(ids)
    after = _after_image(encode, template)
    for number, chunk in enumerate(_chunks(render(record, template))):
        if chunk is None:
            ids += [PLACEHOLDER_ID] * image_tokens
            labels += [IGNORE_INDEX] * image_tokens
            image_mask += [True] * image_tokens
        else:
            chunk_ids, chunk_labels = _tokenize_chunk(chunk, after if number else encode, encode)
            ids += chunk_ids
            labels += chunk_labels
            image_mask += [False] * len(chunk_ids)
    _check_length(record, labels, image_mask, model_max_length)
    cut = slice(model_max_length)
    return Tokenized(ids[cut], labels[cut], image_mask[cut])


def tokenize_prompt(
    turns: Sequence[Turn],
    template: Template,
    tokenizer: Any,
    image_tokens: int,
    num_images: int | None = None,
) -> tuple[list[int], list[bool]]:
    """Tokenise a conversation that waits for an answer, as training tokenises what is before it.

    The turns are text: a special token typed in them stays the word, where training, as LLaVA, has
    the token. `num_images` None takes each ``<image>`` for one. Returns ids and image places.

    Raises:
        UserError: as `render_prompt`.
    """
    encode = _encoder(tokenizer)
    ids = _leading_ids(tokenizer, template)
    image_mask = [False] * len(ids)
    if has_typed((turn.text for turn in turns), tokenizer, template):
        twin = make_twin(tokenizer, template)
        template, encode = twin.template, twin.encode
    after = _after_image(encode, template)
    for number, chunk in enumerate(_chunks(render_prompt(turns, template, num_images))):
        part = [PLACEHOLDER_ID] * image_tokens
        if chunk is not None:
            part, _ = _tokenize_chunk(chunk, after if number else encode, encode)
        ids += part
        image_mask += [chunk is None] * len(part)
    return ids, image_mask


def stop_ids(template: Template, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the template's and the tokenizer's EOS."""
    found = tokenizer(template.stop, add_special_tokens=False).input_ids[-1:]
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
    return list(dict.fromkeys(found))


def check_template(template: Template, tokenizer: Any) -> None:
    """See that the template's special tokens are tokens of the tokenizer.

    Those of an LLM's own template are; one may be the unknown token too (OLMo 2, Granite).

    Raises:
        UserError: naming those that would be cut into pieces.
    """
    if template.jinja:
        return
    torn = [
        token
        for token in template.special_tokens
        if len(tokenizer(token, add_special_tokens=False).input_ids) != 1
        or tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id)
    ]
    if torn:
        raise UserError(
            f"--version {template.name}: this LLM's tokenizer has no {', '.join(torn)}; take the "
            "template that the LLM was tuned with (v1 for Vicuna, llama_3, gemma, phi3, qwen, ...)"
        )


def _leading_ids(tokenizer: Any, template: Template) -> list[int]:
    """Return [BOS] if the tokenizer begins a text with it or the template asks for it, else [].

    An LLM's own template has BOS in its texts, where there is one.
    """
    if template.jinja:
        return []
    first = tokenizer("a").input_ids[0]
    if first == tokenizer.bos_token_id:
        return [first]
    wanted = tokenizer.convert_tokens_to_ids(template.bos) if template.bos else None
    return [] if wanted in (None, tokenizer.unk_token_id) else [wanted]  # see `check_template`


def _chunks(segments: list[Segment]) -> Iterator[list[Segment] | None]:
    """Yield the runs of text segments, and None for each image between them."""
    run: list[Segment] = []
    for segment in segments:
        if segment.is_image:
            yield run
            yield None
            run = []
        else:
            run.append(segment)
    yield run


def _encoder(tokenizer: Any) -> Encode:
    """Return what encodes a text without BOS."""

    def encode(text: str) -> Encoded:
        encoded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return list(encoded.input_ids), list(encoded.offset_mapping)

    return encode


def _tokenize_chunk(
    segments: list[Segment], encode: Encode, anew: Encode
) -> tuple[list[int], list[int]]:
    """Tokenise one run of text as a whole; return its ids and labels."""
    text = "".join(segment.text for segment in segments)
    if not text:
        return [], []
    supervised = bytes(chain.from_iterable([s.supervised] * len(s.text) for s in segments))
    prompt_ends: list[int] = []
    while (end := supervised.find(b"\0\1", prompt_ends[-1] if prompt_ends else 0) + 1) > 0:
        prompt_ends.append(end)
    return _tokenize_text(text, supervised, prompt_ends, encode, anew)


def _after_image(encode: Encode, template: Template) -> Encode:
    """Return what encodes text after an image: anew, as LLaVA does.

    In an LLM's own template it continues, as after the exported template's token ``<image>``.
    """
    return _going_on(encode, template.stop) if template.jinja else encode


def _tokenize_text(
    text: str, supervised: bytes, prompt_ends: Sequence[int], encode: Encode, anew: Encode
) -> tuple[list[int], list[int]]:
    """Tokenise a text so that each of its prompts has the tokens that it has alone.

    The last prompt of which that is not so is tokenised by this function, apart from the rest. So
    what comes before any of the ends is, by construction, what the same text has without the rest.

    `supervised` has a 1 for each character of an answer; `encode` is for this text, which may
    continue another one, `anew` for one that begins. Returns ids and labels.
    """
    ids, offsets = encode(text)
    # A token without a character of its own (a prefix space) goes with the next character.
    labels = [
        token if any(supervised[start : max(end, start + 1)]) else IGNORE_INDEX
        for token, (start, end) in zip(ids, offsets, strict=True)
    ]
    for number in reversed(range(len(prompt_ends))):
        end = prompt_ends[number]
        length = _prompt_length(text, end, ids, offsets, encode)
        if length is None:
            later = [place - end for place in prompt_ends[number + 1 :]]
            before = text[:end], supervised[:end], prompt_ends[:number], encode
            rest = text[end:], supervised[end:], later, _going_on(anew)
            parts = [_tokenize_text(*part, anew) for part in (before, rest)]
            return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
        # A role token that takes white space after it (Phi-3's) takes the answer's too.
        while length and offsets[length - 1][1] > end:
            length -= 1
            labels[length] = IGNORE_INDEX
    return ids, labels


def _prompt_length(
    text: str, end: int, ids: list[int], offsets: list[tuple[int, int]], encode: Encode
) -> int | None:
    """Return how many of a text's tokens are those of its first `end` characters.

    None if these have other tokens when they stand alone. Unless a token reaches over the end, only
    what is next to it can differ (pre-tokenisation that looks ahead), so only that is tokenised.
    """
    length = bisect_left(offsets, (end, 0))
    if length and offsets[length - 1][1] <= end:
        near, _ = encode(text[offsets[max(0, length - _TAIL)][0] : end])
        if near[-_COMPARED:] == ids[max(0, length - _COMPARED) : length]:
            return length
    alone, _ = encode(text[:end])
    return len(alone) if ids[: len(alone)] == alone else None


def _going_on(encode: Encode, before: str = _ANCHOR) -> Encode:
    """Return what encodes a text that continues another: no prefix space is put before it."""
    anchor, _ = encode(before)
    skip, shift = len(anchor), len(before)

    def encode_rest(text: str) -> Encoded:
        ids, offsets = encode(before + text)
        if ids[:skip] != anchor or offsets[skip - 1][1] > shift:
            return encode(text)
        return ids[skip:], [(start - shift, end - shift) for start, end in offsets[skip:]]

    return encode_rest


def _check_length(
    record: Record, labels: list[int], image_mask: list[bool], model_max_length: int
) -> None:
    if all(label == IGNORE_INDEX for label in labels):
        raise record.error(
            problems.NOTHING_SUPERVISED, "no answer to learn from; give it one or remove the record"
        )
    if len(labels) <= model_max_length:
        return
    whose = "the image's" if len(record.images) < 2 else "images'"
    length = f"is {len(labels)} tokens long, {sum(image_mask)} of them {whose}"
    way_out = f"--model_max_length {model_max_length}; raise it, or shorten or remove the record"
    if any(image_mask[model_max_length:]):
        raise record.error(problems.TOO_LONG, f"{length}; they are cut off by {way_out}")
    if all(label == IGNORE_INDEX for label in labels[:model_max_length]):
        raise record.error(
            problems.TOO_LONG, f"{length}; all that is to be learned is cut off by {way_out}"
        )
