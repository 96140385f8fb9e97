"""A chat about a picture: ``python -m llava_sea.serve.cli --model-path DIR --image-file FILE``.

LLaVA's flags. Answers stream as they are made; an empty line or Ctrl-D ends the chat. Questions may
also come from a pipe, one a line: then nothing but the answers is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llava_sea.errors import UserError, run_command

if TYPE_CHECKING:
    from llava_sea.conversation import Template
    from llava_sea.data.records import Turn
    from llava_sea.model.load import Loaded


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the flags; ``-`` and ``_`` in their names are the same."""
    parser = argparse.ArgumentParser(description="Chat about a picture.", allow_abbrev=False)
    add = parser.add_argument
    add("--model-path", required=True, help="a checkpoint of any kind: folder or hub id")
    add("--model-base", help="the LLM of a projector or LoRA checkpoint, if not the recorded one")
    add("--vision-tower", help="the vision tower, if not the recorded one")
    add("--image-file", required=True, help="a local file or an http(s) address")
    add("--conv-mode", help="conversation template, if not the recorded one")
    add("--temperature", type=float, default=0.2, help="0 takes the likeliest token (greedy)")
    add("--max-new-tokens", type=int, default=512, help="tokens of an answer at most")
    add("--device", help="cuda or cpu; default: cuda if there is one")
    add("--load-8bit", action="store_true", help="not supported, see the error")
    add("--load-4bit", action="store_true", help="not supported, see the error")
    add("--debug", action="store_true", help="print each prompt and its length")
    flags = list(sys.argv[1:] if arguments is None else arguments)
    flags = [
        "--" + f[2:].partition("=")[0].replace("_", "-") + "".join(f[2:].partition("=")[1:])
        if f.startswith("--")
        else f
        for f in flags
    ]
    options = parser.parse_args(flags)
    if options.load_8bit or options.load_4bit:
        raise UserError(
            "--load-8bit, --load-4bit: a whole checkpoint is not quantised here. Export it "
            "(python -m llava_sea.model.export) and open it quantised with transformers or vLLM"
        )
    if options.temperature < 0 or options.max_new_tokens < 1:
        raise UserError("--temperature must not be negative, --max-new-tokens at least 1")
    return options


@dataclass
class Chat:
    """A model, a picture, and what has been said."""

    loaded: Loaded
    template: Template
    pixel_values: Any
    temperature: float
    max_new_tokens: int
    debug: bool = False
    turns: list[Turn] = field(default_factory=list)

    def ask(self, question: str, streamer: Any = None) -> str:
        """Ask about the picture; the first question brings it along.

        Returns:
            The answer, without its end token.
        """
        import torch

        from llava_sea.constants import IMAGE_TOKEN
        from llava_sea.data.records import Turn
        from llava_sea.data.tokenize import stop_ids, tokenize_prompt
        from llava_sea.model.generate import generate

        question = question.replace(IMAGE_TOKEN, "").strip()
        text = question if self.turns else f"{IMAGE_TOKEN}\n{question}"
        self.turns.append(Turn("human", text))
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        ids, mask = tokenize_prompt(
            self.turns, self.template, tokenizer, model.config.image_seq_length
        )
        if self.debug:
            shown = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if not m])
            print(f"[{len(ids)} tokens] {shown!r}", file=sys.stderr)
        answer = generate(
            model,
            torch.tensor([ids]),
            torch.tensor([mask]),
            self.pixel_values,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            stop_ids=stop_ids(self.template, tokenizer),
            streamer=streamer,
        )
        said = str(tokenizer.decode(answer[0], skip_special_tokens=True)).strip()
        self.turns.append(Turn("gpt", said))
        return said


def open_chat(options: argparse.Namespace) -> Chat:
    """Load the model and the picture.

    Raises:
        UserError: if either cannot be had, or no template is known.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    from llava_sea.conversation import TEMPLATES, get_template
    from llava_sea.data.tokenize import check_template
    from llava_sea.model.load import load_llava
    from llava_sea.serve.picture import read_picture

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    picture = read_picture(options.image_file)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load_llava(
        options.model_path, model_base=options.model_base, vision_tower=options.vision_tower
    )
    version = options.conv_mode or loaded.version
    if version is None:
        raise UserError(
            f"--model-path {options.model_path}: does not say which conversation template it was "
            f"trained with; name it with --conv-mode: {', '.join(TEMPLATES)}"
        )
    template = get_template(version)
    check_template(template, loaded.tokenizer)
    model: Any = loaded.model
    model.to(device).eval()
    pixels = loaded.transform(picture)[None]
    return Chat(
        loaded, template, pixels, options.temperature, options.max_new_tokens, options.debug
    )


def questions() -> Iterator[str]:
    """Yield what the user types, or a pipe's lines, until an empty line or the end."""
    while True:
        try:
            line = input("you: " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not line:
            return
        yield line


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    options = parse(arguments)
    chat = open_chat(options)
    if not sys.stdin.isatty():
        for question in questions():
            print(chat.ask(question), flush=True)
        return
    from transformers import TextStreamer

    print(f"{options.image_file} is open. Ask about it; an empty line ends.")
    tokenizer: Any = chat.loaded.tokenizer
    streamer = TextStreamer(tokenizer, skip_prompt=False, skip_special_tokens=True)
    try:
        for question in questions():
            print("model: ", end="", flush=True)
            chat.ask(question, streamer)
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    run_command(main)
