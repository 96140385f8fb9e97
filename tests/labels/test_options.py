import subprocess
import sys

import pytest

from llava_sea.errors import UserError, run_command
from llava_sea.labels import extract
from llava_sea.labels.options import ExtractOptions, parse_options

GIVEN = dict(data_path="d", image_folder=".", vision_tower="v", words="w", output_dir="o")
NEEDED = [f"--{name}={value}" for name, value in GIVEN.items()]


def parse(*flags):
    return parse_options([*NEEDED, *flags]).resolved()


def labels(options):
    return options.sea_features, options.sea_sign, options.sea_top_n


def test_centre_is_a_flag_and_off_in_the_paper():
    assert parse("--sea_preset", "paper").sea_center == "none"
    assert parse("--sea_preset", "paper", "--sea_center", "corpus").sea_center == "corpus"
    with pytest.raises(UserError, match="--sea_center image: choose one of none, corpus"):
        ExtractOptions(**GIVEN, sea_center="image").resolved()


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
        ({"sea_top_n": 0}, "--sea_top_n 0"),
        ({"batch_size": 0}, "--batch_size 0"),
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


def test_user_errors_are_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["extract", *NEEDED, "--sea_topn", "3"])
    with pytest.raises(SystemExit, match="2"):
        run_command(extract.main)
    assert capsys.readouterr().err == (
        "error: there is no flag '--sea_topn'; did you mean --sea_top_n?\n"
    )
