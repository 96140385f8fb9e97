"""The picture of a conversation: a local file or a URL, opened as training opens pictures."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from llava_sea.data.images import decode_image
from llava_sea.errors import UserError
from llava_sea.files import IMAGE_BYTES, read_file
from llava_sea.serve.download import download


def open_picture(place: str) -> Image.Image:
    """Open a picture.

    Args:
        place: path of a file, or an http(s) URL.

    Raises:
        UserError: if there is none, it cannot be fetched or read, or is no picture in a known
            format within the limits.
    """
    where = f"--image-file {place}"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place):
        data = download(place)
    else:
        path = Path(place).expanduser()
        if not path.exists():
            raise UserError(f"{where}: no such file")
        try:
            data = read_file(path, IMAGE_BYTES)
        except UserError as error:
            raise UserError(f"--image-file {error}") from None
    return decode_image(data, where, "pass another picture")
