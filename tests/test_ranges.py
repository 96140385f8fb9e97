"""Every numeric flag of every command has a range; what is outside is refused by its name."""

import argparse
import math
from types import SimpleNamespace

import pytest

from llava_sea.alignment.loss import LOG_SCALE_MAX
from llava_sea.check import __main__ as check
from llava_sea.errors import UserError
from llava_sea.eval import __main__ as evaluate
from llava_sea.eval import answer, letters
from llava_sea.labels import quality, word_list
from llava_sea.labels.options import parse_options
from llava_sea.model import export
from llava_sea.preflight import __main__ as preflight
from llava_sea.ranges import RANGES, check_ranges
from llava_sea.report import __main__ as report
from llava_sea.serve import cli, web
from llava_sea.train.parse import parse_args

LABELS = ["--data_path=d", "--image_folder=.", "--vision_tower=v", "--words=w"]
TRAINING = ["--model_name_or_path=m", "--vision_tower=v", "--data_path=d", "--image_folder=i"]
COMMANDS = {
    "train": lambda more: parse_args([*TRAINING, "--output_dir=o", *more]),
    "check": lambda more: check.main([*TRAINING, *more]),
    "labels.word_list": lambda more: word_list.main(["--data_path=d", "--output=o", *more]),
    "labels.extract": lambda more: parse_options([*LABELS, "--output_dir=o", *more]).resolved(),
    "labels.quality": lambda more: quality.parse_options([*LABELS, *more]).resolved(),
    "eval": lambda more: evaluate.parse(["checkpoint", *more]),
    "eval.answer": lambda more: answer.parse(
        ["--model_path=m", "--question_file=q", "--answers_file=a", *more]
    ),
    "eval.letters": letters.main,
    "serve.cli": lambda more: cli.parse(["--model_path=m", "--image_file=i", *more]),
    "serve.web": lambda more: web.parse(["--model_path=m", *more]),
    "preflight": lambda more: preflight.main([*more, "--stage1", *TRAINING]),
    "report": lambda more: report.parse_args(
        ["--run=r", "--data_path=d", "--image_folder=i", "--words=w", *more]
    ),
    "model.export": export.main,
}
SHARED = dict.fromkeys(("train.train", "train.train_mem", "preflight.steps"), "train")
"""Commands that have another's flags."""

FLAGS = [(command, flag) for command, table in RANGES.items() for flag in table]


def outside(allowed):
    below = allowed.low if allowed.low_open else allowed.low - 1
    above = allowed.high if allowed.high_open else allowed.high + 1
    return ["nan", "inf", "-inf", f"{below:.10g}", f"{above:.10g}"]


@pytest.mark.parametrize(("command", "flag"), FLAGS)
def test_values_out_of_range_are_refused_by_the_flags_name(command, flag, capsys):
    for value in outside(RANGES[command][flag]):
        with pytest.raises((UserError, SystemExit)) as error:
            COMMANDS[command]([f"--{flag}={value}"])
        assert f"--{flag}" in str(error.value) + capsys.readouterr().err, value


@pytest.mark.parametrize(("command", "flag"), FLAGS)
def test_the_ends_of_a_range_are_in_it(command, flag):
    allowed = RANGES[command][flag]
    inside = [*allowed.also]
    inside += [] if allowed.low_open else [allowed.low]
    inside += [] if allowed.high_open or allowed.high == math.inf else [allowed.high]
    inside += [0.5] if allowed.or_share else []
    assert inside or allowed.low_open
    for value in inside:
        check_ranges(command, SimpleNamespace(**{flag: value}))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_numeric_flag_has_a_range(command, monkeypatch):
    class Found(Exception):
        pass

    def stop(self, *_, **__):
        raise Found(self)

    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    with pytest.raises(Found) as found:
        COMMANDS[command]([])
    actions = found.value.args[0]._actions
    numeric = {action.dest for action in actions if action.type in (int, float)}
    assert numeric - set(RANGES.get(command, {})) == set()
    assert set(RANGES.get(command, {})) - {action.dest for action in actions} <= {"warmup_ratio"}


def test_every_command_is_looked_at(repo):
    commands = {
        ".".join(path.relative_to(repo / "llava_sea").with_suffix("").parts)
        for path in (repo / "llava_sea").rglob("*.py")
        if "\n    run_command(" in path.read_text()
    }
    commands = {name.removesuffix(".__main__") for name in commands}
    assert {SHARED.get(name, name) for name in commands} == set(COMMANDS)


def test_the_start_of_the_logit_scale_ends_at_its_limit():
    assert RANGES["train"]["sea_log_scale_init"].high == LOG_SCALE_MAX
