"""Downloads and their limits, against a server on this machine."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from llava_sea.errors import UserError
from llava_sea.serve.image import download, open_image

BODY = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """Each path is one kind of server."""

    def do_GET(self) -> None:
        kind = self.path.strip("/")
        redirects = {"moved": "/fine", "away": "ftp://localhost/x", "round": "/round"}
        if kind in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[kind])
            self.end_headers()
            return
        if kind == "nothing":
            self.send_error(404)
            return
        body = self.server.picture if kind == "picture" else BODY
        self.send_response(200)
        if kind == "broken":
            self.send_header("Content-Length", str(len(body) + 5))
        elif kind not in ("unannounced", "slow"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "silent":
            time.sleep(3)
        if kind == "slow":
            for byte in body:
                try:
                    self.wfile.write(bytes([byte]))
                except OSError:
                    return
                time.sleep(0.05)
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(talker, monkeypatch):
    """The server's address."""
    monkeypatch.setenv("no_proxy", "*")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.picture = talker.picture.read_bytes()
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize("kind", ["fine", "moved", "unannounced"])
def test_fetches(server, kind):
    assert download(f"{server}/{kind}", len(BODY), 5) == BODY


@pytest.mark.parametrize("kind", ["fine", "unannounced"])
def test_size_limit(server, kind):
    with pytest.raises(UserError, match=r"larger than 0.00\d+ MiB"):
        download(f"{server}/{kind}", len(BODY) - 1, 5)


@pytest.mark.parametrize("kind", ["slow", "silent"])
def test_time_limit_is_for_the_whole(server, kind):
    begin = time.monotonic()
    with pytest.raises(UserError, match=f"/{kind}: not there after 0.4 seconds"):
        download(f"{server}/{kind}", seconds=0.4)
    assert time.monotonic() - begin < 1.5


@pytest.mark.parametrize(
    "kind, message",
    [
        ("nothing", "cannot be fetched .*404"),
        ("broken", "cannot be fetched"),
        ("away", "leads to ftp://localhost/x: only http:// and https://"),
        ("round", "cannot be fetched .*redirect"),
    ],
)
def test_what_cannot_be_fetched(server, kind, message):
    with pytest.raises(UserError, match=message):
        download(f"{server}/{kind}", seconds=5)


def test_a_closed_port():
    with pytest.raises(UserError, match=r"cannot be fetched .*refused"):
        download("http://127.0.0.1:9/x", seconds=5)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://localhost/x", "data://,x"])
def test_other_schemes_are_refused(url):
    with pytest.raises(UserError, match="only http:// and https:// are fetched"):
        open_image(url)


def test_a_picture_from_a_url_is_the_file(server, talker):
    from_url = open_image(f"{server}/picture")
    assert from_url.tobytes() == Image.open(talker.picture).convert("RGB").tobytes()
    assert open_image(str(talker.picture)).tobytes() == from_url.tobytes()


def test_what_is_no_picture(server, tmp_path):
    with pytest.raises(UserError, match=r"/fine: the image cannot be decoded .*another image"):
        open_image(f"{server}/fine")
    with pytest.raises(UserError, match="no such file"):
        open_image(str(tmp_path / "none.png"))
    with pytest.raises(UserError, match=rf"--image-file {tmp_path}: is a folder"):
        open_image(str(tmp_path))
    (tmp_path / "empty.png").touch()
    with pytest.raises(UserError, match=r"empty.png: the image file is empty"):
        open_image(str(tmp_path / "empty.png"))


@pytest.mark.parametrize("url", ["http://[::1", "http://[::1/a.png", "https://a]b/c"])
def test_an_address_that_is_none(url):
    with pytest.raises(UserError, match=r"^http.*: is no address"):
        open_image(url)


def test_a_password_is_neither_sent_nor_shown(server):
    url = server.replace("//", "//me:secret@")
    with pytest.raises(UserError, match=r"^http://\*\*\*@127.*password") as caught:
        open_image(f"{url}/picture")
    assert "secret" not in str(caught.value)
