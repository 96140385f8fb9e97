"""Flags: LLaVA's published command lines parse, impossible ones say why, typos find their name."""

import logging

import pytest

from llava_sea.errors import UserError
from llava_sea.train.arguments import SeaArguments
from llava_sea.train.parse import check_stage, parse_args


@pytest.fixture
def base(tmp_path):
    flags = ["--model_name_or_path", "m", "--vision_tower", "v", "--data_path", "d"]
    return [*flags, "--image_folder", "i", "--output_dir", str(tmp_path)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sea_lables", "x"], "did you mean --sea_labels"),
        (["--mm_projector_type", "linear"], "only mlp2x_gelu"),
        (["--mm_use_im_patch_token", "True"], "never grows the vocabulary"),
        (["--mm_patch_merge_type", "spatial"], "use flat"),
        (["--bits", "4"], "add --lora_enable True"),
        (["--bits", "5"], "with --lora_enable True 4 or 8"),
        (["--image_aspect_ratio", "anyres"], "invalid choice"),
        (["stray"], "stray"),
        (["--save_only_model", "True"], "cannot be resumed"),
        (["--label_smoothing_factor", "0.1"], "plain next-token loss"),
        (["--evaluation_strategy", "steps"], "sea_eval_data"),
        (["--mm_vision_select_feature", "cls"], "invalid choice"),
        (["--learning_rate", "fast"], "learning_rate"),
        (["--warmup_ratio", "much"], "--warmup_ratio much"),
        (["--fp16", "True", "--bf16", "True"], "--fp16 True and --bf16 True"),
        (["--fp16", "--bf16", "--use_cpu"], "--fp16 True and --bf16 True"),
        (["--load_best_model_at_end", "True"], "--load_best_model_at_end True: not supported"),
        (["--save_strategy", "best"], "--save_strategy best"),
        (["--eval_on_start", "True"], "--eval_on_start True: not supported"),
        (["--sea_positives", "all"], "sea_positives"),
        (["--accelerator_config", '{"a": 1}'], "AcceleratorConfig.* unexpected keyword argument"),
    ],
)
def test_bad_flags_are_named(base, flags, message):
    with pytest.raises(UserError, match=message):
        parse_args([*base, *flags])


def test_missing_flags_are_named(tmp_path):
    with pytest.raises(UserError, match="data_path"):
        parse_args(["--model_name_or_path", "m", "--output_dir", str(tmp_path)])


def test_old_flags_are_accepted_with_a_word(base, caplog):
    old = ["--mpt_attn_impl", "triton", "--lora_weight_path", "", "--local-rank=0"]
    with caplog.at_level(logging.INFO, logger="llava_sea"):
        *_, args = parse_args([*base, *old, "--report_to", "wandb", "--warmup_ratio", "0.03"])
    for said in ("--lora_weight_path is ignored", "--mpt_attn_impl is ignored"):
        assert said in caplog.text
    assert args.report_to == ["tensorboard"] and "wandb is not installed" in caplog.text
    assert args.warmup_steps == 0.03 and "called --warmup_steps" in caplog.text


def test_reduced_precision_needs_a_gpu_or_is_forced(base, caplog, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    *_, args = parse_args([*base, "--bf16", "True", "--tf32", "True"])
    assert not args.bf16 and "--bf16 True is ignored" in caplog.text
    *_, args = parse_args([*base, "--bf16", "True", "--use_cpu", "True"])
    assert args.bf16


def test_zero_weight_turns_sea_off(base):
    _, _, sea, _ = parse_args([*base, "--sea_labels", "x", "--sea_weight", "0"])
    assert not sea.enabled


def test_a_preset_fills_in_what_is_not_given():
    def chosen(**flags):
        sea = SeaArguments(**flags)
        return sea.sea_weight_schedule, sea.sea_log_scale_init

    assert chosen() == chosen(sea_preset="paper") == ("constant", 0.0)
    assert chosen(sea_preset="best") == ("decay", 2.659)
    mixed = chosen(sea_preset="best", sea_weight_schedule="constant", sea_log_scale_init=0.0)
    assert mixed == ("constant", 0.0)
    with pytest.raises(UserError, match="--sea_preset worst: choose one of paper, best"):
        SeaArguments(sea_preset="worst")


@pytest.mark.parametrize("flag", ["learning_rate", "mm_projector_lr", "mm_vision_tower_lr"])
def test_a_learning_rate_of_zero_is_said(base, caplog, flag):
    shared = [*base, "--version", "v1", "--unfreeze_mm_vision_tower", "True"]
    for value, count in (("1e-5", 0), ("0", 1)):
        check_stage(parse_args([*shared, f"--{flag}", value]))
        assert caplog.text.count(f"--{flag} 0: what it is for learns nothing") == count


MISSING = ("adamw_bnb_8bit", "galore_adamw", "lomo", "grokadamw", "schedule_free_adamw")


@pytest.mark.parametrize("optimizer", [*MISSING, "adamw_torch_npu_fused", "adamw_anyprecision"])
def test_an_optimizer_without_its_package(base, optimizer, monkeypatch):
    for package in ("bitsandbytes", "galore_torch", "lomo", "grokadamw", "schedulefree"):
        monkeypatch.setattr(
            f"transformers.trainer_optimizer.is_{package}_available", lambda *a: False
        )
    arguments = parse_args([*base, "--optim", optimizer, "--version", "v1"])
    with pytest.raises(UserError, match=f"--optim {optimizer}: "):
        check_stage(arguments)


@pytest.mark.parametrize(
    ("schedule", "options", "fits"),
    [
        ("cosine_with_min_lr", '{"min_lr": 1e-6}', True),
        ("cosine_with_min_lr", None, False),
        ("cosine", '{"min_lr": 1e-6}', False),
        ("cosine", "min_lr", False),
        ("polynomial", None, True),
        ("polynomial", '{"lr_end": 1}', False),
        ("warmup_stable_decay", None, False),
    ],
)
def test_a_schedule_and_its_options(base, schedule, options, fits):
    flags = ["--version", "v1", "--lr_scheduler_type", schedule]
    flags += ["--lr_scheduler_kwargs", options] if options else []
    arguments = parse_args([*base, *flags])
    if fits:
        check_stage(arguments)
        return
    with pytest.raises(UserError, match=f"--lr_scheduler_type {schedule}"):
        check_stage(arguments)
