"""The READMEs stay true: commands dry-run, the snippet runs, paths, flags and functions exist."""

import contextlib
import importlib
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parents[1]
BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=REPO, capture_output=True, text=True)
PAGES = sorted(p for p in map(REPO.joinpath, LISTED.stdout.split()) if "results" not in p.parts)


def commands(page):
    blocks = BLOCKS.findall(page.read_text())
    return [line for kind, body in blocks if kind == "bash" for line in body.splitlines()]


FLAT = [f"bash scripts/v1_5/{name}.sh" for name in ("pretrain_sea", "finetune")]
COMMANDS = sorted({line for page in PAGES for line in commands(page)})
SCRIPTS = [*FLAT, *(c for c in COMMANDS if "scripts/" in c)]


def test_the_readme_begins_with_the_two_commands_and_is_short():
    assert commands(REPO / "README.md")[:2] == [
        "bash scripts/pretrain_sea.sh",
        "bash scripts/test.sh",
    ]
    assert len((REPO / "README.md").read_text().splitlines()) <= 250


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_script_dry_runs_and_its_commands_parse(command):
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=REPO,
        env=os.environ | {"DRY_RUN": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    printed = [shlex.split(line) for line in result.stdout.splitlines()]
    assert any(words and words[0] in ("python", "deepspeed") for words in printed), command
    for words in printed:
        if "llava_sea.eval" in words[:3]:
            parse_evaluation(words[3:])
        elif script := [n for n, word in enumerate(words) if word.endswith("train_mem.py")]:
            parse_training(words[script[0] + 1 :])
        elif "llava_sea.labels.extract" in words:
            parse_extraction(words[words.index("llava_sea.labels.extract") + 1 :])


def parse_training(flags):
    from llava_sea.presets import TRAINING_PRESETS
    from llava_sea.train.parse import parse_args

    flags = [str(REPO / flag) if flag.startswith("zero_configs/") else flag for flag in flags]
    _, _, sea, args = parse_args(flags)
    assert args.output_dir
    if "--sea_weight_schedule" in flags:  # pretrain_sea.sh spells out what the preset holds
        best = TRAINING_PRESETS["best"]
        assert {name: getattr(sea, name) for name in best} == best


def parse_evaluation(flags):
    from llava_sea.eval.__main__ import parse

    assert parse(flags).checkpoints


def parse_extraction(flags):
    from llava_sea.labels.options import parse_options

    assert parse_options(flags).sea_preset == "best"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m ")])
def test_a_python_command_knows_its_flags(command, capsys, monkeypatch):
    words = shlex.split(command)
    module, *flags = words[words.index("--module") + 1 :] if "--module" in words else words[2:]
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with contextlib.suppress(SystemExit):
        runpy.run_module(module, run_name="__main__")
    said = capsys.readouterr().out
    for flag in flags:
        assert not flag.startswith("--") or flag in said, flag


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+?)(?:#[\w-]+)?\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for path in re.findall(r"`((?:llava_sea|scripts|tests|zero_configs)/[\w./-]+\w)", text):
        assert (REPO / path).exists(), path
    for module in re.findall(r"python -m (llava_sea[\w.]*|playground[\w.]*)", text):
        assert importlib.util.find_spec(module.rstrip(".")), module


def test_flags_in_the_tables_exist():
    from llava_sea.labels.options import ExtractOptions
    from llava_sea.train.arguments import (
        DataArguments,
        ModelArguments,
        SeaArguments,
        TrainingArguments,
    )

    kinds = (ExtractOptions, ModelArguments, DataArguments, SeaArguments, TrainingArguments)
    known = {name for kind in kinds for name in kind.__dataclass_fields__}
    for page in ("README.md", "llava_sea/train/README.md", "llava_sea/labels/README.md"):
        rows = [r for r in (REPO / page).read_text().splitlines() if r.startswith("| `--")]
        found = {flag for row in rows for flag in re.findall(r"`--(\w+)", row.split("|")[1])}
        assert found and found <= known, (page, found - known)


def test_the_walk_names_what_exists():
    walk = re.findall(r"`(llava_sea/[\w/]+)\.py:(\w+)`", (REPO / "README.md").read_text())
    assert len(walk) >= 6
    for path, name in walk:
        assert hasattr(importlib.import_module(path.replace("/", ".")), name), (path, name)


def test_the_snippet_trains_a_projector(tiny, tiny_labels, monkeypatch):
    from transformers import AutoTokenizer

    blocks = BLOCKS.findall((REPO / "README.md").read_text())
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
