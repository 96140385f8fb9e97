"""The LLM's and the tower's own files: opened, and held against what training takes for granted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils.hub import cached_file

from llava_sea.conversation import TEMPLATES, Template
from llava_sea.data.images import ImageTransform, patch_grid
from llava_sea.data.tokenize import check_template, padding_id, tell_beyond
from llava_sea.model.builder import llava_config, llm_config, load_tokenizer
from llava_sea.model.load import embedding_rows, find_template, is_llava
from llava_sea.model.load_sentencepiece import compare_with_sentencepiece
from llava_sea.model.load_weights import check_model, read_weights, weight_files
from llava_sea.model.towers import check_select_layer, load_tower, num_patches, tower_config
from llava_sea.preflight.page import WARNING, Line, red
from llava_sea.train.arguments import Arguments

_ENDS = ("<eos>", "</s>", "<|endoftext|>")
"""Ends of a text: one more of them after an answer is odd, not wrong (LLaVA's Gemma)."""
_Q1, _A1, _Q2 = "question one", "answer one", "question two"


def tokenizer_of(arguments: Arguments) -> Any:
    """Load the tokenizer as training does."""
    model, _, _, args = arguments
    return load_tokenizer(
        model.model_name_or_path,
        model_max_length=args.model_max_length,
        cache_dir=args.cache_dir,
        pad=template_of(arguments).pad,
    )


def template_of(arguments: Arguments) -> Template:
    """Return the template of --version."""
    model, cache_dir = arguments.model, arguments.training.cache_dir
    return find_template(model.version, model.model_name_or_path, cache_dir)


def config_of(arguments: Arguments) -> Any:
    """Put the parts' configurations together, as training does."""
    model, _, _, args = arguments
    tower = str(model.vision_tower or model.model_name_or_path)
    vision = tower_config(tower, args.cache_dir)
    check_select_layer(model.mm_vision_select_layer, vision, tower)
    llm = llm_config(model.model_name_or_path, args.cache_dir, or_llava=True).get_text_config()
    return llava_config(
        vision,
        llm,
        select_layer=model.mm_vision_select_layer,
        keep_cls=model.mm_vision_select_feature == "cls_patch",
    )


def llm_line(arguments: Arguments) -> Line:
    """Open every file of the LLM's weights, and find its embedding table there."""
    path = arguments.model.model_name_or_path
    rows = embedding_rows(path, arguments.training.cache_dir)
    folder = Path(path)
    if not folder.is_dir():
        config = cached_file(path, "config.json", cache_dir=arguments.training.cache_dir)
        folder = Path(str(config)).parent
        if not weight_files(folder):
            found = f"{path}: {rows:,} rows; its weights are not fetched yet"
            return Line("LLM files", found, WARNING, "fetch them first: hf download " + path)
    check_model(folder)
    weights = read_weights(folder)
    size = sum(tensor.nbytes for tensor in weights.values())
    tables = [t for name, t in weights.items() if name.endswith("embed_tokens.weight")]
    found = f"{path}: {len(weights)} tensors, {size / 1e9:.2f} GB, {rows:,} rows of embeddings"
    if tables and len(tables[0]) != rows and not is_llava(path):
        return red(
            "LLM files",
            f"{found}, {len(tables[0]):,} in the weights",
            "config.json and weights are not of one model; fetch both from the same place",
        )
    return Line("LLM files", found, details={"bytes": size, "rows": rows})


def tokenizer_line(arguments: Arguments) -> Line:
    """Compare the tokenizer with SentencePiece, where its model lies beside it."""
    path = arguments.model.model_name_or_path
    tokenizer = tokenizer_of(arguments)
    compared, other = compare_with_sentencepiece(path, tokenizer, arguments.training.cache_dir)
    kind = f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens"
    details = {"compared": compared, "differing": other}
    if not compared and (Path(path) / "tokenizer.model").is_file():
        told = f"{kind}; the tokenizer.model beside it is no SentencePiece model, or a damaged one"
        return Line("tokenizer", told, WARNING, "fetch it again; tokenizer.json is what is read")
    if not other:
        told = (
            f"{compared} texts give SentencePiece's own ids" if compared else "no tokenizer.model"
        )
        return Line("tokenizer", f"{kind}; {told}", details=details)
    plain = [told for text, told in other.items() if text[:1] not in (" ", "\u2581")]
    if not plain:
        told = f"{kind}; SentencePiece's ids but for texts that begin with a blank"
        return Line("tokenizer", told, WARNING, "nothing, if the LLM was trained so", details)
    told = f"{kind}; {len(other)} of {compared} texts differ from SentencePiece's: {plain[0]}"
    way_out = (
        "put a right tokenizer.json there, or move it away: tokenizer.model is read as it says"
    )
    return red("tokenizer", told, way_out, **details)


def pad_line(arguments: Arguments, texts: Sequence[str] = ()) -> Line:
    """See that what fills rows up is a token of the table that none of the user's texts holds."""
    tokenizer = tokenizer_of(arguments)
    rows = embedding_rows(arguments.model.model_name_or_path, arguments.training.cache_dir)
    token, number = tokenizer.pad_token, tokenizer.pad_token_id
    found = f"{token!r}, id {number}"
    way_out = 'give "pad_token" in tokenizer_config.json a special token that the LLM has'
    if number is None:
        return red("pad token", f"{token!r} is none of the tokenizer's", way_out)
    if number >= rows:
        fills = padding_id(tokenizer, rows)
        told = f"{found}: the embedding table has {rows:,} rows (training would fill up with "
        return red("pad token", f"{told}id {fills}, other tools would fail)", way_out)
    held = sum(number in tokenizer(text, add_special_tokens=False).input_ids for text in texts)
    if held:
        told = f"{found}: {held} of {len(texts)} texts of yours hold it"
        return red("pad token", told, way_out)
    return Line("pad token", f"{found}; in none of {len(texts)} texts")


def ids_line(arguments: Arguments) -> Line:
    """See that the embedding table has a row for every token that training may write."""
    model, tokenizer = arguments.model, tokenizer_of(arguments)
    rows = embedding_rows(model.model_name_or_path, arguments.training.cache_dir)
    wanted = list(tokenizer.all_special_ids)
    template = template_of(arguments)
    check_template(template, tokenizer)
    wanted += tokenizer.convert_tokens_to_ids(list(template.special_tokens))
    beyond = sorted({number for number in tokenizer.get_vocab().values() if number >= rows})
    needed = set(beyond) & set(wanted) - {tokenizer.pad_token_id}
    found = f"{len(tokenizer):,} tokens, {rows:,} rows"
    if needed:
        told = tell_beyond(sorted(needed), tokenizer, rows)
        way_out = "take the LLM's own tokenizer; the table cannot grow"
        return red("token ids", f"{found}: {told}", way_out)
    if beyond:
        told = f"{found}: {len(beyond)} tokens have no row ({tell_beyond(beyond, tokenizer, rows)})"
        return Line("token ids", told, WARNING, "records that hold them are refused by name")
    return Line("token ids", found)


def template_line(arguments: Arguments) -> Line:
    """Hold the markup of --version's turns against that of the LLM's own chat template."""
    version, tokenizer = arguments.model.version, tokenizer_of(arguments)
    name = "chat template"
    template = template_of(arguments)
    if template.jinja:
        return Line(
            name, f"--version {version}: the LLM's own, with {template.stop!r} to end turns"
        )
    if template.caption_only or not tokenizer.chat_template:
        why = "captions have none" if template.caption_only else "the LLM has none of its own"
        return Line(name, f"--version {version}: nothing to compare, {why}")
    own = own_markup(tokenizer)
    if own is None:
        return Line(
            name,
            "the LLM's own template does not render a plain conversation",
            WARNING,
            "look at its chat_template; --version decides for this run",
        )
    difference = compare_markup(template, own, tokenizer.eos_token or "")
    if not difference:
        return Line(name, f"--version {version} marks turns as the LLM's own template does")
    if difference[0] == WARNING:
        return Line(name, f"--version {version}: {difference[1]}", WARNING, "it is meant so?")
    fitting = [
        other
        for other, one in TEMPLATES.items()
        if not one.caption_only and not compare_markup(one, own, tokenizer.eos_token or "")
    ]
    way_out = f"pass --version {fitting[0]}" if fitting else "pass --version auto"
    return red(name, f"--version {version}: {difference[1]}", way_out, own=own)


def own_markup(tokenizer: Any) -> dict[str, str] | None:
    """Return what the LLM's own template puts around turns; None if it cannot render them."""
    chat = [("user", _Q1), ("assistant", _A1), ("user", _Q2)]
    messages = [{"role": role, "content": text} for role, text in chat]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception:  # Jinja of a stranger
        return None
    found = re.fullmatch(f"(.*){_Q1}(.*){_A1}(.*){_Q2}(.*)", text, re.S)
    if found is None:
        return None
    return dict(zip(("first", "reply", "between", "prompt"), found.groups(), strict=True))


def compare_markup(template: Template, own: dict[str, str], eos: str) -> tuple[str, str] | None:
    """Say how a template's markup differs from the LLM's own, RED or by blanks and one more end."""
    ours = {
        "first": template.first,
        "reply": template.reply + template.answer_start,
        "between": template.answer_end + template.after + template.again,
        "prompt": template.reply,
    }

    def plain(text: str, other: str) -> str:
        for end in filter(None, (eos, *_ENDS)):
            text = text if end in other else text.replace(end, "")
        return "".join(text.split())

    worst = None
    for place, text in ours.items():
        theirs = own[place]
        if place == "first":  # behind a system prompt, which templates may choose
            theirs = theirs[len(theirs) - len(text) :] if text else ""
        # A prompt may end with the blank that begins an answer, and an empty thought may follow.
        if text == theirs or (place in ("reply", "prompt") and text.strip() == theirs.strip()):
            continue
        shown = own[place][-max(len(text), 30) :] if place == "first" else theirs
        told = f"{place}: {text!r} here, {shown!r} in the LLM's own"
        if plain(text, theirs) != "".join(theirs.split()):
            return "RED", told
        worst = WARNING, told
    return worst


def tower_line(arguments: Arguments) -> Line:
    """Load the tower, let it look at an image of noise, and hold its processor against it."""
    model, data, _, args = arguments
    path = str(model.vision_tower or model.model_name_or_path)
    config = tower_config(path, args.cache_dir)
    check_select_layer(model.mm_vision_select_layer, config, path)
    transform = ImageTransform.from_pretrained(path, data.image_aspect_ratio)
    transform.check_fits(config)
    grid = patch_grid(config)
    found = f"{path}: {config.model_type}, {transform.resolution[0]} pixels, {grid[0]} x {grid[1]}"
    if model.vision_tower is None:
        return Line("vision tower", f"{found} patches; its weights are the LLaVA's")
    tower: Any = load_tower(path, cache_dir=args.cache_dir)
    with torch.no_grad():
        pixels = torch.randn(1, 3, *transform.resolution)
        states = tower(pixels, output_hidden_states=True).hidden_states
    hidden = states[model.mm_vision_select_layer]
    if not bool(hidden.isfinite().all()):
        way_out = "its weights are damaged: fetch them again"
        return red("vision tower", f"{found}: its features are not finite numbers", way_out)
    spread = float(hidden.std())
    details = {"patches": num_patches(config), "spread": spread}
    return Line("vision tower", f"{found} patches, features finite", details=details)
