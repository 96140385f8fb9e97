"""A picture for a chat: a local file, or an http(s) address within limits of size and time."""

from __future__ import annotations

import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from llava_sea.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 32 * 2**20
MAX_SECONDS = 20.0


class _SameSchemes(urllib.request.HTTPRedirectHandler):
    """A redirect may not lead to file:// or ftp://."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        """Follow http and https alone."""
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(address: str) -> None:
    scheme = urllib.parse.urlsplit(address).scheme.lower()
    if scheme not in ("http", "https"):
        raise UserError(f"--image-file {address}: only http, https and local files are opened")


def read_picture(place: str) -> Image:
    """Return the RGB picture of a file or address.

    Raises:
        UserError: if there is none, it is too large or too slow, or cannot be decoded.
    """
    from llava_sea.data.images import load_image

    if "://" not in place:
        path = Path(place)
        if not path.is_file():
            raise UserError(f"--image-file {place}: no such file")
        try:
            return load_image(path.parent, path.name, place).image
        except UserError as error:
            raise UserError(f"--image-file {place}: {_reason(error)}") from None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "picture").write_bytes(fetch(place))
        try:
            return load_image(folder, "picture", place).image
        except UserError as error:
            raise UserError(f"--image-file {place}: {_reason(error)}") from None


def _reason(error: UserError) -> str:
    """Cut "record ...: path: " off, which says nothing here."""
    return str(error).rpartition(": the image")[2].strip() or str(error)


def fetch(address: str, *, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS) -> bytes:
    """Read an address.

    Raises:
        UserError: if it is not http(s), does not answer in time, or sends too much.
    """
    _check_scheme(address)
    end = time.monotonic() + max_seconds
    opener = urllib.request.build_opener(_SameSchemes)
    request = urllib.request.Request(address, headers={"User-Agent": "llava_sea"})
    parts, size = [], 0
    try:
        with opener.open(request, timeout=max_seconds) as response:
            while part := response.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise UserError(
                        f"--image-file {address}: larger than {max_bytes / 2**20:.0f} MiB"
                    )
                if time.monotonic() > end:
                    raise TimeoutError
    except TimeoutError:
        raise UserError(
            f"--image-file {address}: not read within {max_seconds:.0f} s; download it first"
        ) from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            reason = f"no answer within {max_seconds:.0f} s"
        raise UserError(f"--image-file {address}: cannot be read ({reason})") from None
    return b"".join(parts)
