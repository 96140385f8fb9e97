"""The one place that loads tokenizers; a SentencePiece ``tokenizer.model`` is read as it says.

transformers 5.23 orders the merges of a ``tokenizer.model`` by id and forgets their scores, so a
run of blanks gets other ids than the LLM ever saw; it takes a text's first blank for the dummy
prefix, and loses the prefix for some model types. Here a folder that has this file alone gets a
fast tokenizer with SentencePiece's own order and normalisation, which is compared with the
``sentencepiece`` package on probe texts. ``legacy`` is read as by transformers 4's slow tokenizers,
which LLaVA uses: with it (the default) each text between special tokens gets the dummy prefix that
the model asks for, without it only the first.

Limits: SentencePiece merges pieces of equal score from the left, which a fast tokenizer cannot. It
comes to the same for runs of blanks; where it does not, the comparison refuses the tokenizer. So it
does for ``legacy: false`` with a model that removes blanks and has a table of normal forms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.hub import cached_file

from llava_sea.errors import UserError
from llava_sea.files import SETTINGS_BYTES, read_file, read_json, read_text
from llava_sea.pretrained import load_pretrained

_ModelProto: Any = vars(sentencepiece_model_pb2)["ModelProto"]
_SPACE = "▁"
_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_READING = ("normalizer", "pre_tokenizer")
_OF_A_CLASS = ("auto_map", "tokenizer_class", "tokenizer_file", "vocab_file")
_PROBES = (
    "A chat. USER: What is this?\nASSISTANT: It's a café, isn't it?",
    "def f(x):\n    if x:\n        return [x  for x in  y]\n\n\n\treturn\t\t0",
    " one blank in front",
    "  two,   three,    four at the end    ",
    "\n\n a\n  b\r\n",
    "▁a ▁▁ b",
    "1234567890 3.14 -1e9 (a+b)*c != {'k': [0]}; https://x.y/z?q=1#w",
    "Grüße, Ελλάδα, Россия, 中国人民, 日本語のテキスト, 한국어, العربية, हिन्दी 🙂👩‍👩‍👧",
    "ﬁ ①２ x\u00a0y\u200bz\u3000w e\u0301",
    *(f"{' ' * length}x{' ' * length}y" for length in (1, 2, 3, 5, 8, 13, 15, 17, 33)),
)
_PROBE_PIECES = 500


class _Pieces(NamedTuple):
    """A SentencePiece model and the settings beside it."""

    proto: Any
    names: list[str]
    """Of the pieces, by id; an added token may rename one."""
    added: list[AddedToken]
    """Tokens that are found before SentencePiece sees a text, in the order of their ids."""
    legacy: bool
    prefix: bool

    def of(self, *kinds: int) -> list[int]:
        return [number for number, p in enumerate(self.proto.pieces) if p.type in kinds]


def auto_tokenizer(
    path: str, *, cache_dir: str | None = None, model_type: str | None = None, **options: Any
) -> PreTrainedTokenizerBase:
    """Load a tokenizer as `AutoTokenizer` does, but a SentencePiece model as it says.

    `model_type` is of the LLM, for a config.json that names another; its class depends on that.

    Raises:
        UserError: if there is no tokenizer, or its ``tokenizer.model`` cannot be read as
            SentencePiece reads it; the error shows the text that differs.
    """
    proto = _sentencepiece_alone(path, cache_dir)
    if proto is None:
        of_llm = {"config": AutoConfig.for_model(model_type)} if model_type else {}
        try:
            tokenizer: PreTrainedTokenizerBase = load_pretrained(
                AutoTokenizer, path, cache_dir=cache_dir, **of_llm, **options
            )
        except UserError:
            raise
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{path}: no tokenizer there, or a damaged one ({reason})") from None
        if not tokenizer("a", add_special_tokens=False).input_ids:
            raise UserError(f"{path}: no tokenizer there; tokenizer.json or its like is missing")
        return _as_its_file(tokenizer, path, cache_dir, options)
    config, numbered = _settings(path, cache_dir, proto)
    pieces = _pieces(proto, config, numbered)
    config |= {"add_bos_token": True, "add_eos_token": False} | config  # as transformers 4
    result: Any = PreTrainedTokenizerFast(tokenizer_object=_build(pieces), **config | options)
    result.name_or_path = path
    for number, token in numbered.items():
        if result.convert_tokens_to_ids(_text(token)) != number:
            raise UserError(f"{path}: the added token {_text(token)!r} cannot have the id {number}")
    _compare(path, result, pieces)
    return result  # type: ignore[no-any-return]


def compare_with_sentencepiece(
    path: str, tokenizer: PreTrainedTokenizerBase, cache_dir: str | None = None
) -> tuple[int, dict[str, str]]:
    """Compare a tokenizer, of a ``tokenizer.json`` too, with the SentencePiece model beside it.

    Returns:
        The number of texts compared, 0 where there is no such model; those that get other ids,
        with what is different.
    """
    proto = _proto(path, cache_dir)
    if proto is None:
        return 0, {}
    config, numbered = _settings(path, cache_dir, proto)
    # transformers 5 leaves "legacy" out when it writes a tokenizer.json
    ways = [config] if "legacy" in config else [config, config | {"legacy": False}]
    pieces = [_pieces(proto, dict(way), numbered) for way in ways]
    found = [dict(_differences(tokenizer, way)) for way in pieces]
    return len(_probes(pieces[0])), min(found, key=len)


def _find(path: str, name: str, cache_dir: str | None) -> Path | None:
    if Path(path).is_dir():
        return Path(path, name) if Path(path, name).is_file() else None
    try:
        found = cached_file(
            path, name, cache_dir=cache_dir, _raise_exceptions_for_missing_entries=False
        )
    except (OSError, ValueError):  # AutoTokenizer will say so
        return None
    return Path(found) if found else None


def _read(path: str, name: str, cache_dir: str | None) -> dict[str, Any]:
    file = _find(path, name, cache_dir)
    try:
        return dict(read_json(file)) if file else {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: no settings of a tokenizer ({error})") from None


def _as_its_file(
    tokenizer: PreTrainedTokenizerBase, path: str, cache_dir: str | None, options: dict[str, Any]
) -> PreTrainedTokenizerBase:
    """Load a Llama's anew if transformers 5 has put another normaliser than ``tokenizer.json``.

    ``legacy: false`` is left to it: there the slow tokenizer and an older file contradict.
    """
    if not isinstance(tokenizer, LlamaTokenizer):
        return tokenizer
    if _read(path, "tokenizer_config.json", cache_dir).get("legacy") is False:
        return tokenizer
    content = _read(path, "tokenizer.json", cache_dir)
    loaded = json.loads(tokenizer.backend_tokenizer.to_str())
    if not content or all(content.get(part) == loaded[part] for part in _READING):
        return tokenizer
    named = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token")}
    return load_pretrained(PreTrainedTokenizerFast, path, cache_dir=cache_dir, **named | options)


def _sentencepiece_alone(path: str, cache_dir: str | None) -> Any:
    """Return the SentencePiece model of a folder without ``tokenizer.json``; None elsewhere."""
    return None if _find(path, "tokenizer.json", cache_dir) else _proto(path, cache_dir)


def _proto(path: str, cache_dir: str | None) -> Any:
    """Return a folder's SentencePiece model, if there is one.

    Llama 3's own ``tokenizer.model`` is tiktoken's; transformers reads that.
    """
    file = _find(path, "tokenizer.model", cache_dir)
    if file is None:
        return None
    try:
        proto = _ModelProto.FromString(read_file(file, SETTINGS_BYTES))
    except DecodeError:
        return None
    if proto.pieces and proto.trainer_spec.model_type not in (_UNIGRAM, _BPE):
        raise UserError(f"{file}: a SentencePiece model of words or characters, not of pieces")
    return proto if proto.pieces else None


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _settings(
    path: str, cache_dir: str | None, proto: Any
) -> tuple[dict[str, Any], dict[int, Any]]:
    """Return a tokenizer's settings, for a class that knows no defaults, and its numbered tokens.

    A token that has no name in the settings has the model's.
    """
    config = _read(path, "tokenizer_config.json", cache_dir)
    decoder = config.pop("added_tokens_decoder", None) or {}
    numbered = {int(number): token for number, token in decoder.items()}
    if not numbered:
        config |= _read(path, "special_tokens_map.json", cache_dir)
        added = _read(path, "added_tokens.json", cache_dir)
        numbered = {int(number): token for token, number in added.items()}
    for kind in ("unk", "bos", "eos"):
        number = getattr(proto.trainer_spec, f"{kind}_id")
        if not config.get(f"{kind}_token") and 0 <= number < len(proto.pieces):
            config[f"{kind}_token"] = proto.pieces[number].piece
    template = _find(path, "chat_template.jinja", cache_dir)
    if template:
        config["chat_template"] = read_text(template, SETTINGS_BYTES)
    return {key: value for key, value in config.items() if key not in _OF_A_CLASS}, numbered


def _pieces(proto: Any, config: dict[str, Any], numbered: dict[int, Any]) -> _Pieces:
    """Put the model and its settings together; tokens in `config` become plain texts.

    No added token is normalised: the slow tokenizers do not know that, and with a dummy prefix
    ``</s>`` would be looked for as ``▁</s>``.
    """
    names = [piece.piece for piece in proto.pieces]
    for number, token in numbered.items():
        if number < len(names) and _text(token) not in names:
            names[number] = _text(token)
    specials: list[Any] = []
    for key, value in config.items():
        if key.endswith("_token") and isinstance(value, (str, dict)):
            specials.append(value)
            config[key] = _text(value)
        elif key.endswith("_special_tokens") and value:
            plain = dict(value) if isinstance(value, dict) else dict(enumerate(value))
            specials += plain.values()
            texts = {name: _text(token) for name, token in plain.items()}
            config[key] = texts if isinstance(value, dict) else list(texts.values())
    control = [names[n] for n, p in enumerate(proto.pieces) if p.type in (_UNKNOWN, _CONTROL)]
    special = {_text(token) for token in (*specials, *control)}
    added: dict[str, AddedToken] = {}
    for token in (*(numbered[n] for n in sorted(numbered)), *specials, *control):
        flags = token if isinstance(token, dict) else {}
        strips = {name: bool(flags.get(name)) for name in ("lstrip", "rstrip", "single_word")}
        is_special = bool(flags.get("special")) or _text(token) in special
        added.setdefault(
            _text(token), AddedToken(_text(token), special=is_special, normalized=False, **strips)
        )
    legacy = config.get("legacy") is not False
    prefix = proto.normalizer_spec.add_dummy_prefix
    if not legacy:
        prefix = config.get("add_prefix_space") is not False
    return _Pieces(proto, names, list(added.values()), legacy, bool(prefix))


def _build(pieces: _Pieces) -> Tokenizer:
    proto, names = pieces.proto, pieces.names
    own = sorted((names[n] for n in pieces.of(_USER_DEFINED)), key=len, reverse=True)
    fallback = bool(proto.trainer_spec.byte_fallback)
    if proto.trainer_spec.model_type == _UNIGRAM:
        scored = [(name, p.score) for name, p in zip(names, proto.pieces, strict=True)]
        model: Any = models.Unigram(scored, proto.trainer_spec.unk_id, fallback)
    else:
        model = models.BPE(
            {name: number for number, name in enumerate(names)},
            list(_merges({names[n]: proto.pieces[n].score for n in pieces.of(_NORMAL)})),
            unk_token=names[proto.trainer_spec.unk_id],
            fuse_unk=True,
            byte_fallback=fallback,
            ignore_merges=bool(own),  # the model's own symbols are whole, whatever they consist of
        )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(_normalizers(pieces))
    before: list[Any] = []
    if pieces.prefix and not pieces.legacy:
        # The first adds a blank even to a text that begins with one (a ▁ by now).
        before = [
            pre_tokenizers.Metaspace(" ", prepend_scheme="first", split=False),
            pre_tokenizers.Metaspace(_SPACE, prepend_scheme="never", split=False),
        ]
    if own:
        before.append(pre_tokenizers.Split(Regex("|".join(map(re.escape, own))), "isolated"))
    if before:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(before)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + [decoders.Strip(" ", 1, 0)] * pieces.prefix
    )
    tokenizer.add_tokens(pieces.added)
    return tokenizer


def _merges(scores: dict[str, float]) -> Iterator[tuple[str, str]]:
    """Yield the pairs that merge, the piece of the highest score first.

    SentencePiece takes pieces of one score (Llama's runs of blanks) from the left; for runs that is
    the longest first.
    """
    for piece in sorted(scores, key=lambda piece: (-scores[piece], -len(piece))):
        for cut in range(len(piece) - 1, 0, -1):
            if piece[:cut] in scores and piece[cut:] in scores:
                yield piece[:cut], piece[cut:]


def _normalizers(pieces: _Pieces) -> list[Any]:
    spec = pieces.proto.normalizer_spec
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        ends = "^ +| +$" if pieces.legacy else " +$"
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(ends), "")]
    steps.append(normalizers.Replace(" ", _SPACE))
    if pieces.prefix and pieces.legacy:
        steps.append(normalizers.Prepend(_SPACE))
    return steps


def _compare(path: str, tokenizer: Any, pieces: _Pieces) -> None:
    """Refuse a tokenizer that differs from the sentencepiece package."""
    for _, told in _differences(tokenizer, pieces):
        raise UserError(
            f"{path}: its tokenizer.model cannot be read as SentencePiece reads it: {told}; put a "
            "tokenizer.json that is right into the folder"
        )


def _differences(tokenizer: Any, pieces: _Pieces) -> Iterator[tuple[str, str]]:
    """Compare with the sentencepiece package, as the slow tokenizers use it."""
    proto = _ModelProto()
    proto.CopyFrom(pieces.proto)
    if not pieces.legacy:
        proto.normalizer_spec.add_dummy_prefix = False
    package = SentencePieceProcessor(model_proto=proto.SerializeToString())
    unknown = pieces.names[proto.trainer_spec.unk_id]
    shield = len(package.encode(unknown))

    def read(text: str, *, first: bool) -> list[int]:
        if pieces.legacy:
            return list(package.encode(text))
        text = _SPACE * (first and pieces.prefix) + text.replace(_SPACE, " ")
        if text.startswith((_SPACE, " ")):  # or a model that removes blanks would take it
            return list(package.encode(unknown + text)[shield:])
        return list(package.encode(text))

    marks = [str(t) for t in pieces.added if not (t.lstrip or t.rstrip or t.single_word)]
    for text in _probes(pieces):
        comparisons = [(text, read(text, first=True))]
        if marks:
            after = [tokenizer.convert_tokens_to_ids(marks[-1]), *read(text, first=False)]
            comparisons.append((f"{text}{marks[-1]}{text}", comparisons[0][1] + after))
        for shown, expected in comparisons:
            found = tokenizer(shown, add_special_tokens=False).input_ids
            if found != expected:
                same = [a == b for a, b in zip(found, expected, strict=False)]
                here = slice(same.index(False) if False in same else len(same), None)
                show = tokenizer.convert_ids_to_tokens
                yield (
                    text,
                    f"in {shown!r} comes {show(found[here])[:9]} instead of "
                    f"{show(expected[here])[:9]}",
                )


def _probes(pieces: _Pieces) -> list[str]:
    """Return texts to compare on, without added tokens: fixed ones, and some of the pieces."""
    normal = pieces.of(_NORMAL, _USER_DEFINED)
    some = [pieces.names[n] for n in normal[:: len(normal) // _PROBE_PIECES + 1]]
    texts = [
        *_PROBES,
        *("".join(some[n : n + 20]).replace(_SPACE, " ") for n in range(0, len(some), 20)),
    ]
    return [text for text in texts if not any(str(token) in text for token in pieces.added)]
