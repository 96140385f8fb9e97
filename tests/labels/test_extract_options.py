import subprocess
import sys
import time

import pytest

from llava_sea.errors import UserError
from llava_sea.labels.options import ExtractOptions, parse_options

NEEDED = ["--data_path=d", "--image_folder=.", "--vision_tower=v", "--words=w", "--output_dir=o"]


def parse(*flags):
    return parse_options([*NEEDED, *flags]).resolved()


def labels(options):
    return options.sea_features, options.sea_sign, options.sea_top_n


def test_centre_is_a_flag_and_off_in_the_paper():
    assert parse("--sea_preset", "paper").sea_center == "none"
    assert parse("--sea_preset", "paper", "--sea_center", "corpus").sea_center == "corpus"
    with pytest.raises(UserError, match="--sea_center image: choose one of none, corpus"):
        ExtractOptions("d", ".", "v", "w", "o", sea_center="image").resolved()


def test_presets():
    assert labels(parse()) == labels(parse("--sea_preset", "best")) == ("value", "auto", 2)
    assert labels(parse("--sea_preset", "paper")) == ("vanilla", "-1", 10)


def test_given_flags_win_over_the_preset():
    options = parse("--sea_top_n", "3", "--sea_preset", "paper", "--sea_features", "qq+kk")
    assert labels(options) == ("qq+kk", "-1", 3)


@pytest.mark.parametrize(
    ("written", "sign"),
    [
        (["--sea_sign", "-1"], "-1"),
        (["--sea_sign=-1"], "-1"),
        (["--sea_sign", "+1"], "+1"),
        (["--sea_sign", "1"], "+1"),
        (["--sea_sign", "auto"], "auto"),
    ],
)
def test_signs_can_be_written_plainly(written, sign):
    assert parse(*written).sea_sign == sign


@pytest.mark.parametrize(
    ("flag", "near"),
    [("--sea_topn", "--sea_top_n"), ("--vision_towers=x", "--vision_tower"), ("--zz", "--help")],
)
def test_unknown_flags_fail_with_the_nearest_name(flag, near):
    with pytest.raises(UserError, match=f"there is no flag '{flag}'.*{near}"):
        parse(flag, "3")


def test_no_abbreviations():
    with pytest.raises(UserError, match="did you mean --sea_features"):
        parse("--sea_feat", "qq")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": ""}, "--words is needed"),
        ({"sea_features": "keys"}, "--sea_features keys: choose one of vanilla"),
        ({"sea_preset": "worst"}, "--sea_preset worst"),
        ({"sea_top_n": 0}, "--sea_top_n 0: must be a whole number from 1"),
        ({"batch_size": 0}, "--batch_size 0"),
        ({"num_workers": -1}, "--num_workers -1"),
        ({"image_folder": "no/such/folder"}, "no such folder"),
    ],
)
def test_values_that_cannot_be(changes, message):
    given = dict(data_path="d", image_folder=".", vision_tower="v", words="w", output_dir="o")
    with pytest.raises(UserError, match=message):
        ExtractOptions(**(given | changes)).resolved()


def test_help_is_quick_and_explains_every_flag():
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "llava_sea.labels.extract", "--help"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "--on_bad_image" in run.stdout and "caption lift" in run.stdout
    assert "torch" not in run.stderr and time.monotonic() - start < 5


def test_user_errors_are_one_line_and_status_2(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "llava_sea.labels.extract", *NEEDED, "--sea_topn", "3"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr == "error: there is no flag '--sea_topn'; did you mean --sea_top_n?\n"
