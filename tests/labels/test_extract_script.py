import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*flags, **variables):
    environment = {**os.environ, "LLAVA_SEA_PYTHON": sys.executable, "DRY_RUN": "1", **variables}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "extract_labels.sh"), *flags],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_commands_have_known_flags_and_given_ones_come_last():
    from llava_sea.labels.options import parse_options

    words, extract = run("--sea_preset", "paper", WORDS="/w/words.tsv", LABELS="/l")
    assert words[2] == "llava_sea.labels.word_list" and "/w/words.tsv" in words
    assert extract[2] == "llava_sea.labels.extract" and extract[-2:] == ["--sea_preset", "paper"]
    options = parse_options(extract[3:])
    assert (options.words, options.output_dir, options.sea_preset) == (
        "/w/words.tsv",
        "/l",
        "paper",
    )
    assert Path(options.vision_tower) == ROOT / "playground" / "models" / "clip"


def test_recipe_and_word_list_variables():
    words, extract = run(RECIPE="vicuna-7b", MIN_COUNT="5", COMMON_WORDS="/2of12.txt")
    assert words[-4:] == ["--min_count", "5", "--common_words", "/2of12.txt"]
    assert "openai/clip-vit-large-patch14-336" in extract


def test_unknown_presets_and_sizes_are_refused_before_anything_is_done():
    def refused(script, **variables):
        environment = {**os.environ, "LLAVA_SEA_PYTHON": sys.executable, "DRY_RUN": "1"}
        command = ["bash", str(ROOT / "scripts" / script)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment | variables, cwd="/"
        )
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    for script in ("pretrain_sea.sh", "extract_labels.sh"):
        assert "SEA_PRESET=Best: choose best or paper" in refused(script, SEA_PRESET="Best")
    for script in ("pretrain_sea.sh", "pretrain.sh"):
        assert "LLM_SIZE=huge: choose small" in refused(script, LLM_SIZE="huge")
