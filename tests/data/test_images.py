"""The odd files of real data sets, bad ones, LLaVA's two ways to make an image square."""

import json
import struct
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, LlavaImageProcessorPil
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llava_sea.data import images as images_module
from llava_sea.data.images import (
    MAX_SIDE,
    ImageTransform,
    load_image,
    look_for_images,
    patch_grid,
    resolve_image_path,
    view,
)
from llava_sea.errors import UserError


def clip(side=32, **options):
    return CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **options
    )


def saved(folder, name, image, **options):
    image.save(folder / name, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(folder, name, "r")
    assert loaded.image.mode == "RGB"
    assert loaded.crc32 == zlib.crc32((folder / name).read_bytes())
    return np.asarray(loaded.image).astype(int)


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))  # stored: left blue; orientation 6: shown turned clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = saved(tmp_path, "turned.jpg", image, exif=exif)
    assert pixels.shape == (40, 20, 3)
    assert pixels[5, 10, 2] > 200 and pixels[35, 10, 0] > 200  # blue above, red below


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_not_hide_the_picture(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "e.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert load_image(tmp_path, "e.jpg", "r").image.size == (8, 8)


def test_cmyk_jpeg(tmp_path):
    pixels = saved(tmp_path, "c.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))
    assert pixels[4, 4, 0] > 200 and pixels[4, 4, 1] < 60


def test_sixteen_bit_png_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)
    pixels = saved(tmp_path, "deep.png", Image.fromarray(ramp))
    assert np.array_equal(pixels[..., 0].ravel(), np.arange(256))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_palette_with_transparency_gives_its_colours_without_a_warning(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    pixels = saved(tmp_path, "p.png", image, transparency=bytes([255, 0]))
    assert pixels[0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1"])
def test_other_modes(tmp_path, mode):
    assert saved(tmp_path, "m.png", Image.new(mode, (4, 4))).max() == 0


def test_a_gif_called_jpg_shows_its_first_frame(tmp_path):
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    (tmp_path / "a.gif").rename(tmp_path / "a.jpg")
    assert load_image(tmp_path, "a.jpg", "r").image.getpixel((1, 1)) == (255, 0, 0)


def test_names_with_dots_and_links(tmp_path):
    folder, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    Image.new("RGB", (4, 4)).save(elsewhere / "a.png")
    (folder / "coco").symlink_to(elsewhere)
    for name in ("coco/a.png", "./coco/a.png", "x/../coco/a.png", "coco/..a.png"):
        assert resolve_image_path(folder, name, "r") == folder / name
    assert load_image(folder, "coco/a.png", "r").image.size == (4, 4)


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", [(1, 300), (300, 1), (299, 180), (180, 299), (257, 257)])
def test_padding_in_bands_gives_llavas_pixels(monkeypatch, size, resample):
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    siglip = SiglipImageProcessorPil(size={"height": 28, "width": 35}, resample=resample)
    for processor in (clip(resample=resample), siglip):
        transform = ImageTransform(processor, "pad")
        whole = transform(image)
        assert size[0] == size[1] or torch.equal(
            whole,
            processor(
                images=naive_pad(image, tuple(int(x * 255) for x in processor.image_mean)),
                return_tensors="pt",
            )["pixel_values"][0],
        )
        monkeypatch.setattr(images_module, "_WHOLE_SQUARE", 8)
        monkeypatch.setattr(images_module, "_BAND", 37)
        assert torch.equal(transform(image), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("size", [(2, 5000), (5000, 2)])
def test_no_large_square_is_made(monkeypatch, size):
    new = Image.new

    def small(mode, size, color=0):
        assert size[0] * size[1] < 2**22
        return new(mode, size, color)

    image = new("RGB", size, (10, 200, 30))
    monkeypatch.setattr(Image, "new", small)
    assert ImageTransform(clip(336), "pad")(image).shape == (3, 336, 336)


def naive_pad(image, colour):
    side = max(image.size)
    pixels = np.empty((side, side, 3), np.uint8)
    pixels[:] = colour
    array = np.asarray(image)
    top, left = (side - array.shape[0]) // 2, (side - array.shape[1]) // 2
    pixels[top : top + array.shape[0], left : left + array.shape[1]] = array
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(50, 31), (31, 50), (40, 40)])
@pytest.mark.parametrize(
    ("processor", "colour"),
    [
        (clip(), (122, 116, 104)),
        (SiglipImageProcessorPil(size={"height": 28, "width": 28}), (127, 127, 127)),
    ],
)
def test_pad_and_square(size, processor, colour):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    square = ImageTransform(processor, "square")(image)
    expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(square, expected)
    padded = ImageTransform(processor, "pad")(image)
    by_hand = processor(images=naive_pad(image, colour), return_tensors="pt")["pixel_values"][0]
    assert padded.dtype == torch.float32 and torch.equal(padded, by_hand)
    assert torch.equal(padded, square) == (size[0] == size[1])


@pytest.mark.parametrize("height, width", [(4000, 1), (1, 4000), (3, 5), (1, 1)])
def test_extreme_shapes(height, width):
    image = Image.new("RGB", (width, height), (10, 200, 30))
    siglip = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    for transform in (
        ImageTransform(clip(336), "square"),
        ImageTransform(clip(), "pad"),
        ImageTransform(siglip, "square"),
    ):
        pixels = transform(image)
        assert tuple(pixels.shape) == (3, *transform.resolution)
        geometry = transform.geometry()
        shown = pixels[1] * geometry["std"][1] + geometry["mean"][1]
        if transform.aspect_ratio == "square":
            assert (shown - 200 / 255).abs().max() < 1e-4
        else:  # the picture, or where it is too thin to be seen, the mean colour
            assert shown.min() > 0.4 and shown.max() < 0.85


@pytest.mark.parametrize("size", [(3, 301), (400, 4)])
def test_a_strip_keeps_its_middle(size, monkeypatch):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    short = ImageTransform(clip(), "square")(image)
    calls = []
    monkeypatch.setattr(images_module, "_shorten_strip", lambda whole: calls.append(1) or whole)
    whole = ImageTransform(clip(), "square")(image)
    assert calls and (short - whole).abs().max() < 1.1 / 255 / 0.26  # one level of 256


def test_geometry_is_json_and_tells_transforms_apart(tmp_path):
    clip(336).save_pretrained(tmp_path)
    loaded = ImageTransform.from_pretrained(str(tmp_path), "pad")
    geometry = ImageTransform(clip(336), "pad").geometry()
    assert loaded.geometry() == geometry == json.loads(json.dumps(geometry))
    assert geometry["aspect_ratio"] == "pad" and geometry["resolution"] == [336, 336]
    assert geometry["resize"] == {"shortest_edge": 336} and geometry["resample"] == 3
    others = [
        ImageTransform(clip(336), "square"),
        ImageTransform(clip(224), "pad"),
        ImageTransform(clip(336, image_mean=[0.5, 0.5, 0.5]), "pad"),
        ImageTransform(clip(336, resample=2), "pad"),
        ImageTransform(clip(336, do_normalize=False), "pad"),
    ]
    assert all(other.geometry() != geometry for other in others)


def test_view():
    siglip = SiglipImageProcessorPil(size={"height": 384, "width": 384})
    dino = BitImageProcessorPil(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
    )
    assert view(ImageTransform(clip(), "square").geometry()) == ("crop", 1.0, 1.0)
    assert view(ImageTransform(dino, "square").geometry()) == ("crop", 0.875, 0.875)
    assert view(ImageTransform(siglip, "square").geometry()) == ("stretch", 1.0, 1.0)
    assert view(ImageTransform(siglip, "pad").geometry()) == ("pad", 1.0, 1.0)


def test_patch_grid():
    assert patch_grid(SimpleNamespace(image_size=336, patch_size=14)) == (24, 24)
    assert patch_grid(SimpleNamespace(image_size=384, patch_size=14)) == (27, 27)
    assert patch_grid(SimpleNamespace(image_size=[28, 42], patch_size=(14, 14))) == (2, 3)


def test_settings_that_give_no_fixed_size(tmp_path):
    with pytest.raises(UserError, match="must come out at one size"):
        ImageTransform(CLIPImageProcessorPil(do_center_crop=False), "square")
    with pytest.raises(UserError, match="--image_aspect_ratio 'anyres'"):
        ImageTransform(clip(), "anyres")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"--vision_tower .* no image processor"):
            ImageTransform.from_pretrained(str(folder), "square")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        [],
        3,
        {"image_processor_type": "CLIPImageProcessor"},
        {"size": {"shortest_edge": -3}},
        {"size": {"shortest_edge": "x"}},
        {"size": "large"},
        {"crop_size": None},
        {"crop_size": {"height": -4, "width": 7}},
        {"resample": "x"},
        {"rescale_factor": None},
        {"image_mean": None},
        {"image_mean": [0.5]},
        {"image_std": [0, 0, 0]},
    ],
    ids=repr,
)
def test_a_damaged_preprocessor_config_is_one_line(tiny, tmp_path, settings):
    whole = json.loads((tiny.clip / "preprocessor_config.json").read_text())
    change = isinstance(settings, dict) and settings and "image_processor_type" not in settings
    (tmp_path / "config.json").write_bytes((tiny.clip / "config.json").read_bytes())
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(whole | settings if change else settings))
    message = rf"^--vision_tower {tmp_path}: .*preprocessor_config\.json"
    with pytest.raises(UserError, match=message) as caught:
        ImageTransform.from_pretrained(str(tmp_path), "pad")
    assert "\n" not in str(caught.value)


def test_a_processor_of_another_tower_is_refused(tiny):
    vision = AutoConfig.from_pretrained(tiny.clip).vision_config
    ImageTransform.from_pretrained(str(tiny.clip), "square").check_fits(vision)
    with pytest.raises(UserError, match=r"\(32, 32\) pixels .* says \(24, 24\)"):
        ImageTransform(clip(), "square").check_fits(vision)


def test_the_aspect_ratio_alone_decides_about_padding():
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    wide = Image.new("RGB", (40, 20), (255, 0, 0))
    square = ImageTransform(LlavaImageProcessorPil(do_pad=True, **size), "square")
    assert square.aspect_ratio == "square" and len(square(wide)[0].unique()) == 1
    recorded = ImageTransform(LlavaImageProcessorPil(do_pad=True, **size), None)
    assert recorded.aspect_ratio == "pad" and len(recorded(wide)[0].unique()) > 1
    assert ImageTransform(LlavaImageProcessorPil(**size), None).aspect_ratio == "square"


def test_one_of_the_first_hundred_pictures_is_enough(tmp_path):
    pictures = [(f"{number}.jpg", str(number)) for number in range(101)]
    (tmp_path / "100.jpg").touch()
    with pytest.raises(UserError, match=r"none of the first 100 .*'0\.jpg' of record 0 "):
        look_for_images(tmp_path, pictures)
    (tmp_path / "99.jpg").touch()
    look_for_images(tmp_path, iter([("a" * 400, "long"), *pictures[1:]]))
    look_for_images(tmp_path / "none", [])  # text alone needs no folder


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.png", "x/../../a.png", "..", "a\0.png"])
def test_paths_that_leave_the_folder(tmp_path, name):
    with pytest.raises(UserError, match=r"record 'r1': the image .* is not below the image folder"):
        load_image(tmp_path, name, "r1")


def png_that_claims(width, height):
    """A PNG of a few bytes whose header announces a huge image."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + (chunk(b"IEND", b""))
    )


def image_bytes(tmp_path, **options):
    path = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 50).save(path, **options)
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: b"", "the image file is empty"),
        (lambda p: b"<html>not found</html>", "not an image in a known format .JPEG"),
        (
            lambda p: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "not an image in a known",
        ),
        (lambda p: image_bytes(p)[:-400], "cannot be decoded .*truncated"),
        (lambda p: png_that_claims(60_000, 60_000), "cannot be decoded .*decompression bomb"),
        (
            lambda p: png_that_claims(10_000, 10_000),
            "is 10000 x 10000 pixels, the limits are 89,478",
        ),
        (lambda p: png_that_claims(1, MAX_SIDE + 1), f"is 1 x {MAX_SIDE + 1} pixels"),
        (lambda p: png_that_claims(8, 8), "cannot be decoded"),
    ],
    ids=["empty", "html", "eps", "truncated", "bomb", "large", "long", "hollow"],
)
def test_images_that_cannot_be_used(tmp_path, make, message):
    (tmp_path / "a.jpg").write_bytes(make(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        load_image(tmp_path, "a.jpg", "r1")
    assert str(caught.value).startswith(f"record 'r1': {tmp_path / 'a.jpg'}: ")


def test_floats_and_deep_integers(tmp_path):
    Image.new("F", (4, 4)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match="floating-point pixels"):
        load_image(tmp_path, "a.tiff", "r1")
    Image.new("I", (4, 4), 70_000).save(tmp_path / "b.tiff")
    with pytest.raises(UserError, match="32-bit pixels"):
        load_image(tmp_path, "b.tiff", "r1")


def test_missing_image_and_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    long = "a" * 400
    for name, reason in (("a.jpg", "No such"), ("folder", "is a folder"), (long, "too long")):
        with pytest.raises(UserError, match=rf"record 'r1': .*{name}: .*{reason}"):
            load_image(tmp_path, name, "r1")
