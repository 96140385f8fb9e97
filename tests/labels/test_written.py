"""Words that are written in images: their boxes, their patches, their files."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from extract_world import using
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.siglip import SiglipImageProcessorPil

from llava_sea.alignment.label_store import LabelStore
from llava_sea.data.images import ImageTransform
from llava_sea.errors import UserError
from llava_sea.labels.extract import extract_labels
from llava_sea.labels.options import ExtractOptions
from llava_sea.labels.words_file import WordEntry
from llava_sea.labels.written import WrittenWords, coverage, place, read_written, split_text
from playground.evaluate import MODELS
from playground.render import SIGN, patch_owners, render_scene
from playground.scene import sample_scene
from playground.signs import board_width
from playground.vocabulary import COLOURS, KINDS, SIGN_WORDS
from playground.world import GRID, PATCH_SIDE
from tests import worlds

SQUARE = {"height": 24, "width": 24}
PROCESSORS = {
    "crop": lambda: worlds.clip_processor(24),
    "stretch": lambda: SiglipImageProcessorPil(size=SQUARE),
    "border": lambda: BitImageProcessorPil(size={"shortest_edge": 28}, crop_size=SQUARE),
}


@pytest.mark.parametrize("size", [(90, 90), (120, 80), (67, 151), (3000, 40)])
@pytest.mark.parametrize("fit", ["square", "pad"])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_box_covers_the_patches_that_its_pixels_reach(kind, fit, size):
    """Against the transform itself: a white box on black, less black, in parts of white."""
    transform = ImageTransform(PROCESSORS[kind](), fit)
    width, height = size
    box = np.array([0.42 * width, 0.3 * height, 0.55 * width, 0.9 * height]).round().astype(int)
    pixels = np.zeros((3, height, width, 3), np.uint8)
    pixels[1] = 255
    pixels[2, box[1] : box[3], box[0] : box[2]] = 255
    black, white, drawn = (transform(Image.fromarray(image))[0] for image in pixels)
    shown = ((drawn - black) / (white - black).max()).numpy()
    by_pixels = shown.reshape(4, 6, 4, 6).mean((1, 3)).reshape(-1)
    first, last = place(transform.geometry(), width, height)
    shares = np.tile(first, 2) + box / np.tile(size, 2) * np.tile(last - first, 2)
    found = coverage(shares[None], (4, 4))
    np.testing.assert_allclose(found[0], by_pixels, atol=0.08)
    assert found.max() > 0.02 or (kind, size) == ("border", (3000, 40)) or fit == "pad"


def naive_labels(words, size, ids, scores, grid):
    """One patch after the other, counting points of a fine net."""
    rows, columns = grid
    fine, covers = 40, []
    for _, (left, top, right, bottom) in words:
        hit = np.zeros((rows, columns))
        for y in range(rows * fine):
            for x in range(columns * fine):
                inside = left <= (x + 0.5) / columns / fine * size[0] < right
                hit[y // fine, x // fine] += inside and (
                    top <= (y + 0.5) / rows / fine * size[1] < bottom
                )
        covers.append((hit / fine**2).reshape(-1))
    new_ids, new_scores = ids.copy(), scores.copy()
    for patch in range(rows * columns):
        shown = [
            (-cover[patch], number)
            for number, cover in enumerate(covers)
            if cover[patch] >= 0.2 and cover[patch] >= cover.max() / 2
        ]
        if shown:
            best = scores[patch][0] or 1.0
            row = [(words[number][0], best) for _, number in sorted(shown)]
            row += [(i, s) for i, s in zip(ids[patch], scores[patch], strict=True) if s > 0]
            row = [item for n, item in enumerate(row) if item[0] not in [i for i, _ in row[:n]]]
            row = [*row, (0, 0), (0, 0), (0, 0)][: ids.shape[1]]
            new_ids[patch], new_scores[patch] = zip(*row, strict=True)
    return new_ids, new_scores


@pytest.mark.parametrize("seed", range(3))
def test_written_words_come_before_the_others_as_a_loop_puts_them(seed):
    rng, size, grid = np.random.default_rng(seed), (120, 80), (3, 2)
    words = [
        (int(word), [x, y, x + w, y + h])
        for word in rng.integers(0, 9, 4)
        for x, y, w, h in [rng.integers([0, 0, 9, 9], [70, 50, 60, 40]).tolist()]
    ]
    ids = np.stack([rng.permutation(9)[:3] for _ in range(6)]).astype(np.uint32)
    scores = np.sort(rng.random((6, 3)).astype(np.float32))[:, ::-1].copy()
    ids[4, 1:], scores[4, 1:] = 0, 0
    ids[5], scores[5] = 0, 0
    rows = [(7, word, False, tuple(box)) for word, box in words]
    other = [(6, 1, False, (0, 0, 120, 80))]
    geometry = ImageTransform(SiglipImageProcessorPil(size=SQUARE), "square").geometry()
    wanted = naive_labels(words, size, ids, scores, grid)
    dtype = [("image", "i8"), ("word", "i8"), ("is_share", "?"), ("box", "f4", 4)]
    WrittenWords(np.array(other + rows, dtype)).label(7, size, geometry, grid, ids, scores)
    np.testing.assert_array_equal(ids, wanted[0])
    np.testing.assert_allclose(scores, wanted[1])


def test_a_line_becomes_words_with_their_parts_of_the_box():
    found = dict(split_text("Joe's CAFÉ, 24 h - Wi-Fi", [0, 2, 220, 5]))
    assert list(found) == ["joe", "café", "wi-fi"]  # no numbers, nothing of one letter
    assert found["joe"] == [0, 2, 30, 5] and found["wi-fi"] == [170, 2, 220, 5]


TEXT = {"text": "Exit", "box": [3, 1, 9, 5]}
FORMS = {
    "a.jsonl": json.dumps({"image": "x/1.jpg", "words": [TEXT]}) + '\n{"image": "x/2.jpg"}\n',
    "record.json": json.dumps([worlds.record("1", "x/1.jpg", "a", "b", ocr=[TEXT])]),
    "corners.json": json.dumps(
        [{"image": "x/1.jpg", "words": [TEXT | {"box": [[3, 5], [9, 4], [9, 1], [3, 1]]}]}]
    ),
    "textvqa.json": json.dumps(
        {
            "data": [
                {"image_id": "9", "ocr_info": []},
                {
                    "image_id": "1",
                    "ocr_info": [
                        {
                            "word": "EXIT",
                            "bounding_box": {
                                "top_left_x": 0.25,
                                "top_left_y": 0.125,
                                "width": 0.5,
                                "height": 0.5,
                                "rotation": 0,
                            },
                        }
                    ],
                },
            ]
        }
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_files(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name])
    entries = [WordEntry("sign", 3, "NN"), WordEntry("zebra", 0, "list")]
    listed, written = read_written(str(tmp_path / name), ["x/1.jpg", "x/2.jpg"], entries)
    assert listed == [entries[0], WordEntry("exit", 0, "ocr"), entries[1]]
    (row,) = written.rows_W
    is_share = name == "textvqa.json"
    box = [0.25, 0.125, 0.75, 0.625] if is_share else [3, 1, 9, 5]
    assert (row["image"], row["word"], row["is_share"]) == (0, 1, is_share)
    assert row["box"].tolist() == box


TEXTVQA = {"top_left_x": 1, "top_left_y": 1, "width": 2, "height": 2}


def worded(box, text="ab"):
    return json.dumps({"image": "1.jpg", "words": [{"text": text, "box": box}]})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"image": "1.jpg", "words": [{"text": "a"}]}', r"row 0 \(image '1.jpg'\).*no word"),
        ('{"image": "1.jpg", "words": [{"text": "a", "box": [1, 2]}]}', "row 0.*no word"),
        ('{"image": "1.jpg", "words": [{"text": "a", "box": [1, 2, 3, NaN]}]}', "no word"),
        ('{"image": "1.jpg", "words": [{"box": [1, 2, 3, 4]}]}', "no word"),
        ('{"image": "1.jpg", "words": ["a"]}', "row 0.*: a is no word"),
        (worded([9, 5, 3, 7]), r"row 0.*'box': \[9, 5, 3, 7\].*ends before it begins"),
        (worded([1, 2, 3, 1e39]), "no word"),  # no float32
        (worded([1, 2, 3, 10**400]), "no word"),
        (worded(TEXTVQA | {"width": "a"}), "row 0.*no word"),
        (worded(TEXTVQA | {"width": None}), "row 0.*no word"),
        (worded(TEXTVQA | {"width": -2}), "ends before it begins"),
        (worded([1, 2, 3, 4], "ab " * 10_001), "image '1.jpg' has 10,001 words, at most"),
        (worded([1, 2, 3, 4]).replace("image", "image_id").replace("1.jpg", "2"), "2 images of"),
        ('{"image": "1.jpg", "words": "a"}', "row 0.*must be a list"),
        ('{"image": 3, "words": []}', "row 0.*must be a path"),
        ('{"words": []}', "row 0: names no image"),
        ("[]", "row 0: is no object"),
        ('{"image"', "row 0: broken JSON"),
        ('{"image": "1.png", "words": []}', "no row is about an image"),
        ('{"image": "1.jpg", "texts": []}', "no row is about an image"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, said):
    path = tmp_path / "ocr.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=f"--sea_ocr {path}: .*{said}|--sea_ocr {path}: {said}"):
        read_written(str(path), ["1.jpg", "a/2.jpg", "b/2.jpg"], [])


def test_numbers_that_are_written_as_texts_are_numbers(tmp_path):
    path = tmp_path / "ocr.jsonl"
    path.write_text(worded({key: str(number) for key, number in TEXTVQA.items()}))
    _, written = read_written(str(path), ["1.jpg"], [])
    assert written.rows_W["box"].tolist() == [[1, 1, 3, 3]]


def test_words_outside_their_image_are_told(labelled, world, tmp_path, caplog, monkeypatch):
    """As of boxes of a larger copy: they are labels of no patch, and that is said, once."""
    monkeypatch.setattr("llava_sea.labels.mine._told", [])
    path = tmp_path / "ocr.jsonl"
    rows = [worded([10, 0, 20, 7])]
    rows += [worded([400, 200, 440, 240]).replace("1.jpg", f"{n}.jpg") for n in (0, 2)]
    path.write_text("\n".join(rows))
    with caplog.at_level("WARNING"):
        store = LabelStore(extract_labels(using(world, sea_ocr=str(path))))
    told = [m for m in caplog.messages if "--sea_ocr" in m]
    assert len(told) == 1 and "'0.jpg' has 40 x 20 pixels" in told[0] and "400" in told[0]
    np.testing.assert_array_equal(
        store.read("0.jpg").ids_PN, LabelStore(labelled.output_dir).read("0.jpg").ids_PN
    )


def test_an_extraction_adds_them_and_says_so(labelled, world, tmp_path):
    """Image 0 is 40 x 20, seen from 10 to 30: 3 x 3 patches of 6.7; "w7" has a digit."""
    path = tmp_path / "ocr.jsonl"
    words = [{"text": "New w7", "box": [10, 0, 30, 7]}]
    path.write_text(json.dumps({"image": "0.jpg", "words": words}))
    options = using(world, sea_ocr=str(path))
    store, before = LabelStore(extract_labels(options)), LabelStore(labelled.output_dir)
    listed = store.words()
    assert listed == [*before.words(), "new"]
    assert store.manifest["ocr"] == str(path) and store.manifest["num_words"] == 62
    found, mined = store.read("0.jpg"), before.read("0.jpg")
    for patch in (0, 1):
        assert found.ids_PN[patch].tolist() == [61, *mined.ids_PN[patch, :4]]
        assert found.scores_PN[patch, 0] == (mined.scores_PN[patch, 0] or 1)
    np.testing.assert_array_equal(found.ids_PN[2:], mined.ids_PN[2:])
    np.testing.assert_array_equal(store.read("2.jpg").ids_PN, before.read("2.jpg").ids_PN)
    assert mined.crc32 == found.crc32
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UserError, match="made with ocr_sha256"):
        extract_labels(options)


def test_the_miniature_worlds_signs_are_labelled_with_their_words(tmp_path):
    rng, records, ocr, scenes = random.Random(3), [], [], {}
    while len(scenes) < 4:
        scene = sample_scene(rng, "train")
        if (scene.sign is None) == (len(scenes) == 3):
            name = f"{len(scenes)}.png"
            scenes[name] = scene
            Image.fromarray(render_scene(scene)).save(tmp_path / name)
            records.append(worlds.record(name, name, "<image>", "a picture with a sign"))
            if (sign := scene.sign) is not None:
                box = [sign.x, sign.y, sign.x + board_width(sign.word), sign.y + PATCH_SIDE]
                ocr.append({"image": name, "words": [{"text": sign.word.upper(), "box": box}]})
    (tmp_path / "data.json").write_text(json.dumps(records))
    (tmp_path / "ocr.json").write_text(json.dumps(ocr))
    words = sorted({row.names[0] for row in (*KINDS, *COLOURS)} | {*SIGN_WORDS[:5]})
    rows = "".join(f"{word}\t1\tNN\n" for word in words)
    (tmp_path / "words.tsv").write_text(f"word\tcount\tpos\n{rows}")
    options = ExtractOptions(
        data_path=str(tmp_path / "data.json"),
        image_folder=str(tmp_path),
        vision_tower=str(MODELS / "clip"),
        words=str(tmp_path / "words.tsv"),
        output_dir=str(tmp_path / "labels"),
        sea_sign="+1",
        sea_ocr=str(tmp_path / "ocr.json"),
        device="cpu",
    )
    store = LabelStore(extract_labels(options))
    listed = np.array(store.words())
    written = {scene.sign.word for scene in scenes.values() if scene.sign}
    assert written & set(words) and written - set(words)
    for name, scene in scenes.items():
        on_sign = (patch_owners(scene) == SIGN).reshape(-1)
        first = listed[store.read(name).ids_PN[:, 0]]
        assert on_sign.sum() == (len(scene.sign.word) if scene.sign else 0)
        assert not scene.sign or set(first[on_sign]) == {scene.sign.word}
        assert set(first[~on_sign]) <= set(listed) and store.grid == GRID
    added = Path(options.output_dir, "words.tsv").read_text().count("\tocr\n")
    assert added == len(written - set(words))
