"""Every kind of problem found in one run, each record named; exit statuses; processes."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from llava_sea.alignment import finalize_store, write_shard
from llava_sea.check import records as checking
from llava_sea.check.__main__ import main
from llava_sea.check.records import RecordChecker, check_records
from llava_sea.check.setup import load_setup
from llava_sea.data import problems as kinds
from llava_sea.data.problems import Kind
from llava_sea.data.records import Records
from llava_sea.errors import UserError
from llava_sea.files import IMAGE_BYTES
from llava_sea.train.parse import parse_args
from tests import worlds


def record(record_id, image="000.jpg", human="<image>\nSay.", gpt="a red ball", **changes):
    return worlds.record(record_id, image, human, gpt) | changes


def write(path, rows):
    path.write_text(json.dumps(rows))
    return path


def base_flags(tiny, data, images=None, **changes):
    values = {
        "model_name_or_path": tiny.llm,
        "vision_tower": tiny.clip,
        "version": "plain",
        "data_path": data,
        "image_folder": images or tiny.images,
        "model_max_length": 40,
    }
    return worlds.command_line(values | changes)


def found_in(out, data):
    """Problem lines as (index or None, kind name), in order."""
    pattern = rf"{re.escape(str(data))}:(?: record (\d+)(?: \(id '[^']*'\))?:)? (?:warning, )?"
    found = []
    for line in out.splitlines():
        match = re.match(pattern, line)
        kind = line[match.end() :].split(": ")[0] if match else ""
        if kind in NAMES:
            found.append((match[1] and int(match[1]), kind))
    return found


KINDS = {name: kind for name, kind in vars(kinds).items() if isinstance(kind, Kind)}
NAMES = {kind.name for kind in KINDS.values()}


@pytest.fixture
def bad_world(tiny, tmp_path):
    """Pictures good and bad, and a store that fits some of them."""
    images = tmp_path / "images"
    images.mkdir()
    good = (tiny.images / "000.jpg").read_bytes()
    for name in ("000.jpg", "changed.jpg", "skipped.jpg", "unmined.jpg"):
        (images / name).write_bytes(good)
    (images / "damaged.jpg").write_bytes(good[:-300])
    (images / "empty.jpg").write_bytes(b"")
    (images / "folder.jpg").mkdir()
    Image.new("L", (1, 17_000)).save(images / "long.png")
    store = tmp_path / "labels"
    store.mkdir()
    names = ["000.jpg", "changed.jpg", "skipped.jpg"]
    names += ["damaged.jpg", "empty.jpg", "folder.jpg", "long.png", "gone.jpg"]
    crc = np.full(len(names), zlib.crc32(good))
    crc[1] += 1
    shape = (len(names), 16, 2)
    write_shard(store, 0, names, np.zeros(shape, int), np.ones(shape), crc, {names[2]: "too odd"})
    finalize_store(store, {"grid": [4, 4], "top_n": 2, "words_sha256": "of another list"}, 1)
    return images, store


PLAIN = [
    (record(0), []),
    ({"id": 1, "image": "000.jpg"}, ["BAD_SHAPE"]),
    (record("two", image=None), ["NO_IMAGE"]),
    (record(3, conversations=record(3)["conversations"] * 2), ["TURNS"]),
    (record(4, human="Say."), ["IMAGE_TOKENS"]),
    (record(5, gpt=" \n"), ["EMPTY_CAPTION"]),
    (record(6, gpt="a red ball " * 9), ["CUT"]),
    (record(7, image="../000.jpg"), ["IMAGE_OUTSIDE"]),
    (record(8, image="gone.jpg"), ["IMAGE_MISSING"]),
    (record(9, image="long.png"), ["IMAGE_TOO_LARGE"]),
    (record(10, image="damaged.jpg"), ["IMAGE_DAMAGED"]),
    (record(11, image="empty.jpg"), ["IMAGE_DAMAGED"]),
    (record(12, image="folder.jpg"), ["NOT_A_FILE"]),
    (record(13, image="unmined.jpg"), ["NO_LABELS"]),
    (record(14, image="changed.jpg"), ["LABELS_STALE"]),
    (record(15, image="skipped.jpg"), ["LABELS_SKIPPED"]),
    (record("two"), ["SAME_ID"]),
    (record(17, image="damaged.jpg", gpt=""), ["EMPTY_CAPTION", "IMAGE_DAMAGED"]),
    (record(18, human="<image> <image>"), ["IMAGE_TOKENS"]),
    (record(19, gpt="a <image>"), ["IMAGE_TOKENS"]),
]
GPT = {"from": "gpt", "value": "Welcome."}
TALK = [
    (record(0, image=None, human="what?", gpt=""), ["NOTHING_SUPERVISED"]),
    (record(1, image=None, human="what? " * 30), ["TOO_LONG"]),
    (record(2, image=None, human="what <image>?"), ["LITERAL_IMAGE"]),
    (record(3, human="what?"), ["IMAGE_TOKENS"]),
    (record(4, conversations=record(4)["conversations"][1:]), ["IMAGE_TOKENS"]),
    (worlds.record(5, None, "a", "", "b", "c"), ["EMPTY_ANSWER"]),
    (record(6, image=None, conversations=[{"from": "human", "value": "a"}] * 2), ["TURNS"]),
    (record(7), []),
    (record(8, image=None), ["PLACE_ALONE"]),
    (record(9, conversations=record(9)["conversations"][::-1]), ["TURNS"]),
    (record(10, conversations=[GPT, *record(10)["conversations"]]), ["LEADING_GPT"]),
    (record(11, images=["000.jpg"]), ["BAD_SHAPE"]),
    (record(12, gpt="a</s> b"), ["SPECIAL_TOKEN"]),
    (record(13, gpt="\na ball"), ["WHITE_SPACE"]),
    (record(14, system="Be brief."), ["IGNORED_KEY"]),
    (record(15, weight=1, system=None), []),
]


def expected(rows):
    pairs = [(n, KINDS[name].name) for n, (_, names) in enumerate(rows) for name in names]
    return sorted(pairs)


def test_all_in_one_run_plain(tiny, bad_world, tmp_path, capsys):
    images, store = bad_world
    data = tmp_path / "data.json"
    data.write_text(json.dumps([row for row, _ in PLAIN])[:-1] + ',\n{"id": }]')
    flags = base_flags(tiny, data, images, sea_labels=store)
    assert main(flags) == 1
    out = capsys.readouterr().out
    rows = [*PLAIN, (None, ["BROKEN_JSON"])]
    assert sorted(found_in(out, data)) == expected(rows)
    assert f"{store}: label store: {store / 'words.tsv'}: missing, or not the word list" in out
    line = next(line for line in out.splitlines() if " record 8 " in line)
    assert line == (
        f"{data}: record 8 (id '8'): image missing: {images / 'gone.jpg'}: cannot be read "
        "(No such file or directory); put the file there, or remove the record"
    )
    assert re.search(r"record 20: broken JSON: broken JSON at line 2, column 8", out)
    assert re.search(r"\n +3  image tokens +write <image> once", out)
    count = sum(not KINDS[name].is_warning for _, names in rows for name in names) + 1
    assert f"\n{count} problems\n" in out and "\n3 warnings\n" in out


def test_images_that_are_no_files(tiny, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "large.png").touch()
    os.truncate(tmp_path / "large.png", IMAGE_BYTES + 1)
    Image.new("RGB", (8, 8)).save(tmp_path / "file.png")
    (tmp_path / "link.png").symlink_to("file.png")
    names = ["pipe.png", "zero.png", ".", "gone.png", "large.png", "link.png"]
    rows = [record(n, image=name) for n, name in enumerate(names)]
    data = write(tmp_path / "data.json", rows)
    assert main(base_flags(tiny, data, tmp_path)) == 1
    out = capsys.readouterr().out
    kinds_found = ["NOT_A_FILE"] * 3 + ["IMAGE_MISSING", "IMAGE_TOO_LARGE"]
    assert found_in(out, data) == [(n, KINDS[kind].name) for n, kind in enumerate(kinds_found)]
    assert f"record 1 (id '1'): not a file: {tmp_path / 'zero.png'}: is a device, not a file" in out


def test_what_a_terminal_obeys_is_shown(tiny, tmp_path, capsys):
    name = "\x1b[2J\r\n\x9b31m.png"
    rows = [record(f"id {name}", image=name), record(f"id {name}"), {"id": name}]
    data = write(tmp_path / "data.json", [*rows, record(3, gpt=f"{name} <image>")])
    assert main(base_flags(tiny, data)) == 1
    main([*base_flags(tiny, data), "--show", "0", "1", "2", "3"])
    seen = "".join(capsys.readouterr())
    assert r"\x1b[2J" in seen and not set("\x1b\r\x9b") & set(seen)


def test_all_in_one_run_v1(tiny, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row, _ in TALK) + "{\n")
    assert main(base_flags(tiny, data, version="v1", model_max_length=200)) == 1
    out = capsys.readouterr().out
    assert sorted(found_in(out, data)) == expected([*TALK, (None, ["BROKEN_JSON"])])
    assert re.search(r"record 9 .*: turns: .* speakers were swapped", out)
    assert f"{data}: 17 records, 9 with an image" in out
    tested = {name for _, names in [*PLAIN, *TALK] for name in names}
    elsewhere = {"DATA_FILE", "BROKEN_JSON", "LABEL_STORE", "LOSS", "BEYOND_TABLE", "OWN_TEMPLATE"}
    assert set(KINDS) - tested == elsewhere


@pytest.mark.parametrize("version", ["v1", "plain"])
def test_tokens_that_are_not_what_they_seem(tiny, grown_llm, tmp_path, capsys, version):
    """Beyond the embedding table; a special token typed in a text; white space before an answer."""
    weighted = [*worlds.turns("<image>"), {"from": "gpt", "value": "a", "weight": 0}]
    rows = [
        (record(0), []),
        (record(1, gpt="a <extra><extra> ball"), ["BEYOND_TABLE"]),
        (record(2, gpt="a ball</s> a</s>"), ["SPECIAL_TOKEN"]),
        (record(3, gpt="\n\na ball"), ["WHITE_SPACE"]),
        (record(4, gpt="a " * 260 + "<extra>"), ["CUT"]),  # training does not see it
        (record(5, conversations=weighted), ["IGNORED_KEY"]),
    ]
    data = write(tmp_path / "data.json", [row for row, _ in rows])
    flags = {"model_name_or_path": grown_llm, "version": version, "model_max_length": 250}
    assert main(base_flags(tiny, data, **flags)) == 1
    out = capsys.readouterr().out
    assert sorted(found_in(out, data)) == expected(rows)
    line = {n: next(t for t in out.splitlines() if f"record {n} " in t) for n in (1, 2, 3, 5)}
    assert re.search(r"'<extra>' \(id \d+, 2 times\)", line[1])
    assert "'</s>' (2)" in line[2] and "turn 1" in line[3] and "'weight'" in line[5]


def test_a_clip_is_no_language_model(tiny, tmp_path):
    for name in ("clip", "siglip"):
        folder = tmp_path / name
        shutil.copytree(getattr(tiny, name), folder)
        for path in tiny.llm.glob("tokenizer*"):
            shutil.copy(path, folder)
        with pytest.raises(UserError, match=f"{name}: its model type is '{name}'"):
            main(base_flags(tiny, tiny.data, model_name_or_path=folder))


@pytest.mark.parametrize("content", [b"{}", b"[]", b"[\xff]"])
def test_a_file_that_is_no_list_of_records(tiny, tmp_path, capsys, content):
    data = tmp_path / "data.json"
    data.write_bytes(content)
    assert main(base_flags(tiny, data)) == 1
    assert found_in(capsys.readouterr().out, data) == [(None, "data file")]


def test_clean_data_with_fitting_labels(tiny, tiny_labels, capsys):
    flags = base_flags(tiny, tiny.data, sea_labels=tiny_labels, sea_eval_data=tiny.heldout)
    assert main([*flags, "--deepspeed", "not_looked_at.json"]) == 0
    out = capsys.readouterr().out
    assert f"{tiny.data}: 24 records, 24 with an image\n" in out
    assert f"{tiny.heldout}: 5 records, 5 with an image\n" in out
    assert "tokens with the image's   min 24  median 24  max 24\n" in out
    assert "supervised tokens         min 8  median 8  max 8\n" in out
    assert out.endswith("no problems\n")


def test_labels_of_another_transform_or_encoder(tiny, tiny_labels, tiny_siglip_labels, capsys):
    flags = base_flags(tiny, tiny.data)
    assert main([*flags, "--sea_labels", str(tiny_labels), "--image_aspect_ratio", "pad"]) == 1
    assert "label store: the images were transformed differently" in capsys.readouterr().out
    assert main([*flags, "--sea_labels", str(tiny_siglip_labels)]) == 1
    assert "label store: " in capsys.readouterr().out
    assert main([*flags, "--sea_labels", str(tiny.images), "--sea_weight", "0"]) == 0
    assert main([*flags, "--sea_labels", str(tiny.images)]) == 1
    assert "label store: no finished label store here" in capsys.readouterr().out


def test_held_out_records_are_checked_as_far_as_they_are_used(tiny, tmp_path, capsys):
    rows = [record(0), record(1, image="gone.jpg"), record(2, image="gone.jpg"), {"id": 3}]
    held_out = write(tmp_path / "held.json", rows)
    flags = base_flags(tiny, tiny.data, sea_eval_data=held_out, sea_eval_samples=2)
    assert main(flags) == 1
    out = capsys.readouterr().out
    assert found_in(out, held_out) == [(1, "image missing"), (3, "record shape")]
    assert found_in(out, tiny.data) == []


def test_max_problems_and_no_images(tiny, tmp_path, capsys):
    data = write(tmp_path / "data.json", [record(n, image="gone.jpg") for n in range(9)])
    assert main([*base_flags(tiny, data), "--max_problems", "2"]) == 1
    out = capsys.readouterr().out
    assert [index for index, _ in found_in(out, data)] == [0, 1]
    assert "\n9 problems\n" in out and "--max_problems" in out
    assert main([*base_flags(tiny, data), "--no_images"]) == 0


def test_no_losses_of_bad_data(tiny, tmp_path, capsys):
    data, losses = tmp_path / "data.json", tmp_path / "losses.jsonl"
    data.write_text(json.dumps([record(0), record(1, gpt="")]))
    assert main([*base_flags(tiny, data), "--losses", str(losses)]) == 1
    assert "is not written" in capsys.readouterr().out and not losses.exists()
    data.write_text(json.dumps([record(0), record(1)]))  # labels are no matter of the LM loss
    flags = base_flags(tiny, data, sea_labels=tiny.images)
    assert main([*flags, "--losses", str(losses)]) == 1
    assert len(losses.read_text().splitlines()) == 2


def make_checker(tiny, data):
    setup = load_setup(parse_args(base_flags(tiny, data)))
    return RecordChecker(setup, str(tiny.images))


def test_processes_find_the_same_in_the_same_order(tiny, tmp_path):
    rows = [record(n, image=f"{n % 30:03d}.jpg", gpt="a ball" * (n % 7)) for n in range(300)]
    data = write(tmp_path / "data.json", rows)
    records, checker = Records.of_files(data), make_checker(tiny, data)
    alone = list(check_records(checker, records, range(300), 0))
    assert sum(len(checked.problems) for checked in alone) > 50
    done = []
    both = [list(check_records(checker, records, range(300), 2, done.append)), alone]
    both = [[(*c[1:], *map(str, c.problems)) for c in found] for found in both]
    assert both[0] == both[1]
    assert sum(done) == 300 and len(done) > 5


def test_an_image_of_many_records_is_read_once(tiny, tmp_path, monkeypatch):
    rows = [record(n, image=("000.jpg", "gone.jpg")[n % 2]) for n in range(6)]
    data = write(tmp_path / "data.json", rows)
    names, load = [], checking.load_image

    def counted(folder, name, record_id):
        names.append(name)
        return load(folder, name, record_id)

    monkeypatch.setattr(checking, "load_image", counted)
    found = list(check_records(make_checker(tiny, data), Records.of_files(data), range(6), 0))
    assert sorted(names) == ["000.jpg", "gone.jpg"]
    told = [(problem.index, problem.id) for checked in found for problem in checked.problems]
    assert told == [(1, "1"), (3, "3"), (5, "5")]


def test_a_killed_process_is_an_error(tiny, tmp_path, monkeypatch):
    data = write(tmp_path / "data.json", [record(n) for n in range(100)])
    monkeypatch.setattr(checking._Checks, "__getitem__", lambda self, index: os._exit(1))
    with pytest.raises(UserError, match="killed from outside"):
        list(check_records(make_checker(tiny, data), Records.of_files(data), range(100), 2))


@pytest.mark.parametrize(
    ("changes", "extra", "message"),
    [
        ({}, ["--lerning_rate", "1"], "--lerning_rate is not a flag; did you mean --learning_rate"),
        ({}, ["--num_workers", "-1"], "--num_workers -1: must be"),
        ({}, ["--num_workers", "x"], "invalid int value: 'x'"),
        ({}, ["--losses", "/no such folder/x"], "--losses /no such folder/x: cannot be written"),
        ({}, ["--losses", "x", "--show", "1"], "leave --losses to another call"),
        ({}, ["--data_path", "/none.json"], "--data_path /none.json: no such file"),
        ({}, ["--image_folder", "/none"], "--image_folder /none: no such folder"),
        ({"vision_tower": "/none"}, [], "--vision_tower /none: no such folder"),
        ({"model_name_or_path": "/none"}, [], "--model_name_or_path /none: no such folder"),
        ({"version": "v9"}, [], "--version 'v9': no such conversation template"),
    ],
)
def test_wrong_flags(tiny, changes, extra, message):
    with pytest.raises(UserError, match=re.escape(message)):
        main([*base_flags(tiny, tiny.data, **changes), *extra])


@pytest.mark.parametrize(("case", "status"), [("clean", 0), ("problems", 1), ("flags", 2)], ids=str)
def test_exit_status(tiny, tmp_path, monkeypatch, capsys, case, status):
    rows = [record(0), record(1, gpt="" if case == "problems" else "a")]
    data = write(tmp_path / "data.json", rows)
    argv = base_flags(tiny, data) + (["--shwo", "1"] if case == "flags" else [])
    monkeypatch.setattr(sys, "argv", ["check", *argv])
    monkeypatch.delitem(sys.modules, "llava_sea.check.__main__")
    code = None
    try:
        runpy.run_module("llava_sea.check", run_name="__main__")
    except SystemExit as left:
        code = left.code
    assert (code or 0) == status
    assert ("error: --shwo is not a flag" in capsys.readouterr().err) is (status == 2)


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from llava_sea.check.__main__ import _own_flags; _own_flags().format_help();"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
