"""Every recipe dry-runs in every script, and its flags pass the real argument classes."""

import functools
import os
import shlex
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

VICUNA_7B = ("lmsys/vicuna-7b-v1.5", "v1")
VICUNA_13B = ("lmsys/vicuna-13b-v1.5", "v1")
GEMMA_2B = ("google/gemma-2b-it", "gemma")
PHI3 = ("microsoft/Phi-3-mini-4k-instruct", "phi3")
LLAMA3 = ("meta-llama/Meta-Llama-3-8B-Instruct", "llama_3")
CLIP = "openai/clip-vit-large-patch14-336"
SIGLIP = "google/siglip-so400m-patch14-384"
DINOV2 = "checkpoints/towers/dinov2-large-224"

TABLES = {
    "prime-gemma-2b": (1, GEMMA_2B, SIGLIP),
    "prime-phi3-mini": (1, PHI3, SIGLIP),
    "prime-vicuna-7b": (1, VICUNA_7B, SIGLIP),
    "prime-llama3-8b": (1, LLAMA3, SIGLIP),
    "prime-vicuna-13b": (1, VICUNA_13B, SIGLIP),
    "vicuna-7b": (2, VICUNA_7B, CLIP),
    "gemma-2b": (2, GEMMA_2B, CLIP),
    "phi3-mini": (2, PHI3, CLIP),
    "llama3-8b": (2, LLAMA3, CLIP),
    "vicuna-13b": (2, VICUNA_13B, CLIP),
    "vicuna-7b-siglip": (2, VICUNA_7B, SIGLIP),
    "vicuna-7b-tuned-tower": (4, VICUNA_7B, CLIP),
    "vicuna-7b-dinov2": (5, VICUNA_7B, DINOV2),
}
"""The paper's rows: table, LLM with its template, vision tower."""

SIGLIP2 = "google/siglip2-so400m-patch14-384"
TIPSV2 = "google/tipsv2-l14"
LLAVA_DATA = ("blip_laion_cc_sbu_558k.json", "llava_v1_5_mix665k.json")
NEW_DATA = ("LLaVA-ReCap-558K/data/train-*.parquet", "mix/LLaVA_Instruct_150K-train-*.parquet")

TODAY = {
    "qwen3-0.6b": ("Qwen/Qwen3-0.6B", SIGLIP2, TIPSV2, LLAVA_DATA, 2e-5),
    "qwen3-1.7b": ("Qwen/Qwen3-1.7B", SIGLIP2, TIPSV2, LLAVA_DATA, 2e-5),
    "qwen3-4b": ("Qwen/Qwen3-4B", SIGLIP2, TIPSV2, NEW_DATA, 1e-5),
    "smollm2-360m": ("HuggingFaceTB/SmolLM2-360M-Instruct", CLIP, CLIP, LLAVA_DATA, 5e-5),
    "smollm3-3b": ("HuggingFaceTB/SmolLM3-3B", SIGLIP2, TIPSV2, NEW_DATA, 1e-5),
    "llama3.2-1b": ("meta-llama/Llama-3.2-1B-Instruct", CLIP, CLIP, LLAVA_DATA, 2e-5),
    "gemma3-1b": ("google/gemma-3-1b-it", SIGLIP2, TIPSV2, LLAVA_DATA, 2e-5),
}
"""Recipes of today: LLM, vision tower, labels' encoder, data of both stages, stage 2's rate."""

LLAVA_15 = {
    "num_train_epochs": 1,
    "weight_decay": 0.0,
    "warmup_steps": 0.03,
    "lr_scheduler_type": "cosine",
    "model_max_length": 2048,
    "save_total_limit": 1,
    "gradient_checkpointing": True,
    "dataloader_num_workers": 4,
}
"""What all of LLaVA-1.5's scripts have in common."""

VARIABLES = "OUTPUT_DIR WORDS LABELS LLM_SIZE LABELS_FROM SEA_PRESET BASELINE PROJECTOR WARM_START"


def start(repo, script, *flags, **variables):
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES.split()}
    env |= {"LLAVA_SEA_PYTHON": sys.executable, "NUM_GPUS": "8", "DRY_RUN": "1"} | variables
    command = ["bash", str(repo / "scripts" / script), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd="/")


def commands(repo, script, *flags, **variables):
    done = start(repo, script, *flags, **variables)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


@functools.cache
def training(repo, script, recipe, *flags, gpus="8"):
    """Return the parsed flags of the training that a script would start."""
    from llava_sea.train.parse import parse_args

    lines = commands(repo, script, *flags, RECIPE=recipe, NUM_GPUS=gpus)
    (words,) = [w for w in lines if "--deepspeed" in w and "--sea_align_only" not in w]
    assert words[words.index("--num_gpus") + 1] == gpus
    given = words[words.index("--deepspeed") :]
    model, data, sea, args = parse_args(given)
    return SimpleNamespace(model=model, data=data, sea=sea, args=args, flags=given)


def check_common(run, recipe, batch):
    _, _, tower = TABLES[recipe]
    args = run.args
    assert 8 * args.per_device_train_batch_size * args.gradient_accumulation_steps == batch
    assert run.model.vision_tower.endswith(tower)
    assert run.model.mm_vision_select_layer == -2
    assert run.model.mm_projector_type == "mlp2x_gelu"
    found = {name: getattr(run.args, name) for name in LLAVA_15}
    assert found == LLAVA_15


def test_there_is_a_recipe_for_every_row(repo):
    files = {path.stem for path in (repo / "scripts" / "recipes").glob("*.sh")}
    assert files == {*TABLES, *TODAY, "mini"}
    for name, (table, _, _) in TABLES.items():
        text = (repo / "scripts" / "recipes" / f"{name}.sh").read_text()
        assert text.startswith(f"# Table {table}, ")
    for name in TODAY:
        text = (repo / "scripts" / "recipes" / f"{name}.sh").read_text()
        assert text.startswith("# Today: ")


@pytest.mark.parametrize("recipe", TABLES)
def test_stage_1(repo, recipe):
    table, (llm, _), _ = TABLES[recipe]
    for script in ("pretrain.sh", "pretrain_sea.sh"):
        run = training(repo, script, recipe)
        check_common(run, recipe, 256)
        assert run.model.model_name_or_path == llm and run.model.version == "plain"
        assert run.model.tune_mm_mlp_adapter and run.args.learning_rate == 1e-3
        assert run.data.image_aspect_ratio == "square"
        assert run.args.deepspeed.endswith("zero2.json")
        assert run.data.data_path[0].endswith(
            "alignment_2.5m.jsonl" if table == 1 else "blip_laion_cc_sbu_558k.json"
        )
        assert run.sea.enabled == (script == "pretrain_sea.sh")
        assert run.sea.sea_transfer == (run.sea.enabled and table == 5)


@pytest.mark.parametrize("recipe", TABLES)
def test_labels_are_mined_with_the_tower_or_with_the_one_they_are_transferred_from(repo, recipe):
    from llava_sea.labels.options import parse_options

    *before, words, extract = commands(repo, "extract_labels.sh", RECIPE=recipe)
    options = parse_options(extract[extract.index("llava_sea.labels.extract") + 1 :])
    run = training(repo, "pretrain_sea.sh", recipe)
    assert options.output_dir == run.sea.sea_labels
    assert words[words.index("--output") + 1] == options.words
    assert options.image_aspect_ratio == run.data.image_aspect_ratio
    same = options.vision_tower == run.model.vision_tower
    assert same or options.vision_tower == "openai/clip-vit-large-patch14"
    assert same != run.sea.sea_transfer
    # What a tower needs before is shown, once, where a script starts another one, too.
    for shown in (before, commands(repo, "pretrain_sea.sh", RECIPE=recipe)):
        fitted = [words for words in shown if "fit_tower.py" in " ".join(words)]
        assert len(fitted) == int(not same)
        assert same or fitted[0][-1] == run.model.vision_tower


@pytest.mark.parametrize("recipe", TABLES)
def test_stage_2(repo, recipe):
    from llava_sea.conversation import get_template

    table, (llm, version), _ = TABLES[recipe]
    run = training(repo, "finetune.sh", recipe)
    check_common(run, recipe, 128)
    assert run.model.model_name_or_path == llm and run.model.version == version
    assert get_template(version)
    stage_1 = training(repo, "pretrain_sea.sh", recipe).args.output_dir
    assert run.model.pretrain_mm_mlp_adapter == f"{stage_1}/mm_projector.bin"
    assert not run.model.tune_mm_mlp_adapter and not run.args.lora_enable
    assert run.args.learning_rate == 2e-5 and run.args.group_by_modality_length
    assert run.data.image_aspect_ratio == "pad" and not run.sea.enabled
    assert run.args.deepspeed.endswith("zero3.json")
    prime = table == 1
    assert run.data.data_path[0].endswith(
        "Cambrian7M_withsystemprompt.jsonl" if prime else "llava_v1_5_mix665k.json"
    )
    tuned = table in (1, 4)
    assert ("--mm_vision_tower_lr" in run.flags) == tuned
    if tuned:
        assert run.model.unfreeze_mm_vision_tower and run.args.mm_vision_tower_lr == 2e-6


@pytest.mark.parametrize("recipe", TABLES)
def test_lora(repo, recipe):
    run = training(repo, "finetune_lora.sh", recipe)
    check_common(run, recipe, 128)
    args = run.args
    assert args.lora_enable and (args.lora_r, args.lora_alpha) == (128, 256)
    assert (args.learning_rate, args.mm_projector_lr) == (2e-4, 2e-5)
    assert args.deepspeed.endswith("zero3.json") and args.bits == 16
    full = training(repo, "finetune.sh", recipe)
    assert run.model.pretrain_mm_mlp_adapter == full.model.pretrain_mm_mlp_adapter
    assert args.output_dir != full.args.output_dir


def test_no_two_runs_share_a_folder(repo):
    scripts = ("pretrain.sh", "pretrain_sea.sh", "finetune.sh", "finetune_lora.sh")
    folders = []
    for recipe in (*TABLES, *TODAY, "mini"):
        for script in scripts:
            words = next(w for w in commands(repo, script, RECIPE=recipe) if "--deepspeed" in w)
            folders.append(words[words.index("--output_dir") + 1])
    assert len(set(folders)) == len(scripts) * (len(TABLES) + len(TODAY) + 1)


def test_the_miniature_worlds_stage_2(repo):
    run = training(repo, "finetune.sh", "mini")
    assert run.args.output_dir == str(repo / "checkpoints" / "mini-finetune")
    assert run.model.version == "v1" and run.args.per_device_train_batch_size == 4
    assert run.args.deepspeed.endswith("zero2.json") and run.args.learning_rate == 1.5e-3
    assert run.model.pretrain_mm_mlp_adapter.endswith("mini-pretrain-sea/mm_projector.bin")
    lora = training(repo, "finetune_lora.sh", "mini")
    assert (lora.args.lora_r, lora.args.lora_alpha) == (16, 32)
    assert lora.args.per_device_train_batch_size == 16
    assert lora.args.deepspeed.endswith("zero3.json")
    medium = commands(repo, "finetune.sh", LLM_SIZE="medium")[0]
    assert f"{repo}/checkpoints/mini-medium-finetune" in medium
    assert medium[medium.index("--learning_rate") + 1] == "5e-4"
    assert f"{repo}/checkpoints/mini-medium-pretrain-sea/mm_projector.bin" in medium


def test_flags_win_and_the_next_commands_are_printed(repo):
    first, chat, export = commands(repo, "finetune_lora.sh", "--bits", "4", OUTPUT_DIR="/out put")
    assert first[-2:] == ["--bits", "4"] and "/out put" in first
    assert chat[2] == "llava_sea.serve.cli" and chat[3:5] == ["--model-path", "/out put"]
    assert export[2:5] == ["llava_sea.model.export", "--model_path", "/out put"]


@pytest.mark.parametrize("recipe", ["mini", "vicuna-7b", "vicuna-7b-dinov2"])
def test_a_warm_start_sees_the_batches_of_stage_1(repo, recipe):
    from llava_sea.train.parse import parse_args

    variables = {"RECIPE": recipe, "OUTPUT_DIR": "/out"}
    flags = ("--max_steps", "7", "--sea_window", "3", "--deepspeed", "mine.json")
    lines = commands(repo, "pretrain_sea.sh", *flags, **variables)
    (first,) = (n for n, words in enumerate(lines) if "--sea_align_only" in words)
    assert "llava_sea.train.launch" in lines[first + 1]
    script = next(n for n, word in enumerate(lines[first]) if word.endswith("train_mem.py"))
    flags = lines[first][script + 1 :]
    place = len(flags) - flags[::-1].index("--deepspeed")
    assert flags[place].endswith("zero2.json")
    model, data, sea, args = parse_args([*flags, "--deepspeed", ""])
    words = lines[first + 1]
    whole = training(repo, "pretrain_sea.sh", recipe, "--sea_window", "3")
    assert words[words.index("--output_dir") + 1] == "/out"
    assert args.output_dir == "/out-warm-start" and sea.sea_align_only
    assert args.max_steps == 7 and not args.use_liger_kernel
    for name in ("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"):
        assert getattr(args, name) == getattr(whole.args, name)
    assert sea.enabled and sea.sea_window == 3 and sea.sea_eval_data is None
    assert (model, data) == (whole.model, whole.data)
    assert args.learning_rate == whole.args.learning_rate


@pytest.mark.parametrize(("preset", "chosen"), [("best", "0"), ("paper", ""), ("paper", "1")])
def test_the_warm_start_is_bests_and_can_be_chosen(repo, preset, chosen):
    lines = commands(repo, "pretrain_sea.sh", SEA_PRESET=preset, WARM_START=chosen)
    assert any("--sea_align_only" in words for words in lines) == (chosen == "1")


@pytest.mark.parametrize(
    ("script", "variable", "said"),
    [
        ("pretrain_sea.sh", "WARM_START=0.2", "choose 1 (a warm start"),
        ("pretrain_sea.sh", "SEA_PRESET=Best", "choose best or paper"),
        ("extract_labels.sh", "SEA_PRESET=Best", "choose best or paper"),
        ("pretrain_sea.sh", "LLM_SIZE=huge", "choose small"),
        ("pretrain.sh", "LLM_SIZE=huge", "choose small"),
        ("pretrain.sh", "LABELS_FROM=siglip", "choose tipsv2"),
        ("extract_labels.sh", "LABELS_FROM=../llm_vicuna_7b", "choose tipsv2"),
    ],
)
def test_a_wrong_variable_is_refused_before_any_training(repo, script, variable, said):
    done = start(repo, script, **dict([variable.split("=")]))
    assert done.returncode == 2 and "train_mem.py" not in done.stdout
    assert f"{variable}: {said}" in done.stderr


def test_the_extractions_flags_and_variables(repo):
    from llava_sea.labels.options import parse_options

    variables = {"WORDS": "/w/words.tsv", "MIN_COUNT": "5", "COMMON_WORDS": "/2of12.txt"}
    words, extract = commands(
        repo, "extract_labels.sh", "--sea_preset", "paper", **variables, LABELS="/l"
    )
    assert words[2] == "llava_sea.labels.word_list" and "/w/words.tsv" in words
    assert words[-4:] == ["--min_count", "5", "--common_words", "/2of12.txt"]
    assert extract[2] == "llava_sea.labels.extract"
    options = parse_options(extract[extract.index("llava_sea.labels.extract") + 1 :])
    assert (options.words, options.output_dir) == ("/w/words.tsv", "/l")
    assert options.sea_preset == "paper"


def test_another_projector_gets_a_folder_of_its_own(repo):
    projector = "/runs/mini-pretrain/mm_projector.bin"
    words = commands(repo, "finetune.sh", PROJECTOR=projector)[0]
    assert words[words.index("--pretrain_mm_mlp_adapter") + 1] == projector
    assert words[words.index("--output_dir") + 1].endswith("mini-finetune-from-mini-pretrain")
    words = commands(repo, "finetune.sh", PROJECTOR=projector, OUTPUT_DIR="/mine")[0]
    assert words[words.index("--output_dir") + 1] == "/mine"


@pytest.mark.parametrize("script", ["finetune.sh", "finetune_lora.sh"])
def test_without_stage_1_it_says_what_to_run_first(repo, tmp_path, script):
    # A checkout without checkpoints, made of links: scripts find their root by their own path.
    for name in ("scripts", "playground", "zero_configs", "llava_sea"):
        (tmp_path / name).symlink_to(repo / name)
    for variables, command in [
        ({}, "  bash scripts/pretrain_sea.sh"),
        ({"LLM_SIZE": "medium"}, "  LLM_SIZE=medium bash scripts/pretrain_sea.sh"),
        ({"RECIPE": "vicuna-7b"}, "  RECIPE=vicuna-7b bash scripts/pretrain_sea.sh"),
    ]:
        done = start(tmp_path, script, DRY_RUN="", **variables)
        assert done.returncode == 2 and command in done.stderr.splitlines()
    done = start(tmp_path, script, DRY_RUN="", PROJECTOR="/none.bin")
    assert done.returncode == 2 and "PROJECTOR=/none.bin: no such file" in done.stderr


@pytest.mark.parametrize("name", ["nothing", "common/training", "../launch"])
@pytest.mark.parametrize("script", ["extract_labels.sh", "pretrain_sea.sh", "finetune.sh"])
def test_an_unknown_recipe_gets_the_list(repo, name, script):
    done = start(repo, script, RECIPE=name)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"RECIPE={name}: there is no such recipe" in done.stderr
    listed = [line.split()[0] for line in done.stderr.splitlines()[1:]]
    assert sorted(listed) == sorted([*TABLES, *TODAY, "mini"])


def test_scripts_hand_signals_on_and_wait_until_the_training_has_saved(repo, tmp_path):
    program = """
    set -euo pipefail
    root=$1 VISION_TOWER=v NUM_WORKERS=1 OUTPUT_DIR=o has_gpu=0
    source "$root/scripts/launch.sh"
    run_and_wait "$2" -c "$3" "$4"
    echo not reached
    """
    training = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1], "saved").touch()
    sys.exit(7)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1], "started").touch()
time.sleep(60)
"""
    words = ["bash", "-c", program, "-", str(repo), sys.executable, training, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as script:
        while not (tmp_path / "started").exists() and script.poll() is None:
            time.sleep(0.02)
        script.terminate()
        output, _ = script.communicate()
    assert (tmp_path / "saved").exists()
    assert (script.returncode, output) == (7, "")
