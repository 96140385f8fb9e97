"""``python -m llava_sea.serve.cli``: ask a model about an image in the terminal.

LLaVA's flags. Answers appear while they are made. From a pipe, each line is a question and only the
answers are printed: ``echo "What is this?" | python -m llava_sea.serve.cli ...``. An empty line or
the end of the input ends the conversation. One image a conversation.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llava_sea.errors import UserError, run_command
from llava_sea.ranges import check_ranges
from llava_sea.terminal import log_to, say

if TYPE_CHECKING:
    from llava_sea.serve.chat import Chat


def parser() -> argparse.ArgumentParser:
    """Return the command line; each flag may be spelled with - or _."""
    result = model_parser("python -m llava_sea.serve.cli", __doc__)
    add = result.add_argument
    add("--image-file", "--image_file", required=True, help="a file or http(s) URL")
    add("--debug", action="store_true", help="show prompts and token counts on stderr")
    return result


def model_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return a command line with the flags that say which model answers, and how."""
    result = argparse.ArgumentParser(command, description=description, allow_abbrev=False)
    add = result.add_argument
    add("--model-path", "--model_path", required=True, help="checkpoint: folder or hub id")
    add("--model-base", "--model_base", help="LLM or LLaVA that a projector or adapter belongs to")
    add("--vision-tower", "--vision_tower", help="instead of the tower that is recorded")
    template = ("--conv-mode", "--conv_mode")
    add(*template, help="conversation template; the recorded one of the training if not given")
    add("--temperature", type=float, default=0.2, help="0: the likeliest token (%(default)s)")
    length = ("--max-new-tokens", "--max_new_tokens")
    add(*length, type=int, default=512, help="longest answer (%(default)s)")
    bits = result.add_mutually_exclusive_group()
    bits.add_argument("--load-8bit", "--load_8bit", action="store_true", help="bitsandbytes, int8")
    bits.add_argument("--load-4bit", "--load_4bit", action="store_true", help="bitsandbytes, nf4")
    add("--device", help="cuda, cuda:1, cpu, ...; cuda where it is there if not given")
    add("--cache-dir", "--cache_dir", help="where hub files are cached")
    return result


def typed_lines() -> Iterator[str]:
    """Yield questions typed in a terminal, until an empty line, Ctrl-D or Ctrl-C."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # makes the arrow keys work in input()
    while True:
        try:
            line = input("USER: ")
        except EOFError:
            say()
            return
        if not line.strip():
            return
        if not _is_text(line):
            say(f"(that is not {sys.stdin.encoding} text)")
            continue
        yield line.strip()
        say()


def piped_lines() -> Iterator[str]:
    """Yield questions from a pipe or file, until an empty line or its end."""
    for number, line in enumerate(sys.stdin, start=1):
        if not line.strip():
            return
        if not _is_text(line):
            raise UserError(
                f"standard input, line {number}: not {sys.stdin.encoding} text; save the questions "
                "as UTF-8"
            )
        yield line.strip()


def _is_text(line: str) -> bool:
    """Say whether all of a line could be decoded; `main` lets bytes through that are no text."""
    return not re.search("[\ud800-\udfff]", line)


def talk_in_terminal(chat: Chat, name: str) -> None:
    """Ask and answer; a question that cannot be answered does not end the conversation."""
    say(f"Ask about {name}. An empty line or Ctrl-D ends the conversation.\n")
    for question in typed_lines():
        say("ASSISTANT: ", end="")
        try:
            chat.ask(question, sys.stdout)
        except UserError as error:
            say(f"({error})")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags; a number out of range is a `UserError`."""
    args = parser().parse_args(arguments)
    check_ranges("serve.cli", args)
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    terminal = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    # Only answers belong on stdout.
    log_to(sys.stderr)
    if options.debug or terminal:
        logging.getLogger("llava_sea").setLevel(logging.INFO)

    from llava_sea.serve.image import open_image

    image = open_image(options.image_file)

    from transformers.utils import logging as hf_logging

    from llava_sea.serve.setup import start_chat

    hf_logging.disable_progress_bar()
    chat = start_chat(options, image)
    try:
        if terminal:
            talk_in_terminal(chat, options.image_file)
        else:
            for question in piped_lines():
                chat.ask(question, sys.stdout)
    except KeyboardInterrupt:
        say()


if __name__ == "__main__":
    run_command(main)
