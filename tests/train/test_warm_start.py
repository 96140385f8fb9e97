"""The warm start: no LLM is read, L_a is stage 1's, and stage 1 starts from what it leaves."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_sea.errors import UserError
from llava_sea.model.builder import find_tensor
from llava_sea.model.projector_io import read_projector
from llava_sea.model.stage1 import Stage1Model
from llava_sea.train import stage1
from tests.worlds import read_metrics

TABLE = "model.embed_tokens.weight"


@pytest.fixture
def run_here(train_here):
    """Run stage 1 in this process, as a warm start unless told otherwise; returns its folder."""

    def run(name, warm=True, **changes):
        usual = {"sea_eval_data": None, "save_strategy": "no", "sea_align_only": warm or None}
        return train_here(name, **usual | changes)

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


def test_its_loss_is_stage_1s_and_stage_1_starts_from_it(run_here, capsys):
    decay = {"sea_weight_schedule": "decay", "sea_weight": 0.3}  # play no part in it
    warm = run_here("warm", max_steps=12, gradient_checkpointing=True, **decay)
    rows = read_metrics(warm)
    assert sorted(rows) == list(range(1, 13)) and "lm_loss" not in rows[1]
    assert all(row["sea_weight"] == 1 for row in rows.values())
    advice = capsys.readouterr().out.split("stage 1 starts from it with\n")[1].split("\n")[0]
    fresh = read_metrics(run_here("fresh", warm=False, max_steps=1))[1]
    for name in ("sea_loss", "sea_pairs"):
        assert rows[1][name] == pytest.approx(fresh[name], rel=1e-5)

    words = (warm / "stage1_flags").read_text().splitlines()
    assert advice.split() == words and words[0] == "--pretrain_mm_mlp_adapter"
    assert words[1] == str(warm / "mm_projector.bin")
    assert float(words[3]) == pytest.approx(-math.log(rows[12]["temperature"]), abs=1e-4)
    next_flags = {words[0][2:]: words[1], words[2][2:]: words[3]}
    on = run_here("on", warm=False, max_steps=1, **next_flags)
    assert read_metrics(on)[1]["sea_loss"] < fresh["sea_loss"] - 0.1
    untrained = [read_projector(folder / "mm_projector_initial.bin") for folder in (warm, on)]
    assert all(torch.equal(untrained[0][name], untrained[1][name]) for name in untrained[0])


def test_without_a_language_loss_stage_1_takes_the_same_steps(run_here, monkeypatch):
    def nothing(self, visual_IPD, input_ids, labels, image_mask, **_):
        return 0.0 * visual_IPD.sum(), (labels != -100).sum()

    shared = {"max_steps": 5, "gradient_accumulation_steps": 2, "warmup_steps": 2}
    warm = run_here("warm", per_device_train_batch_size=2, **shared)
    monkeypatch.setattr(Stage1Model, "language_loss", nothing)
    whole = run_here("whole", warm=False, per_device_train_batch_size=2, **shared)
    expected = read_projector(whole / "mm_projector.bin")
    for name, tensor in read_projector(warm / "mm_projector.bin").items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)


def test_only_the_embeddings_are_read(run_here, only_embeddings, watched):
    whole = run_here("whole", max_steps=3)
    spoiled = run_here("spoiled", max_steps=3, model_name_or_path=only_embeddings)
    projectors = [read_projector(folder / "mm_projector.bin") for folder in (whole, spoiled)]
    assert all(torch.equal(projectors[0][name], projectors[1][name]) for name in projectors[0])
    names = {name for name in watched.before if "vision" not in name and "projector" not in name}
    assert names == {"llava.model.language_model.embed_tokens.weight", "head.log_scale_delta"}


def test_a_finished_one_is_kept_and_another_refused(run_here, capsys):
    warm = run_here("warm", max_steps=2, save_strategy="steps")
    written = (warm / "mm_projector.bin").stat().st_mtime_ns
    (warm / "stage1_flags").unlink()
    capsys.readouterr()
    run_here("warm", max_steps=2, save_strategy="steps")
    assert "stage 1 starts from it with" in capsys.readouterr().out
    assert (warm / "mm_projector.bin").stat().st_mtime_ns == written
    assert (warm / "stage1_flags").is_file()
    with pytest.raises(UserError, match=r"another run .*sea_align_only"):
        run_here("warm", warm=False, max_steps=2, save_strategy="steps")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sea_labels": None}, "WARM_START=1 of .* needs --sea_labels"),
        ({"tune_mm_mlp_adapter": None, "version": "v1", "sea_labels": None}, "belongs to stage 1"),
        ({"learning_rate": 1e30}, "Lower --learning_rate"),
    ],
)
def test_wrong_input_is_a_clear_error(run_here, changes, message):
    with pytest.raises(UserError, match=message):
        run_here("run", **changes)


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


def test_the_next_start_stays_within_the_limit_of_the_scale_and_quotes_paths(tmp_path):
    folder = tmp_path / "my warm start"
    folder.mkdir()
    save_file({"log_scale": torch.tensor([4.6051702])}, folder / "alignment_head.safetensors")
    line = stage1.write_next_flags(folder)
    assert line.endswith(f"'{folder / 'mm_projector.bin'}' --sea_log_scale_init 4.6050")
