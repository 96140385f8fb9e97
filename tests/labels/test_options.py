import subprocess
import sys

import pytest

from llava_sea.errors import UserError
from llava_sea.labels.options import ExtractOptions, parse_options

GIVEN = dict(data_path="d", image_folder=".", vision_tower="v", words="w", output_dir="o")
NEEDED = [f"--{name}={value}" for name, value in GIVEN.items()]


def parse(*flags):
    return parse_options([*NEEDED, *flags]).resolved()


def labels(options):
    return options.sea_features, options.sea_sign, options.sea_center, options.sea_top_n


def test_given_flags_win_over_the_preset():
    assert labels(parse()) == labels(parse("--sea_preset", "best")) == ("value", "auto", "none", 2)
    assert labels(parse("--sea_preset", "paper")) == ("vanilla", "-1", "none", 10)
    given = ("--sea_top_n", "3", "--sea_features", "qq+kk", "--sea_center", "corpus")
    assert labels(parse(*given, "--sea_preset", "paper")) == ("qq+kk", "-1", "corpus", 3)


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
    [
        ("--sea_topn", "--sea_top_n"),
        ("--vision_towers=x", "--vision_tower"),
        ("--sea_feat", "--sea_features"),  # no abbreviations
        ("--zz", "--help"),
    ],
)
def test_unknown_flags_fail_with_the_nearest_name(flag, near):
    with pytest.raises(UserError, match=f"there is no flag '{flag}'.*{near}"):
        parse(flag, "3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": ""}, "--words is needed"),
        ({"sea_features": "keys"}, "--sea_features keys: choose one of vanilla"),
        ({"sea_center": "image"}, "--sea_center image: choose one of none, corpus"),
        ({"sea_preset": "worst"}, "--sea_preset worst"),
        ({"image_folder": "no/such/folder"}, "no such folder"),
    ],
)
def test_values_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        ExtractOptions(**(GIVEN | changes)).resolved()


@pytest.mark.parametrize("name", ["extract", "quality", "word_list"])
def test_help_needs_no_torch_and_explains_every_flag(name):
    code = (
        f"import sys; sys.argv = ['x', '--help']\n"
        f"from llava_sea.labels import {name}\n"
        f"try: {name}.main()\n"
        "finally: print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.splitlines()[-1] == "False"
    assert "--data_path" in run.stdout and "default: " in run.stdout
