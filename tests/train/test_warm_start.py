"""The warm start: no LLM is read, L_a is stage 1's, and stage 1 goes on from what it leaves."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_sea.errors import UserError
from llava_sea.model.builder import build_llava
from llava_sea.model.embedding import build_llava_without_llm, find_tensor
from llava_sea.model.projector_io import read_projector
from llava_sea.model.stage1 import Stage1Model
from llava_sea.train import train as stage1_command
from llava_sea.train import warm_start
from llava_sea.train.run import log_trainable

TABLE = "model.embed_tokens.weight"


@pytest.fixture
def run_here(stage1_flags, monkeypatch, tmp_path):
    """Run a command's main in this process with stage 1's flags; returns the output folder."""

    def run(main, name, **changes):
        changes = {"sea_eval_data": None, "save_strategy": "no"} | changes
        output_dir = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["command", *stage1_flags(output_dir, **changes)])
        main()
        return output_dir

    return run


@pytest.fixture
def only_embeddings(tiny, tmp_path):
    """The LLM with every weight spoiled but its embedding table."""
    folder = tmp_path / "llm"
    shutil.copytree(tiny.llm, folder)
    weights = load_file(folder / "model.safetensors")
    spoiled = {n: t if n == TABLE else torch.full_like(t, torch.nan) for n, t in weights.items()}
    assert len(spoiled) > 10
    save_file(spoiled, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def same_weights(one, other):
    first, second = (read_projector(folder / "mm_projector.bin") for folder in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("flags", [{}, {"sea_positives": "all", "sea_targets": "soft"}])
def test_its_loss_is_stage_1s_and_stage_1_goes_on_from_it(run_here, read_metrics, capsys, flags):
    warm = run_here(warm_start.main, "warm", tune_mm_mlp_adapter=None, max_steps=12, **flags)
    rows = read_metrics(warm)
    assert sorted(rows) == list(range(1, 13))
    fresh = read_metrics(run_here(stage1_command.train, "fresh", max_steps=1, **flags))[1]
    for name in ("sea_loss", "sea_pairs"):
        assert rows[1][name] == pytest.approx(fresh[name], rel=1e-5)

    advice = capsys.readouterr().out.split("stage 1 goes on from it with\n")[1].split("\n")[0]
    assert f"--pretrain_mm_mlp_adapter {warm / 'mm_projector.bin'} --sea_log_scale_init" in advice
    assert (warm / "stage1_flags").read_text().split("\n") == [*advice.split(), ""]
    start = advice.split()[-1]
    on = run_here(
        stage1_command.train,
        "on",
        max_steps=1,
        pretrain_mm_mlp_adapter=warm / "mm_projector.bin",
        sea_log_scale_init=start,
        **flags,
    )
    assert read_metrics(on)[1]["sea_loss"] < fresh["sea_loss"] - 0.1
    log_scale = load_file(warm / "alignment_head.safetensors")["log_scale"]
    assert float(start) == pytest.approx(float(log_scale), abs=1e-4) and abs(float(start)) > 0.01


def test_without_a_language_loss_stage_1_takes_the_same_steps(run_here, monkeypatch):
    """Stage 1's own loop, engine and schedule, with L_g at 0."""
    from llava_sea.model.stage1 import Stage1Model

    def nothing(self, visual_IPD, input_ids, attention_mask, labels, image_mask):
        return 0.0 * visual_IPD.sum(), (labels != -100).sum()

    shared = {"max_steps": 5, "gradient_accumulation_steps": 2, "warmup_steps": 2}
    warm = run_here(warm_start.main, "warm", per_device_train_batch_size=2, **shared)
    monkeypatch.setattr(Stage1Model, "language_loss", nothing)
    whole = run_here(stage1_command.train, "whole", per_device_train_batch_size=2, **shared)
    expected = read_projector(whole / "mm_projector.bin")
    for name, tensor in read_projector(warm / "mm_projector.bin").items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=0)


def test_only_the_embeddings_are_read(run_here, only_embeddings, monkeypatch):
    seen = {}
    original = warm_start.Stage1Model

    def spy(*arguments):
        seen["model"] = original(*arguments)
        return seen["model"]

    monkeypatch.setattr(warm_start, "Stage1Model", spy)
    whole = run_here(warm_start.main, "whole", max_steps=3)
    spoiled = run_here(warm_start.main, "spoiled", max_steps=3, model_name_or_path=only_embeddings)
    assert same_weights(whole, spoiled)
    llm = seen["model"].llava
    real = {
        name
        for part in (llm.model.language_model, llm.lm_head)
        for name, parameter in part.named_parameters()
        if not parameter.is_meta
    }
    assert real == {"embed_tokens.weight"}


def test_a_tied_head_is_counted_once(tiny, tmp_path, caplog):
    shutil.copytree(tiny.llm, folder := tmp_path / "tied")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    tables = []
    for build in (build_llava, build_llava_without_llm):
        caplog.clear()
        with caplog.at_level("INFO", logger="llava_sea"):
            log_trainable(Stage1Model(build(str(folder), str(tiny.clip))))
        tables.append(caplog.messages)
    assert tables[0] == tables[1] and any("language model" in line for line in tables[0])


def test_bfloat16(run_here, read_metrics):
    low = run_here(warm_start.main, "low", max_steps=3, bf16=True, use_cpu=True)
    exact = read_metrics(run_here(warm_start.main, "exact", max_steps=3))
    assert read_projector(low / "mm_projector.bin")["linear_1.weight"].dtype == torch.float32
    for step, row in read_metrics(low).items():
        assert row["sea_loss"] == pytest.approx(exact[step]["sea_loss"], rel=0.02)


def test_a_finished_one_is_kept_and_another_refused(run_here, capsys):
    warm = run_here(warm_start.main, "warm", max_steps=2)
    written = (warm / "mm_projector.bin").stat().st_mtime_ns
    run_here(warm_start.main, "warm", max_steps=2)
    assert "has finished" in capsys.readouterr().out
    assert (warm / "mm_projector.bin").stat().st_mtime_ns == written
    # a result that was damaged since is made again
    whole = (warm / "mm_projector.bin").read_bytes()
    (warm / "mm_projector.bin").write_bytes(whole[:-3])
    run_here(warm_start.main, "warm", max_steps=2)
    assert "the results do not match" in capsys.readouterr().out
    assert (warm / "mm_projector.bin").read_bytes() == whole
    with pytest.raises(UserError, match=r"another run .max_steps: '2' there, '3' now"):
        run_here(warm_start.main, "warm", max_steps=3)
    run_here(stage1_command.train, "stage1", max_steps=1)
    with pytest.raises(UserError, match=r"another run .command: None there"):
        run_here(warm_start.main, "stage1", max_steps=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sea_labels": None}, "sea_labels is missing"),
        ({"lora_enable": True}, "lora_enable True belongs to stage 2"),
        ({"fp16": True, "use_cpu": True}, "use --bf16 True"),
        ({"optim": "adamw_torch_8bit"}, "--optim adamw_torch_8bit: leave it out"),
        ({"max_steps": -1, "num_train_epochs": 0}, "--num_train_epochs 0.0: must be"),
        ({"optim": "adafactor"}, "--optim adafactor: leave it out"),
        ({"resume_from_checkpoint": "checkpoint-1"}, "writes at its end alone"),
        ({"model_name_or_path": "./nowhere"}, "nowhere: no such folder"),
        ({"learning_rate": 1e30}, "lower --learning_rate"),
    ],
)
def test_wrong_input_is_a_clear_error(run_here, changes, message):
    with pytest.raises(UserError, match=message):
        run_here(warm_start.main, "run", **changes)


def test_ranks_are_refused(run_here, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="runs in one process"):
        run_here(warm_start.main, "run", use_cpu=True)


def test_the_table_is_found_in_shards_and_in_torch_files(tmp_path):
    table, other = torch.arange(6.0).reshape(3, 2), torch.ones(2)
    shards, old = tmp_path / "shards", tmp_path / "old"
    shards.mkdir()
    old.mkdir()
    save_file({TABLE: table}, shards / "a.safetensors")
    save_file({"model.norm.weight": other}, shards / "b.safetensors")
    index = {"weight_map": {TABLE: "a.safetensors", "model.norm.weight": "b.safetensors"}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.save({TABLE: table, "model.norm.weight": other}, old / "pytorch_model.bin")
    for folder in (shards, old):
        assert torch.equal(find_tensor(folder, "embed_tokens.weight"), table)
        with pytest.raises(UserError, match="found: nothing"):
            find_tensor(folder, "tokens.weight")


def test_the_advice_stays_within_the_limit_of_the_scale(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"temperature": 0.01}\n')
    assert warm_start.how_to_go_on(tmp_path).endswith("--sea_log_scale_init 4.6050")


def test_the_advice_quotes_paths(tmp_path):
    folder = tmp_path / "my warm start"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"temperature": 1.0}\n')
    assert f"'{folder / 'mm_projector.bin'}' " in warm_start.how_to_go_on(folder)
