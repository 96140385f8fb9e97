"""Image files into the pixels that a vision tower gets; mining and training share every line.

`load_image` gives what a viewer shows: the EXIF rotation is applied (LLaVA leaves such images
lying on their side), 16-bit images are scaled instead of clipped. An alpha channel is dropped, as
in LLaVA. The format is told by content, not by name. `ImageTransform` is the tower's own processor,
with LLaVA's ``--image_aspect_ratio`` before it.

Limits: regular files of `IMAGE_BYTES`, formats that photographs come in, one frame, `MAX_PIXELS`
and `MAX_SIDE`; no remote files.
"""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from llava_sea.data import problems
from llava_sea.data.image_source import ImageSource
from llava_sea.data.problems import ImageError, Kind, RecordError
from llava_sea.errors import UserError
from llava_sea.files import IMAGE_BYTES, NotAFileError, read_file
from llava_sea.pretrained import WRONG_FORM, WrongForm, load_pretrained

MAX_PIXELS = 89_478_485
"""Pillow's own threshold for a decompression bomb: a quarter GiB of RGB, 1.1 GB in a processor."""

MAX_SIDE = 16_384
"""Longest side. The square that it is padded to (0.8 GB, 3.4 GB in a processor) is never made."""

_BAND = 256  # rows of a large square that are there at a time
_WHOLE_SQUARE = 2048  # side of the largest square that is made whole (12.6 MB)

MAX_CROP_RATIO = 50
"""Longer strips than this are cut at both ends before a resize that a centre crop follows."""

# Pillow would hand EPS to Ghostscript, and opens forms that no photograph has.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF")
_ASPECT_RATIOS = ("square", "pad")
_LIKE_SIGLIP = ("DINOv3ViTImageProcessor", "Tipsv2ImageProcessor", "Siglip2ImageProcessor")
_SETTINGS = (
    *("size", "resample", "do_resize", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std"),
)
_LOOKED_FOR = 100  # images looked for before anything long begins


class LoadedImage(NamedTuple):
    """An RGB image and the CRC-32 of its file's bytes, which ties labels to the image."""

    image: Image.Image
    crc32: int


def resolve_image_path(folder: str | os.PathLike[str], name: str, record_id: object) -> Path:
    """Return the file of a record's "image"; links inside the folder may lead anywhere.

    Raises:
        RecordError: if the name is absolute or leaves the folder.
    """
    normal = os.path.normpath(name)
    outside = normal == os.pardir or normal.startswith(os.pardir + os.sep)
    if os.path.isabs(name) or outside or "\0" in name:
        raise RecordError(
            problems.IMAGE_OUTSIDE,
            f"the image {name!r} is not below the image folder; write its path relative to "
            "--image_folder, without '..' (a link inside the folder may lead out)",
            record_id=record_id,
        )
    return Path(folder) / name


def look_for_images(folder: str | os.PathLike[str], images: Iterable[tuple[str, str]]) -> None:
    """Refuse a folder that holds none of the first `images`, (name, record's id) each.

    Raises:
        UserError: if there is no such folder, or it holds none of the first `_LOOKED_FOR`.
    """
    first = list(itertools.islice(images, _LOOKED_FOR))
    if isinstance(folder, ImageSource):
        found = any(image in folder for image, _ in first)
    else:
        found = any(os.path.isfile(Path(folder) / image) for image, _ in first)
    if found or not first:
        return
    if not Path(folder).exists():
        raise UserError(f"--image_folder {folder}: no such folder")
    image, record_id = first[0]
    raise UserError(
        f"--image_folder {folder} holds none of the first {len(first)} images of --data_path "
        f"({image!r} of record {record_id} and so on): is it the folder that the names are "
        "relative to?"
    )


def load_image(folder: str | os.PathLike[str], name: str, record_id: object) -> LoadedImage:
    """Read a record's image.

    Raises:
        RecordError: naming record, file and reason, if there is no such image, or it is no regular
            file, cannot be decoded whole, or is larger than the limits.
    """
    path = resolve_image_path(folder, name, record_id)
    try:
        found = folder.read(name, IMAGE_BYTES) if isinstance(folder, ImageSource) else None
        data, where = found or (read_file(path, IMAGE_BYTES), str(path))
        image = decode_image(data, where, "replace it or remove the record")
    except UserError as error:
        raise RecordError(_kind(error, path), str(error), record_id=record_id) from None
    return LoadedImage(image, zlib.crc32(data))


def _kind(error: UserError, path: Path) -> Kind:
    if isinstance(error, ImageError):
        return error.kind
    if isinstance(error, NotAFileError):
        return problems.NOT_A_FILE
    if not os.path.exists(path):  # nor is a name that is too long
        return problems.IMAGE_MISSING
    is_too_large = path.stat().st_size > IMAGE_BYTES
    return problems.IMAGE_TOO_LARGE if is_too_large else problems.IMAGE_DAMAGED


def decode_image(data: bytes, where: str, way_out: str) -> Image.Image:
    """Decode an image file's bytes into upright RGB.

    `where` (the file) and `way_out` (for a damaged one) are for messages.

    Raises:
        ImageError: if it cannot be decoded whole, or is larger than the limits.
    """
    if not data:
        raise ImageError(f"{where}: the image file is empty")
    try:
        image = Image.open(BytesIO(data), formats=_known_formats())
        width, height = image.size
        if width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE:
            return _to_rgb(_upright(image))
    except Exception as error:  # a decoder raises anything on a damaged file
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = f"not an image in a known format ({', '.join(_known_formats())})"
        is_bomb = isinstance(error, Image.DecompressionBombError)
        raise ImageError(
            f"{where}: the image cannot be decoded ({reason}); {way_out}",
            problems.IMAGE_TOO_LARGE if is_bomb else problems.IMAGE_DAMAGED,
        ) from None
    raise ImageError(
        f"{where}: the image is {width} x {height} pixels, the limits are {MAX_PIXELS:,} pixels "
        f"and {MAX_SIDE:,} on a side; make it smaller",
        problems.IMAGE_TOO_LARGE,
    )


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF rotation; a damaged EXIF block says nothing about it."""
    image.load()
    try:
        orientation = image.getexif().get(0x0112, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, EOFError, struct.error):
        orientation = 1
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 bits a channel")
    elif image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a 16-bit grey image: Pillow's own conversion makes all above 255 white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise ValueError("32-bit pixels; save it with 8 bits a channel")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


class ImageTransform:
    """An image into float32 pixels ``(3, H, W)``: padded if asked, then the tower's processor."""

    def __init__(self, processor: Any, aspect_ratio: str | None) -> None:
        """Wrap transformers' PIL processor of a tower (CLIP's, SigLIP's, BiT's).

        ``square`` leaves the image to the processor (CLIP: resize and centre crop); ``pad`` first
        makes it square with the mean colour, nothing is cut off; None takes what the processor
        does by itself, which never pads after this, so that one place decides.

        Raises:
            UserError: if `aspect_ratio` is neither, or the output's size is not fixed.
        """
        if aspect_ratio is None:
            aspect_ratio = "pad" if getattr(processor, "do_pad", False) else "square"
        if hasattr(processor, "do_pad"):
            processor.do_pad = False
        if aspect_ratio not in _ASPECT_RATIOS:
            raise UserError(f"--image_aspect_ratio {aspect_ratio!r}: it is one of {_ASPECT_RATIOS}")
        self.processor = processor
        self.aspect_ratio = aspect_ratio
        size = dict(processor.size)
        crop = processor.do_center_crop and dict(processor.crop_size)
        final = crop or size
        if not processor.do_resize or set(final) != {"height", "width"}:
            raise UserError(
                f"{type(processor).__name__}: images must come out at one size, its settings "
                f"say size {size}, crop {crop or None}; for a tower with other settings "
                "scripts/fit_tower.py writes a copy"
            )
        self.resolution = (int(final["height"]), int(final["width"]))
        self._resize = {key: int(value) for key, value in size.items()}
        self._crop = list(self.resolution) if crop else None

    @classmethod
    def from_pretrained(cls, vision_tower: str, aspect_ratio: str | None) -> ImageTransform:
        """Load the processor that a vision tower comes with (``preprocessor_config.json``).

        Raises:
            UserError: if the tower has none.
        """
        try:
            processor = load_processor(vision_tower)
        except (OSError, ValueError) as error:
            if isinstance(error, UserError) and not isinstance(error, WrongForm):
                raise
            raise UserError(
                f"--vision_tower {vision_tower}: no image processor there (is the folder right, "
                f"with its preprocessor_config.json?): {str(error).splitlines()[0]}"
            ) from None
        if "size" not in _settings(vision_tower):  # transformers would take another tower's
            raise UserError(
                f"--vision_tower {vision_tower}: its preprocessor_config.json names no size of "
                "images; copy or download the file again"
            )
        try:
            transform = cls(processor, aspect_ratio)
            transform.geometry()
            with np.errstate(all="ignore"):
                pixels = transform(Image.new("RGB", (3, 2)))
            if not (pixels.numel() and pixels.isfinite().all()):
                raise ValueError("it makes no pixels, or some that are no finite numbers")
        except UserError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"--vision_tower {vision_tower}: its preprocessor_config.json is damaged "
                f"({error}); copy or download the file again"
            ) from None
        return transform

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the pixels ``(3, H, W)`` of an RGB image."""
        if self.aspect_ratio == "pad":
            image = self._pad(image)
        elif self._crop and "shortest_edge" in self._resize:
            image = _shorten_strip(image)
        pixels: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels.to(torch.float32)

    def geometry(self) -> dict[str, Any]:
        """Return what decides the pixels, as JSON keeps it; equal geometries give equal pixels."""
        processor = self.processor
        return {
            "aspect_ratio": self.aspect_ratio,
            "resolution": list(self.resolution),
            "resize": dict(self._resize),
            "crop": self._crop,
            "resample": int(processor.resample),
            "rescale": float(processor.rescale_factor) if processor.do_rescale else None,
            "mean": [float(x) for x in processor.image_mean] if processor.do_normalize else None,
            "std": [float(x) for x in processor.image_std] if processor.do_normalize else None,
        }

    def check_fits(self, vision_config: Any) -> None:
        """Refuse a processor that makes images of another size than the tower takes.

        Raises:
            UserError: naming both sizes.
        """
        wanted = pair(vision_config.image_size)
        if self.resolution != wanted:
            raise UserError(
                f"--vision_tower: its preprocessor_config.json makes images of {self.resolution} "
                f"pixels and its config.json says {wanted}; the files are of two towers, or "
                "(DINOv2, or for another size) the tower needs scripts/fit_tower.py"
            )

    def _pad(self, image: Image.Image) -> Image.Image:
        """Centre the image on a square of the mean colour, LLaVA's rounding."""
        width, height = image.size
        side = max(width, height)
        red, green, blue = (int(mean * 255) for mean in self.processor.image_mean)
        place = ((side - width) // 2, (side - height) // 2)
        if side > _WHOLE_SQUARE and set(self._resize) in ({"shortest_edge"}, {"height", "width"}):
            return self._pad_in_bands(image, side, place, (red, green, blue))
        if width == height:
            return image
        square = Image.new("RGB", (side, side), (red, green, blue))
        square.paste(image, place)
        return square

    def _pad_in_bands(
        self, image: Image.Image, side: int, place: tuple[int, int], colour: tuple[int, int, int]
    ) -> Image.Image:
        """Pad and resize at once: what the processor makes of the square, without the square.

        Pillow resizes each row by itself, rounds, and then the columns: bands of rows come to the
        same pixels. The processor's own resize leaves the result as it is.
        """
        edge = self._resize.get("shortest_edge", 0)
        height, width = self._resize.get("height", edge), self._resize.get("width", edge)
        rows = Image.new("RGB", (width, side))
        for top in range(0, side, _BAND):
            count = min(_BAND, side - top)
            band = Image.new("RGB", (side, count), colour)
            band.paste(image, (place[0], place[1] - top))
            rows.paste(band.resize((width, count), self.processor.resample), (0, top))
        return rows.resize((width, height), self.processor.resample)


def _settings(vision_tower: str) -> dict[str, Any]:
    """Return the settings of a tower's processor."""
    from transformers.image_processing_base import ImageProcessingMixin

    return dict(ImageProcessingMixin.get_image_processor_dict(vision_tower)[0])


def load_processor(vision_tower: str) -> Any:
    """Load a tower's processor for PIL.

    Those that transformers has for torchvision alone, or for images of any shape, do what SigLIP's
    does with their settings.
    """
    from transformers import AutoImageProcessor
    from transformers.models.siglip import SiglipImageProcessorPil

    try:
        settings = _settings(vision_tower)
    except (*WRONG_FORM, OSError, ValueError):
        settings = {}  # the Auto class says what is wrong
    if str(settings.get("image_processor_type")).removesuffix("Fast") in _LIKE_SIGLIP:
        given = {key: settings[key] for key in _SETTINGS if settings.get(key) is not None}
        return SiglipImageProcessorPil(**{"resample": Image.Resampling.BILINEAR} | given)
    return load_pretrained(AutoImageProcessor, vision_tower, backend="pil")


def view(geometry: dict[str, Any]) -> tuple[str, float, float]:
    """Say which part of an image a geometry shows: how it is made to fit, kept height and width.

    Label grids of two encoders can be mapped onto each other only if this agrees.
    """
    resize, crop = geometry["resize"], geometry["crop"]
    height, width = (resize.get(key, resize.get("shortest_edge")) for key in ("height", "width"))
    kept = (crop[0] / height, crop[1] / width) if crop else (1.0, 1.0)
    fit = "crop" if "shortest_edge" in resize else "stretch"
    return ("pad" if geometry["aspect_ratio"] == "pad" else fit, *kept)


def patch_grid(vision_config: Any) -> tuple[int, int]:
    """Return the rows and columns of patches of a vision tower (CLIP-L/14 at 336: 24 by 24)."""
    height, width = pair(vision_config.image_size)
    patch_height, patch_width = pair(vision_config.patch_size)
    return height // patch_height, width // patch_width


def pair(size: Any) -> tuple[int, int]:
    """Return height and width of a configuration's size, which may be one number for both."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _shorten_strip(image: Image.Image) -> Image.Image:
    """Cut the ends off a very long strip: resizing 1 x 4000 to a width of 336 would take gigabytes.

    The centre crop that follows drops them anyway; the middle stays where it was.
    """
    width, height = image.size
    keep = min(width, height) * MAX_CROP_RATIO
    left, top = max(0, (width - keep) // 2), max(0, (height - keep) // 2)
    return image.crop((left, top, width - left, height - top)) if left or top else image
