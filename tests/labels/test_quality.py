import json
import math
import sys
from dataclasses import asdict, astuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from extract_world import NAMES, encoded
from torch.nn import functional as F

from llava_sea.errors import UserError
from llava_sea.labels import quality, quality_measures
from llava_sea.labels.mine import CorpusImage, LoadedBatch
from llava_sea.labels.occurrence import find_occurrences
from llava_sea.labels.options import FEATURES, QualityOptions
from llava_sea.labels.quality import choose, flags_of, parse_options, print_table
from llava_sea.labels.quality_measures import (
    Agreement,
    KnownTruth,
    Place,
    Precision,
    Row,
    Sample,
    measure_features,
)
from llava_sea.labels.sign import LiftMeasure, finite

GRID, WORDS, DIM = (4, 4), 30, 16


def make_row(features="value", sign=1, center="none", n=1, lift=2.0, recall=0.1, drawn=0.5):
    some = LiftMeasure(sign, 0.1, 0.05, lift, 0.1, 5.0, 1.0, 0.2, ("wall",))
    exact = Precision(drawn, drawn, drawn, 1.0)
    kinds = {"object": exact, "background": exact, "all": exact}
    place = Place(lift, 0.1, recall, 0.01)
    return Row(features, sign, center, n, 0.4, some, Agreement(0.4, 0.2, 2.0), place, 1.0, kinds)


def test_choice_takes_the_kind_by_recall_and_n_by_place_lift():
    rows = [
        make_row("qq", n=1, recall=0.30, lift=9.0),
        make_row("value", n=1, recall=0.32, lift=2.0),
        make_row("value", n=2, recall=0.20, lift=3.0),
        make_row("value", n=3, recall=0.10, lift=2.5),
        make_row("value", n=10, recall=0.01, lift=math.nan),
        make_row("value", sign=-1, n=5, recall=0.31, lift=8.0),
    ]
    chosen = choose(rows)
    assert chosen is rows[2]
    assert flags_of(chosen) == "--sea_features value --sea_sign +1 --sea_center none --sea_top_n 2"


@pytest.mark.parametrize("recall", [0.029, -0.3, math.nan])
def test_nothing_is_chosen_within_three_standard_errors(recall):
    assert choose([make_row(recall=recall)]) is None
    assert choose([make_row(recall=0.031)]) is not None


class PaintedWorld:
    """Images whose patches are painted with the number of a word; encoders that see more or less.

    value   sees each patch's word
    qq      sees the words of the whole image, everywhere: right words in the wrong place
    """

    def __init__(self, images=40, seed=0):
        rng = np.random.default_rng(seed)
        self.word_IP = rng.integers(5, WORDS, (images, 16))
        self.word_IP[:, ::3] = rng.integers(0, 5, (images, 1))  # the background, on every third
        self.words_QD = F.normalize(
            torch.randn(WORDS, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1
        )
        self.words = [f"word{i}" for i in range(WORDS)]

    def loader(self, options):
        self.options = options
        return self

    def batches(self, images):
        size = self.options.batch_size
        for start in range(0, len(images), size):
            rows = list(range(start, min(start + size, len(images))))
            paint = torch.from_numpy(self.word_IP[rows]).float().view(-1, 1, *GRID)
            yield LoadedBatch(paint.expand(-1, 3, -1, -1), rows, [0] * len(rows), {})

    def encode_images(self, pixels, features):
        seen = self.words_QD[pixels[:, 0].flatten(1).long()]
        if features == "qq":
            seen = seen + 5 * seen.mean(1, keepdim=True)
        return F.normalize(seen, dim=-1)

    def sample(self, tmp_path, **flags):
        captions = [" ".join(self.words[w] for w in row) for row in self.word_IP]
        options = dict(data_path="d", image_folder=str(tmp_path), vision_tower="v", words="w")
        truth = KnownTruth(np.eye(WORDS, dtype=bool), self.word_IP, self.word_IP >= 5)
        return Sample(
            QualityOptions(**options, top_n=(1, 3), batch_size=7, **flags),
            self,
            [CorpusImage(f"{i}.png", f"r{i}") for i in range(len(captions))],
            self.words,
            self.words_QD,
            find_occurrences(captions, self.words),
            GRID,
            truth,
        )


@pytest.fixture
def painted(monkeypatch):
    world = PaintedWorld()
    monkeypatch.setattr(quality_measures, "ImageLoader", world.loader)
    return world


def rows_of(sample, *features):
    return [row for name in features for row in measure_features(sample, name, lambda _: None)]


def test_an_encoder_that_sees_the_place_is_chosen_and_its_numbers_are_right(painted, tmp_path):
    rows = rows_of(painted.sample(tmp_path), "qq", "value")
    assert len(rows) == 2 * 2 * 2 * 2
    kinds = {(*row.kind, row.top_n): row for row in rows}
    seen, spread_out = kinds["value", "none", 1, 1], kinds["qq", "none", 1, 1]
    for name in ("object", "background", "all"):
        assert seen.precision[name] == Precision(1.0, 1.0, 1.0, 1.0)
        assert kinds["value", "none", -1, 1].precision[name].sampled == 0.0
    assert seen.place.lift == math.inf and seen.place.recall > 0.5
    assert spread_out.lift.lift > 1.5 and spread_out.place.recall < 0.3
    assert seen.labelled == 1.0
    assert choose(rows).kind[0] == "value" and choose(rows).sign == 1


def test_mosaics_join_across_batches(painted, tmp_path):
    """Batch size is no part of the result."""
    small = rows_of(painted.sample(tmp_path), "value")
    sample = painted.sample(tmp_path)
    sample.options.batch_size = 40
    for a, b in zip(small, rows_of(sample, "value"), strict=True):
        # A mean over other batches may differ in its last bit.
        assert astuple(a.place) == pytest.approx(astuple(b.place), abs=1e-5, nan_ok=True)


def test_a_smaller_n_is_a_run_with_that_n(painted, tmp_path):
    sample = painted.sample(tmp_path)
    both = [finite(asdict(row)) for row in rows_of(sample, "qq") if row.top_n == 1]
    sample.options.top_n = (1,)
    assert both == [finite(asdict(row)) for row in rows_of(sample, "qq")]


def test_negative_share_is_of_the_scores_that_are_ranked(painted, tmp_path):
    rows = {row.kind: row for row in rows_of(painted.sample(tmp_path), "qq")}
    patches = torch.cat(
        [painted.encode_images(b.pixels_BCHW, "qq") for b in painted.batches(range(40))]
    ).flatten(0, 1)
    for center, shift in (("none", 0.0), ("corpus", patches.mean(0))):
        cosines = (patches - shift) @ painted.words_QD.T
        share = (cosines < 0).float().mean().item()
        assert rows["qq", center, 1].negative_share == pytest.approx(share, abs=1e-4)


def test_unreadable_images_are_left_out_and_too_few_refused(painted, tmp_path, monkeypatch):
    batches = painted.batches

    def some(images):
        for batch in batches(images):
            if batch.rows[0] == 0:
                yield LoadedBatch(None, [], [], {"x": "broken"})
            else:
                yield batch

    monkeypatch.setattr(painted, "batches", some)
    rows = rows_of(painted.sample(tmp_path), "value")
    assert rows[0].precision["all"].sampled == 1.0 and rows[0].place.lift == math.inf
    one = LoadedBatch(torch.ones(1, 3, *GRID), [4], [0], {"x": "broken"})
    monkeypatch.setattr(painted, "batches", lambda _: [one])
    with pytest.raises(UserError, match="1 of the sample's 40 images"):
        rows_of(painted.sample(tmp_path), "value")


# The command, on files.


@pytest.fixture
def files(world, tmp_path):
    options = world
    names = [r["image"] for r in json.loads(Path(options.data_path).read_text()) if r["image"]]
    truth = {
        "grid": [3, 3],
        "words_sets": [[NAMES[i]] for i in range(60)],
        "images": {name: list(range(9)) for name in names},
        "objects": {name: "110000000" for name in names},
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    given = ("data_path", "image_folder", "vision_tower", "words")
    flags = {name: getattr(options, name) for name in given} | {"batch_size": "5"}
    return SimpleNamespace(folder=tmp_path, flags=flags, truth=truth)


def run(files, monkeypatch, *more, **changes):
    flags = [f"--{name}={value}" for name, value in (files.flags | changes).items()]
    monkeypatch.setattr(sys, "argv", ["quality", *flags, *more])
    quality.main()


def plant_captions(files):
    """Captions that name what the encoder sees, so that something can be chosen."""
    patches, words_QD = encoded(SimpleNamespace(**files.flags))
    path = Path(files.flags["data_path"])
    records = json.loads(path.read_text())
    mean = torch.stack(list(patches.values())).flatten(0, 1).mean(0)
    for record in records:
        if record["image"]:
            best = ((patches[record["image"]] - mean) @ words_QD.T).argmax(1).unique().tolist()
            record["conversations"][1]["value"] = " and ".join(NAMES[i] for i in best)
    path.write_text(json.dumps(records))


def test_command_prints_a_table_and_the_flags_and_writes_all_numbers(files, monkeypatch, capsys):
    plant_captions(files)
    output, truth = files.folder / "quality.json", files.folder / "truth.json"
    run(
        files, monkeypatch, "--sea_features", "value", "qq", "--top_n", "3", "1",
        output=output, truth=truth,
    )  # fmt: skip
    printed = capsys.readouterr().out
    results = json.loads(output.read_text())
    assert len(results["rows"]) == 2 * 2 * 2 * 2
    chosen = results["chosen"]
    assert chosen["features"] == "value" and chosen["center"] == "corpus" and chosen["sign"] == 1
    assert printed.splitlines()[-1].endswith(
        f"--sea_features value --sea_sign +1 --sea_center corpus --sea_top_n {chosen['top_n']}"
    )
    row = results["rows"][0]
    assert (row["features"], row["sign"], row["center"], row["top_n"]) == ("value", 1, "none", 1)
    assert set(row["precision"]) == {"object", "background", "all"}
    assert set(row["place"]) == {"lift", "lift_error", "recall", "recall_error"}
    assert {"near", "apart", "local"} == set(row["agreement"])
    assert {"lift", "lift_error", "hub_cover", "hubs"} <= set(row["lift"])
    assert "top-1" in printed and max(map(len, printed.splitlines())) <= 200


def test_labels_that_mean_nothing_are_not_recommended(files, monkeypatch, capsys):
    """The captions of the untrained encoder's images are any words."""
    output = files.folder / "q.json"
    with pytest.raises(UserError, match=r"nothing is chosen. Ways out"):
        run(files, monkeypatch, "--sea_features", "vanilla", "qq", output=output)
    results = json.loads(output.read_text())
    assert results["chosen"] is None and len(results["rows"]) == 2 * 2 * 2 * 5
    assert results["rows"][0]["precision"] is None
    printed = capsys.readouterr().out
    assert "every kind" in printed and "top-1" not in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_n": "40"}, "--top_n 40: must be .* to 30 .half of"),
        ({"output": "/"}, "--output /: is a folder"),
        ({"output": __file__}, r"--output .*\.py: holds something else"),
        ({"output": "/no/such/folder/q.json"}, "--output /no/such/folder/q.json"),
        ({"truth": "/no/truth.json"}, "--truth /no/truth.json: cannot be read"),
        ({"words": "/no/words.tsv"}, "/no/words.tsv: cannot be read"),
    ],
)
def test_bad_flags_are_named(files, monkeypatch, changes, message):
    with pytest.raises(UserError, match=message):
        run(files, monkeypatch, **changes)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"images": {"0.jpg": [0] * 4}}, r"'0\.jpg' has 4 patches there"),
        ({"grid": [1, 9]}, "1 x 9 patches, the vision tower makes 3 x 3"),
    ],
)
def test_a_truth_of_other_patches_is_refused(files, monkeypatch, change, fault):
    path = files.folder / "truth.json"
    path.write_text(json.dumps(files.truth | change))
    with pytest.raises(UserError, match=f"--truth .*{fault}"):
        run(files, monkeypatch, truth=path)


def test_bad_images_and_missing_captions(files, monkeypatch):
    (files.folder / "images" / "sub" / "13.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"r13.*13\.png.*--on_bad_image skip"):
        run(files, monkeypatch, "--sea_features", "value")
    with pytest.raises(UserError, match="nothing is chosen"):
        run(files, monkeypatch, "--sea_features", "value", on_bad_image="skip")
    path = Path(files.flags["data_path"])
    records = json.loads(path.read_text())
    records = [r for r in records if r["image"]][:1]
    path.write_text(json.dumps(records))
    with pytest.raises(UserError, match="1 of its images have a caption"):
        run(files, monkeypatch)


def test_features_and_n_are_sorted_and_taken_once(tmp_path):
    needed = ["--data_path=d", f"--image_folder={tmp_path}", "--vision_tower=v", "--words=w"]
    options = parse_options(
        [*needed, "--sea_features", "qq", "vanilla", "qq", "--top_n", "5", "1", "5"]
    ).resolved()
    assert options.sea_features == ("vanilla", "qq") and options.top_n == (1, 5)
    assert parse_options(needed).sea_features == FEATURES


def test_table_marks_the_chosen_row(capsys):
    rows = [make_row("qq"), make_row(n=1), make_row(n=2, lift=3.0)]
    print_table(rows, rows[2])
    lines = capsys.readouterr().out.splitlines()
    marked = [line.split() for line in lines if line.lstrip().startswith(">")]
    assert [words[1:5] for words in marked] == [["value", "none", "+1", "2"]] * 2
