"""--sea_positives, --sea_targets, --sea_mask_own_top_n, --sea_length_weight: runs with each."""

import pytest

from llava_sea.errors import UserError
from llava_sea.train.parse import parse_args

OPTIONS = {
    "all": {"sea_positives": "all"},
    "soft": {"sea_positives": "all", "sea_targets": "soft"},
    "masked": {"sea_mask_own_top_n": True},
    "all masked": {"sea_positives": "all", "sea_mask_own_top_n": True},
    "length": {"sea_length_weight": 1.0},
}


def test_each_option_trains_and_differs(train_here, read_metrics):
    shared = {"max_steps": 3, "save_strategy": "no", "sea_eval_data": None, "learning_rate": 3e-2}
    runs = {"paper": read_metrics(train_here("paper", **shared))}
    for name, flags in OPTIONS.items():
        runs[name] = read_metrics(train_here(name, sea_negatives="global", **shared, **flags))
    firsts = {name: rows[1]["sea_loss"] for name, rows in runs.items()}
    assert len({round(value, 5) for value in firsts.values()}) == len(runs), firsts
    pairs = {name: rows[1]["sea_pairs"] for name, rows in runs.items()}
    assert pairs["masked"] == pairs["paper"] < pairs["all"] == pairs["all masked"]
    assert pairs["all"] <= pairs["soft"] == 16  # 4 pictures, 4 windows each
    # what is no negative any more cannot add to the loss
    assert firsts["paper"] < firsts["length"]
    assert firsts["masked"] < firsts["paper"] and firsts["all masked"] < firsts["all"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sea_targets", "soft"], "sea_targets soft needs positives all"),
        (
            ["--sea_targets", "soft", "--sea_positives", "all", "--sea_mask_own_top_n", "True"],
            "sea_mask_own_top_n does nothing",
        ),
        (["--sea_positives", "two"], "invalid choice: 'two'"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, flags, message):
    needed = ["--model_name_or_path", "m", "--data_path", "d", "--image_folder", "i"]
    with pytest.raises(UserError, match=message):
        parse_args([*needed, "--output_dir", str(tmp_path), *flags])


@pytest.mark.deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["soft", "masked", "length"])
def test_two_ranks_under_zero3_equal_one(run_stage1, stage1_flags, read_metrics, tmp_path, name):
    shared = {"sea_negatives": "global", "max_steps": 4, "save_strategy": "no"}
    shared |= {"sea_eval_data": None} | OPTIONS[name]
    one, two = tmp_path / "one", tmp_path / "two"
    run_stage1(stage1_flags(one, per_device_train_batch_size=8, **shared))
    run_stage1(stage1_flags(two, per_device_train_batch_size=4, **shared), 2, "zero3")
    for step, row in read_metrics(one).items():
        for key in ("loss", "sea_loss", "temperature", "sea_pairs", "grad_norm"):
            assert read_metrics(two)[step][key] == pytest.approx(row[key], rel=2e-4), (step, key)
