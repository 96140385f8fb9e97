"""A file from the web: http and https only, at most `MAX_BYTES`, in at most `MAX_SECONDS`.

The time limit is for the whole download, a server that sends a byte a second included, which socket
timeouts alone do not catch: it runs in a thread that is left behind.
"""

from __future__ import annotations

import queue
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from urllib.parse import urlsplit

from llava_sea.errors import UserError
from llava_sea.terminal import without_password

MAX_BYTES = 32 * 2**20
MAX_SECONDS = 20.0
_CHUNK = 2**16


class _SameKind(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http and https alone; urllib's own goes to ftp as well."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        _check_address(newurl, f"{req.full_url} leads to {without_password(newurl)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, max_bytes: int | None = None, max_seconds: float | None = None) -> bytes:
    """Fetch a URL.

    Args:
        url: http or https.
        max_bytes: most bytes taken; `MAX_BYTES` if not given.
        max_seconds: longest time, from the look-up of the name to the last byte; `MAX_SECONDS`.

    Raises:
        UserError: if it is another kind of URL, cannot be fetched or is over a limit.
    """
    most, seconds = max_bytes or MAX_BYTES, max_seconds or MAX_SECONDS
    _check_address(url, without_password(url))
    result: queue.Queue[bytes | Exception] = queue.Queue()
    deadline = time.monotonic() + seconds
    arguments = (url, most, deadline, result)
    threading.Thread(target=_fetch_into, args=arguments, daemon=True).start()
    try:
        found = result.get(timeout=seconds)
    except queue.Empty:
        found = TimeoutError()
    if isinstance(found, bytes):
        return found
    if isinstance(found, TimeoutError) or isinstance(getattr(found, "reason", None), TimeoutError):
        raise UserError(
            f"{url}: not there after {seconds:g} seconds; download it by other means and pass the "
            "file"
        )
    if isinstance(found, UserError):
        raise found
    raise UserError(f"{url}: cannot be fetched ({found}); check the address, or pass a local file")


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


def _fetch_into(
    url: str, most: int, deadline: float, result: queue.Queue[bytes | Exception]
) -> None:
    try:
        result.put(_fetch(url, most, deadline))
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        result.put(error)


def _fetch(url: str, most: int, deadline: float) -> bytes:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameKind(),
    ):
        opener.add_handler(handler)
    # Some hosts refuse urllib's own name.
    request = urllib.request.Request(url, headers={"User-Agent": "llava_sea"})
    data = bytearray()
    with opener.open(request, timeout=max(0.1, deadline - time.monotonic())) as response:
        announced = int(response.headers.get("Content-Length") or 0)
        while announced <= most and len(data) <= most and time.monotonic() < deadline:
            chunk = response.read1(_CHUNK)
            if not chunk:
                break
            data += chunk
    if max(announced, len(data)) > most:
        raise UserError(
            f"{url}: larger than {most / 2**20:g} MiB; download it, make it smaller and pass the "
            "file"
        )
    if time.monotonic() >= deadline:
        raise TimeoutError
    if len(data) < announced:
        raise OSError(f"the connection broke after {len(data)} of {announced} bytes")
    return bytes(data)
