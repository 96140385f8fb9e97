"""Bad data files and pictures: each a clear error with file, record and way out."""

import json
import struct
import zlib

import pytest
from PIL import Image

from llava_sea.data.images import MAX_SIDE, load_image
from llava_sea.data.records import load_records
from llava_sea.errors import UserError

SAID = '{"from": "gpt", "value": "a"}'
TALK = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.json",
            '[\n{"conversations": [' + SAID + ']},\n{"id": }\n]',
            "record 1: broken JSON at line 3, column 8",
        ),
        (
            "a.jsonl",
            '{"conversations": [' + SAID + ']}\n\n{"id": 1',
            "a.jsonl: record 1: broken JSON at line 3, column 9",
        ),
        (
            "a.json",
            '{"id": 1}\n{"id": 2}',
            "more from line 2, column 1 on; .* one record a line, name it .jsonl",
        ),
        ("a.json", "[]\n[]", "broken JSON at line 2, column 1: Extra data"),
        ("a.jsonl", '{"id": 1} {"id": 2}', "broken JSON at line 1, column 11: Extra data"),
        ("a.json", "", "the file is empty"),
        ("a.jsonl", "", "the file is empty"),
        ("a.json", "[" * 200_000, "nested too deep"),
        ("a.json", '{"id": 1}', "holds one object, not a list of records"),
        ("a.json", "[]", "holds no records"),
        ("a.jsonl", "\n\n", "holds no records"),
        ("a.json", b"[\xff]", "not UTF-8 text .byte 1."),
    ],
)
def test_broken_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load_records(path)


@pytest.mark.parametrize("what", ["missing.json", "."])
def test_no_file(tmp_path, what):
    with pytest.raises(UserError, match=r"cannot be read|is a folder"):
        load_records(tmp_path / what)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text", "record 1: is a string, not an object"),
        ({"id": 7}, r'\(id .7.\): "conversations" .* it is missing'),
        ({"id": 7, "conversations": []}, '"conversations" .* it is empty'),
        ({"id": 7, "conversations": {}}, '"conversations" .* it is of type object'),
        ({"id": [7], "conversations": TALK}, '"id" must be a string or a whole number'),
        ({"id": True, "conversations": TALK}, '"id" must be a string or a whole number'),
        ({"id": "x", "image": 3, "conversations": TALK}, r"\(id 'x'\): \"image\" .* it is 3"),
        ({"id": "x", "image": "", "conversations": TALK}, '"image" must be a path'),
        ({"id": "x", "image": ["a", ""], "conversations": TALK}, "or a list of them, it is ''"),
        ({"images": ["a.jpg"], "conversations": TALK}, 'has "images", .* named by "image"'),
        ({"image": "a.jpg", "video": "a.mp4", "conversations": TALK}, 'has "video", .* a video'),
        ({"conversations": ["hi"]}, r"record 1 \(id .1.\): turn 0 is from None"),
        ({"conversations": [{"from": "user", "value": "x"}]}, "turn 0 is from 'user'; LLaVA's"),
        ({"conversations": [TALK[0], {"from": "gpt"}]}, 'turn 1 needs its text in "value"'),
        ({"conversations": [{"from": "gpt", "value": "a\ud83d"}]}, "turn 0 holds half a character"),
    ],
)
def test_wrong_shapes_name_the_record(tmp_path, row, message):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"id": 0, "conversations": TALK}, row]))
    with pytest.raises(UserError, match=message) as caught:
        load_records(path)
    assert str(caught.value).startswith(f"{path}: record 1")


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.png", "x/../../a.png", "..", "a\0.png"])
def test_paths_that_leave_the_folder(tmp_path, name):
    with pytest.raises(UserError, match=r"record 'r1': the image .* is not below the image folder"):
        load_image(tmp_path, name, "r1")


def png_that_claims(width, height):
    """A PNG of a few bytes whose header announces a huge picture."""
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


def picture_bytes(tmp_path, **options):
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
        (lambda p: picture_bytes(p)[:-400], "cannot be decoded .*truncated"),
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
def test_pictures_that_cannot_be_used(tmp_path, make, message):
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


def test_missing_picture_and_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, reason in (("a.jpg", "No such file"), ("folder", "is a folder")):
        with pytest.raises(UserError, match=rf"record 'r1': .*{name}: .*{reason}"):
            load_image(tmp_path, name, "r1")
