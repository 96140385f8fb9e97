"""The README stays true: its commands dry-run, its snippet runs, its paths and functions exist."""

import importlib
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch

BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


@pytest.fixture(scope="module")
def blocks(repo):
    return BLOCKS.findall((repo / "README.md").read_text())


def commands(repo):
    text = (repo / "README.md").read_text()
    return [
        line for kind, body in BLOCKS.findall(text) if kind == "bash" for line in body.splitlines()
    ]


def test_there_are_the_two_commands(repo):
    assert commands(repo)[:2] == ["bash scripts/pretrain_sea.sh", "bash scripts/test.sh"]


def test_every_script_dry_runs(repo):
    env = os.environ | {"DRY_RUN": "1", "LLAVA_SEA_PYTHON": sys.executable}
    seen = 0
    for command in commands(repo):
        if "scripts/" not in command or "test.sh" in command:
            continue
        seen += 1
        result = subprocess.run(
            ["bash", "-c", command], cwd=repo, env=env, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert re.search("python -m (llava_sea|playground.claims)", result.stdout), command
        parse_evaluation(result.stdout)
        printed = [shlex.split(line) for line in result.stdout.splitlines()]
        for words in printed:
            if "llava_sea.train.launch" in words:
                parse_training(repo, words[words.index("--deepspeed") :])
            if "llava_sea.labels.extract" in words:
                parse_extraction(repo, words[words.index("llava_sea.labels.extract") + 1 :])
    assert seen == 14


def parse_training(repo, flags):
    from llava_sea.presets import TRAINING_PRESETS
    from llava_sea.train.parse import parse_args

    _, _, sea, args = parse_args(flags)
    assert args.output_dir
    if "--sea_weight_schedule" in flags:  # pretrain_sea.sh spells out what the preset holds
        best = TRAINING_PRESETS["best"]
        assert {name: getattr(sea, name) for name in best} == best


def parse_evaluation(printed):
    from llava_sea.eval.flags import parse

    for line in printed.splitlines():
        if "llava_sea.eval" in line:
            words = shlex.split(line)
            assert parse(words[words.index("llava_sea.eval") + 1 :]).checkpoints


def parse_extraction(repo, flags):
    from llava_sea.labels.options import parse_options

    assert parse_options(flags).sea_preset == "best"


def test_the_deepspeed_line_parses(repo, monkeypatch, tmp_path):
    monkeypatch.chdir(repo)
    (line,) = [c for c in commands(repo) if c.startswith("deepspeed ")]
    words = shlex.split(line)
    assert (repo / words[1]).is_file()
    parse_training(repo, words[2:])


def test_python_commands_know_their_flags(repo):
    for command in commands(repo):
        if not command.startswith("python -m "):
            continue
        words = shlex.split(command)
        result = subprocess.run(
            [sys.executable, *words[1:3], "--help"], cwd=repo, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        for word in words[3:]:
            if word.startswith("--"):
                assert word in result.stdout, (command, word)


def test_the_walk_names_what_exists(repo):
    walk = re.findall(r"`(llava_sea/[\w/]+)\.py:(\w+)`", (repo / "README.md").read_text())
    assert len(walk) == 6
    for path, name in walk:
        assert hasattr(importlib.import_module(path.replace("/", ".")), name), (path, name)


def test_flags_in_the_tables_exist(repo):
    from llava_sea.labels.options import ExtractOptions
    from llava_sea.train.arguments import SeaArguments

    known = {*ExtractOptions.__dataclass_fields__, *SeaArguments.__dataclass_fields__}
    found = set(re.findall(r"`--(sea_\w+)", (repo / "README.md").read_text()))
    assert found and found <= known


def test_the_ten_lines_train_a_projector(repo, blocks, tiny, tiny_labels, monkeypatch):
    from transformers import AutoTokenizer

    (snippet,) = [body for kind, body in blocks if kind == "python"]
    monkeypatch.chdir(tiny.root)
    (tiny.root / "labels").symlink_to(tiny_labels)
    scope = {}
    exec(snippet, scope)
    tokenizer = AutoTokenizer.from_pretrained(tiny.llm)
    embed = torch.nn.Embedding(360, 32).requires_grad_(False)
    torch.manual_seed(0)
    projector = torch.nn.Linear(8, 32)
    features = torch.randn(4, 16, 8)
    batch = [(n, tiny.records[n]["image"]) for n in range(4)]
    optimizer = torch.optim.Adam([*projector.parameters(), *scope["head"].parameters()], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = scope["alignment_loss"](batch, 0, projector(features), embed, tokenizer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.parametrize(
    ("heading", "end", "results"),
    [
        ("**The effect after stage 1**", "<picture>", "playground/study/results"),
        ("**The effect after both stages**", "Read with care", "playground/claims/results"),
    ],
)
def test_the_studies_tables_are_those_of_their_results(repo, heading, end, results):
    text = (repo / "README.md").read_text()
    section = text.split(heading)[1].split(end)[0]
    rows = [line for line in section.splitlines() if line.startswith(("| llm-", "| SEA"))]
    summary = (repo / results / "summary.md").read_text().splitlines()
    assert len(rows) > 10 and set(rows) <= set(summary)
