"""``python -m llava_sea.serve.web``: a page to try a model on, for a browser on this machine.

An image, questions, answers that appear while they are made; beside them the image's patches, each
with its nearest words. The page is served to this machine alone unless ``--host`` says otherwise;
it loads nothing from elsewhere and sends nothing anywhere. Images are deleted when it ends. There
is one generation at a time; the next waits for its end.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from llava_sea.errors import EXIT_STATUS, UserError, import_extra, run_command
from llava_sea.ranges import check_ranges
from llava_sea.serve.cli import model_parser
from llava_sea.terminal import log_to, printable, say

if TYPE_CHECKING:
    from llava_sea.serve.chat import Chat
    from llava_sea.serve.page import Message, Page

MAX_WAITING = 16
MAX_SESSIONS = 32
"""Open pages whose conversations are kept."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ABOUT = "Its answers about an image, and the words nearest to each of the image's patches."
STYLE = """
.patches { --paper: var(--background-fill-primary); --ink: var(--body-text-color);
  --soft: color-mix(in srgb, var(--body-text-color) 68%, transparent); --s0: var(--color-accent);
  --panel: var(--background-fill-secondary); --narrow: min(100%, 300px); color: var(--ink);
  font-family: var(--sans); }
.patches .panels:not(.large) { gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(var(--narrow), 1fr)); }
.patches .panels .seen { display: flex; gap: 14px; align-items: end; grid-column: 1 / -1; }
.patches .panels .seen svg { width: 120px; order: -1; }
.patches .hint { color: var(--soft); margin-top: 12px; }
.patches .problem { border-left: 3px solid var(--s1); padding: 2px 0 2px 14px; }
"""
"""The report's style in the page's colours, light or dark."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags; a number out of range is a `UserError`."""
    parser = model_parser("python -m llava_sea.serve.web", __doc__)
    add = parser.add_argument
    add("--before", help="a mm_projector.bin shown beside, as a run's mm_projector_initial.bin")
    add("--words", help="word list, words.tsv; the words of the LLM's tokens if not given")
    add("--host", default="127.0.0.1", help="address served; %(default)s is this machine alone")
    add("--port", type=int, default=7860, help="port served (%(default)s)")
    args = parser.parse_args(arguments)
    check_ranges("serve.web", args)
    for flag in ("before", "words"):
        path = getattr(args, flag)
        if path is not None and not Path(path).is_file():
            raise UserError(f"--{flag} {path}: no such file")
    return args


def build(page: Page, gr: Any) -> Any:
    """Return the page as Gradio's blocks."""
    from llava_sea.report.charts import STYLE as REPORT_STYLE
    from llava_sea.serve.page import MAX_QUESTION, START, note

    def box(asking: bool, **changes: Any) -> Any:
        return gr.Textbox(submit_btn=not asking, stop_btn=asking, **changes)

    def ask(question: str, history: list[Message], chat: Chat | None) -> Iterator[Any]:
        for shown, left in page.ask(question, history, chat):
            yield shown, box(True, value=left)
        yield shown, box(False)

    # The report's rules apply within the panel alone; its light and dark give way to the page's.
    style = f"<style>.patches {{ {REPORT_STYLE.replace(':root', '&')} }} {STYLE}</style>"
    knows_captions = page.template.caption_only
    captions = "It knows stage 1 alone and writes captions, whatever is asked."
    with gr.Blocks(title="llava_sea", fill_width=True, delete_cache=(600, 3600)) as blocks:
        chat = gr.State(None)
        gr.HTML(style, visible=True, padding=False)
        name = printable(Path(page.options.model_path).name or page.options.model_path)
        gr.HTML(
            Markup("<h1>{}</h1>").format(name) + note(captions if knows_captions else ABOUT),
            padding=False,
        )
        with gr.Row():
            with gr.Column(scale=4, min_width=360):
                image = gr.Image(
                    label="Image", height=220, sources=["upload", "clipboard"], buttons=[]
                )
                # Gradio would decode it; `Page.start` does, within this package's limits.
                image.preprocess = lambda payload: payload.path if payload else None
                talk = gr.Chatbot(
                    label="Conversation", height=360, render_markdown=False, buttons=[]
                )
                question = box(
                    False,
                    placeholder="Ask about the image",
                    show_label=False,
                    max_length=MAX_QUESTION,
                    lines=1,
                    max_lines=6,
                )
                new = gr.Button("New conversation", size="sm")
            with gr.Column(scale=5, min_width=360):
                patches = gr.HTML(note(START), elem_classes="patches", apply_default_css=False)
        one = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        free = {"queue": False, "api_visibility": "private"}
        asked = question.submit(ask, [question, talk, chat], [talk, question], **one)
        question.stop(lambda: box(False), None, question, cancels=[asked], **free)
        gr.on(
            [new.click, talk.clear],
            lambda chat: (chat and replace(chat, turns=[]), [], box(False)),
            chat,
            [chat, talk, question],
            cancels=[asked],
            **free,
        )
        image.change(
            lambda path: (*page.start(path), [], box(False)),
            image,
            [chat, patches, talk, question],
            cancels=[asked],
            **one,
        )
    return blocks.queue(max_size=MAX_WAITING)


def check_address(host: str, port: int) -> None:
    """Refuse an address before minutes of loading."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: cannot be served ({error.strerror}); choose another"
        ) from None


def launch(page: Page, gr: Any) -> Any:
    """Serve the page from threads of this process; return its blocks."""
    from llava_sea.serve.image import MAX_BYTES

    host = page.options.host
    blocks = build(page, gr)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    blocks.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=page.options.port,
        share=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        prevent_thread_lock=True,
        quiet=True,
        run_history=False,
        footer_links=[],
        max_file_size=MAX_BYTES,
        state_session_capacity=MAX_SESSIONS,
        theme=gr.themes.Default(primary_hue="blue", **fonts),
    )
    return blocks


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    check_address(options.host, options.port)
    log_to(sys.stderr)
    with tempfile.TemporaryDirectory(prefix="llava_sea-") as folder:
        # Read by Gradio when it is imported; it calls its own page, which no proxy can reach.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=folder)
        direct = [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), *LOOPBACK, options.host]
        os.environ["no_proxy"] = ",".join(filter(None, direct))
        gradio = import_extra("gradio", "web")
        from llava_sea.serve.page import open_page

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_STATUS))  # the folder goes, too
        page = open_page(options)
        blocks = launch(page, gradio)
        say(f"{blocks.local_url} (Ctrl-C ends it)")
        if options.host not in LOOPBACK:
            say(f"--host {options.host}: whoever reaches this machine there can use the model")
        blocks.block_thread()


if __name__ == "__main__":
    run_command(main)
