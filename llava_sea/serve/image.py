"""The image of a conversation: a local file or a URL, opened as training opens images.

Of the web, http and https only, at most `MAX_BYTES` in at most `MAX_SECONDS`. The time limit is for
the whole download, the look-up of the name and a server that sends a byte a second included, which
socket timeouts do not catch: it runs in a thread that is left behind.
"""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TimeoutOfFuture  # in Python 3.10 its own
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from PIL import Image

from llava_sea.data.images import decode_image
from llava_sea.errors import UserError
from llava_sea.files import IMAGE_BYTES, read_file
from llava_sea.terminal import without_password

MAX_BYTES = 32 * 2**20
MAX_SECONDS = 20.0


def open_image(place: str) -> Image.Image:
    """Open an image: the path of a file, or an http(s) URL.

    Raises:
        UserError: if there is none, it cannot be fetched or read, or is no image in a known format
            within the limits.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place):
        data = download(place)
    else:
        path = Path(place).expanduser()
        if not path.exists():
            raise UserError(f"--image-file {place}: no such file")
        try:
            data = read_file(path, IMAGE_BYTES)
        except UserError as error:
            raise UserError(f"--image-file {error}") from None
    return decode_image(data, f"--image-file {place}", "pass another image")


def download(url: str, most: int = MAX_BYTES, seconds: float = MAX_SECONDS) -> bytes:
    """Fetch an http(s) URL, within the limits: from the look-up of the name to the last byte."""
    _check_address(url, without_password(url))
    result: Future[bytes] = Future()

    def fetch() -> None:
        try:
            result.set_result(_fetch(url, most, time.monotonic() + seconds))
        except Exception as error:  # told by the caller, who may have stopped waiting
            result.set_exception(error)

    threading.Thread(target=fetch, daemon=True).start()
    try:
        return result.result(timeout=seconds)
    except (TimeoutError, TimeoutOfFuture, httpx.TimeoutException):
        raise UserError(
            f"{url}: not there after {seconds:g} seconds; download it by other means and pass the "
            "file"
        ) from None
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"{url}: cannot be fetched ({error}); check the address, or pass a local file"
        ) from None


def _check_address(url: str, where: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:  # a bracket left open
        raise UserError(f"{where}: is no address ({error})") from None
    if "@" in parts.netloc:
        raise UserError(
            f"{where}: a user's name or password in an address is not sent; download it by other "
            "means and pass the file"
        )
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https"):
        raise UserError(f"{where}: only http:// and https:// are fetched, not {scheme}://")


def _fetch(url: str, most: int, deadline: float) -> bytes:
    def check(request: httpx.Request) -> None:
        to = str(request.url)
        _check_address(to, f"{url} leads to {without_password(to)}")

    data = bytearray()
    with (
        httpx.Client(
            follow_redirects=True,
            timeout=max(0.1, deadline - time.monotonic()),
            # some hosts refuse a library's name; what is compressed could grow without limit
            headers={"User-Agent": "llava_sea", "Accept-Encoding": "identity"},
            event_hooks={"request": [check]},
        ) as client,
        client.stream("GET", url) as response,
    ):
        if not response.is_success:
            raise OSError(f"the server says {response.status_code} {response.reason_phrase}")
        announced = int(response.headers.get("Content-Length") or 0)
        for chunk in response.iter_raw() if announced <= most else ():
            data += chunk
            if len(data) > most or time.monotonic() >= deadline:
                break
    if max(announced, len(data)) > most:
        raise UserError(
            f"{url}: larger than {most / 2**20:g} MiB; download it, make it smaller and pass the "
            "file"
        )
    if time.monotonic() >= deadline:
        raise TimeoutError
    return bytes(data)
