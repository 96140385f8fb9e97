"""Flags: LLaVA's published command lines parse, impossible ones say why, typos find their name."""

import logging

import pytest

from llava_sea.errors import UserError
from llava_sea.train.parse import check_stage, parse_args

# The flags of LLaVA-1.5's pretrain script, as its users have them in their own scripts.
LLAVA_PRETRAIN = """
--deepspeed zero_configs/zero2.json --model_name_or_path lmsys/vicuna-13b-v1.5 --version plain
--data_path ./playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json
--image_folder ./playground/data/LLaVA-Pretrain/images
--vision_tower openai/clip-vit-large-patch14-336 --mm_projector_type mlp2x_gelu
--tune_mm_mlp_adapter True --mm_vision_select_layer -2 --mm_use_im_start_end False
--mm_use_im_patch_token False --bf16 True --output_dir {output_dir}
--num_train_epochs 1 --per_device_train_batch_size 32 --per_device_eval_batch_size 4
--gradient_accumulation_steps 1 --evaluation_strategy no --save_strategy steps --save_steps 24000
--save_total_limit 1 --learning_rate 1e-3 --weight_decay 0. --warmup_ratio 0.03
--lr_scheduler_type cosine --logging_steps 1 --tf32 True --model_max_length 2048
--gradient_checkpointing True --dataloader_num_workers 4 --lazy_preprocess True --report_to wandb
"""


@pytest.fixture
def base(tmp_path):
    flags = ["--model_name_or_path", "m", "--vision_tower", "v", "--data_path", "d"]
    return [*flags, "--image_folder", "i", "--output_dir", str(tmp_path)]


def test_llavas_own_command_line(tmp_path, repo, monkeypatch, caplog):
    monkeypatch.chdir(repo)
    with caplog.at_level(logging.INFO, logger="llava_sea"):
        model, data, sea, args = parse_args(LLAVA_PRETRAIN.format(output_dir=tmp_path).split())
    assert model.tune_mm_mlp_adapter and model.mm_vision_select_layer == -2
    assert data.image_aspect_ratio == "square" and not sea.enabled
    assert args.warmup_steps == 0.03 and args.eval_strategy == "no"
    assert args.lr_scheduler_type == "cosine" and args.learning_rate == 1e-3
    assert args.report_to == ["tensorboard"]  # wandb is not installed: a word, no crash
    assert "wandb is not installed" in caplog.text and "called --warmup_steps" in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sea_lables", "x"], "did you mean --sea_labels"),
        (["--mm_projector_type", "linear"], "only mlp2x_gelu"),
        (["--mm_use_im_patch_token", "True"], "never grows the vocabulary"),
        (["--mm_patch_merge_type", "spatial"], "use flat"),
        (["--sea_weight", "-1"], "--sea_weight -1.0: must be a number from 0"),
        (["--sea_window", "0"], "--sea_window 0: must be"),
        (["--sea_negatives", "all"], "invalid choice: 'all'"),
        (["--sea_weight_schedule", "cosine"], "invalid choice"),
        (["--bits", "4"], "add --lora_enable True"),
        (["--bits", "5"], "with --lora_enable True 4 or 8"),
        (["--image_aspect_ratio", "anyres"], "invalid choice"),
        (["stray"], "stray"),
        (["--save_only_model", "True"], "cannot be resumed"),
        (["--label_smoothing_factor", "0.1"], "plain next-token loss"),
        (["--evaluation_strategy", "steps"], "sea_eval_data"),
        (["--sea_log_scale_init", "5"], "to 4.605"),
        (["--mm_vision_select_feature", "cls_patch"], "use patch"),
        (["--learning_rate", "fast"], "learning_rate"),
        (["--warmup_ratio", "much"], "--warmup_ratio much"),
        (["--fp16", "True", "--bf16", "True"], "--fp16 True and --bf16 True"),
        (["--fp16", "--bf16", "--use_cpu"], "--fp16 True and --bf16 True"),
        (["--load_best_model_at_end", "True"], "--load_best_model_at_end True: not supported"),
        (["--load_best_model_at_end", "True", "--save_strategy", "no"], "--load_best_model_at_end"),
        (["--save_strategy", "best"], "--save_strategy best"),
        (["--eval_on_start", "True"], "--eval_on_start True: not supported"),
        (["--sea_targets", "soft"], "sea_targets soft needs positives all"),
        (
            ["--sea_targets", "soft", "--sea_positives", "all", "--sea_mask_own_top_n", "True"],
            "sea_mask_own_top_n does nothing",
        ),
        (["--sea_positives", "two"], "invalid choice: 'two'"),
    ],
)
def test_bad_flags_are_named(base, flags, message):
    with pytest.raises(UserError, match=message):
        parse_args([*base, *flags])


def test_missing_flags_are_named(tmp_path):
    with pytest.raises(UserError, match="data_path"):
        parse_args(["--model_name_or_path", "m", "--output_dir", str(tmp_path)])


def test_obsolete_flags_are_accepted_with_a_word(base, caplog):
    parse_args([*base, "--mpt_attn_impl", "triton", "--lora_weight_path", "", "--local-rank=0"])
    assert "--lora_weight_path is ignored" in caplog.text
    assert "--mpt_attn_impl is ignored" in caplog.text


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
    from llava_sea.train.arguments import SeaArguments

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
def test_learning_rates_are_numbers_from_zero_up(base, caplog, flag):
    shared = [*base, "--version", "v1", "--unfreeze_mm_vision_tower", "True"]

    def check(value):
        arguments = parse_args([*shared, f"--{flag}", value])
        check_stage(arguments)

    for value in ("nan", "-1", "inf"):
        with pytest.raises(UserError, match=f"--{flag} {value}.*: must be a number from 0"):
            check(value)
    check("1e-5")
    assert "learns nothing" not in caplog.text
    check("0")
    assert f"--{flag} 0: what it is for learns nothing" in caplog.text


def test_an_output_dir_that_is_no_folder(base, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    for place in ("file", "file/run/1", "broken"):
        with pytest.raises(UserError, match=f"--output_dir {tmp_path / place}: .* no folder"):
            parse_args([*base, "--output_dir", str(tmp_path / place)])
    assert (tmp_path / "file").read_text() == "mine"


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
