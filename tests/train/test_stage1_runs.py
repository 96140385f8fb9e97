"""Whole runs of stage 1 in this process: what is trained, what is written, what SEA changes."""

import json
import shutil
import sys

import pytest
import torch

from llava_sea.errors import UserError
from llava_sea.model.projector_io import read_projector
from llava_sea.train.train import train


@pytest.fixture
def train_here(stage1_flags, monkeypatch, tmp_path):
    """Run stage 1 in this process; returns the output folder."""

    def run(name, **changes):
        output_dir = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["train.py", *stage1_flags(output_dir, **changes)])
        train()
        return output_dir

    return run


def weights(output_dir):
    return read_projector(output_dir / "mm_projector.bin")


def test_what_a_run_leaves(train_here, read_metrics, tiny, embedding_rows_length):
    output_dir = train_here("run", dataloader_num_workers=2, sea_eval_steps=3)
    projector = torch.load(output_dir / "mm_projector.bin", weights_only=True)
    assert sorted(projector) == [
        f"model.mm_projector.{n}.{kind}" for n in (0, 2) for kind in ("bias", "weight")
    ]
    config = json.loads((output_dir / "config.json").read_text())
    assert config["mm_vision_tower"] == str(tiny.clip)
    assert config["mm_projector_type"] == "mlp2x_gelu" and config["hidden_size"] == 32
    assert (output_dir / "trainer_state.json").exists()
    metrics = read_metrics(output_dir)
    logged = {"loss", "lm_loss", "sea_loss", "sea_weight", "temperature", "sea_pairs"}
    for step in range(1, 7):
        assert logged | {"sea_unique_labels", "learning_rate", "grad_norm"} <= set(metrics[step])
        row = metrics[step]
        assert row["loss"] == pytest.approx(row["lm_loss"] + row["sea_loss"], rel=1e-5)
        assert row["sea_pairs"] == row["sea_unique_labels"]  # one process: one patch a label
    for step in (0, 3, 6):
        assert {"eval_lm_loss", "eval_tacs", "eval_gap", "eval_gap_unit"} <= set(metrics[step])
        assert metrics[step]["eval_visual_length"] != metrics[0]["eval_visual_length"] or not step
        assert 0 < metrics[step]["eval_gap_unit"] < 2
    lengths = [metrics[step]["eval_embedding_length"] for step in (0, 3, 6)]
    assert lengths == pytest.approx([embedding_rows_length] * 3, rel=1e-5)
    checkpoint = output_dir / "checkpoint-6"
    trainable = 32 * 32 * 2 + 32 * 2 + 1
    size = sum(p.stat().st_size for p in checkpoint.rglob("*") if p.is_file())
    assert size < 22 * trainable + 100_000  # nothing frozen: the LLM alone has 128,640 bytes
    assert not list(checkpoint.glob("*.safetensors")) or all(
        p.name == "alignment_head.safetensors" for p in checkpoint.glob("*.safetensors")
    )


def test_only_projector_and_temperature_move(train_here, tiny, monkeypatch):
    from llava_sea.train import stage1 as module

    seen = {}
    original = module.Stage1Model

    def spy(*args, **options):
        model = original(*args, **options)
        seen["model"] = model
        seen["before"] = {n: p.detach().clone() for n, p in model.named_parameters()}
        return model

    monkeypatch.setattr(module, "Stage1Model", spy)
    train_here("run", max_steps=2)
    moved = {
        name
        for name, parameter in seen["model"].named_parameters()
        if not torch.equal(parameter, seen["before"][name])
    }
    assert moved == {
        *(f"llava.model.multi_modal_projector.linear_{n}.{k}" for n in (1, 2) for k in WB),
        "head.log_scale_delta",
    }


WB = ("weight", "bias")

# L_g and L_a of six steps
TRACE = [
    [5.90825, 2.57563],
    [5.89383, 2.71644],
    [5.88468, 2.71129],
    [5.89, 2.62156],
    [5.9086, 2.30417],
    [5.94346, 2.54029],
]


def test_weight_zero_is_bit_identical_to_plain_llava(train_here, read_metrics):
    plain = train_here("plain", sea_labels=None)
    off = train_here("off", sea_weight=0)
    assert (plain / "mm_projector.bin").read_bytes() == (off / "mm_projector.bin").read_bytes()
    assert not (off / "alignment_head.safetensors").exists()
    for step, row in read_metrics(plain).items():
        assert row == read_metrics(off)[step]


def test_the_committed_trace_is_reproduced(train_here, read_metrics):
    """A refactor must not move these numbers (made by this test on torch 2.13, CPU)."""
    rows = read_metrics(train_here("run", save_strategy="no", sea_eval_data=None))
    found = [[rows[n]["lm_loss"], rows[n]["sea_loss"]] for n in range(1, 7)]
    assert found == [pytest.approx(row, rel=1e-4) for row in TRACE]


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_lambda_to_zero_tends_to_plain_llava(train_here, clip):
    shared = {"max_steps": 20, "max_grad_norm": clip, "save_strategy": "no"}
    plain = weights(train_here("plain", sea_labels=None, **shared))
    faint = weights(train_here("faint", sea_weight=1e-12, **shared))
    strong = weights(train_here("strong", **shared))
    for name, tensor in plain.items():
        torch.testing.assert_close(faint[name], tensor, atol=1e-6, rtol=0)
    assert max((strong[n] - plain[n]).abs().max() for n in plain) > 1e-3


def test_accumulated_micro_batches_see_the_same_language_loss(train_here, read_metrics):
    whole = train_here("whole", per_device_train_batch_size=8, sea_labels=None)
    parts = train_here(
        "parts", per_device_train_batch_size=2, gradient_accumulation_steps=4, sea_labels=None
    )
    for step in range(1, 7):
        row, other = read_metrics(whole)[step], read_metrics(parts)[step]
        assert row["lm_loss"] == pytest.approx(other["lm_loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("negatives", ["local", "global"])
def test_siglip_towers_train_too(train_here, tiny, tiny_siglip_labels, read_metrics, negatives):
    output_dir = train_here(
        "siglip",
        vision_tower=tiny.siglip,
        sea_labels=tiny_siglip_labels,
        sea_negatives=negatives,
        sea_weight_schedule="decay",
        gradient_checkpointing=True,
        max_steps=4,
    )
    rows = read_metrics(output_dir)
    assert [rows[n]["sea_weight"] for n in range(1, 5)] == [1.0, 0.5, 0.0, 0.0]
    assert rows[4]["lm_loss"] < rows[1]["lm_loss"]


def test_the_projector_can_have_its_own_rate(train_here, read_metrics):
    shared = {"max_steps": 3, "save_strategy": "no", "sea_eval_data": None}
    plain = weights(train_here("plain", sea_labels=None, **shared))
    slow = {"mm_projector_lr": 1e-2, "learning_rate": 1e-5} | shared
    own = weights(train_here("own", sea_labels=None, **slow))
    for name, tensor in plain.items():
        torch.testing.assert_close(own[name], tensor, atol=0, rtol=0)
    # the temperature keeps --learning_rate
    assert read_metrics(train_here("sea", **shared))[3]["temperature"] > 1.01
    slow_sea = read_metrics(train_here("slow", **slow))
    assert slow_sea[3]["temperature"] == pytest.approx(1.0, abs=1e-4)


def test_gradient_checkpointing_changes_nothing(train_here):
    plain = weights(train_here("plain", max_steps=3))
    saved = weights(train_here("saved", max_steps=3, gradient_checkpointing=True))
    for name, tensor in plain.items():
        torch.testing.assert_close(saved[name], tensor, atol=1e-6, rtol=1e-5)


def test_bfloat16_on_the_cpu(train_here, read_metrics):
    output_dir = train_here("bf16", bf16=True, use_cpu=True)
    # without DeepSpeed what is trained stays in float32, the rest is bfloat16
    assert next(iter(weights(output_dir).values())).dtype == torch.float32
    rows, exact = read_metrics(output_dir), read_metrics(train_here("fp32"))
    for step in range(1, 7):
        for name in ("lm_loss", "sea_loss", "temperature"):
            assert rows[step][name] == pytest.approx(exact[step][name], rel=0.01)


def test_starts_from_a_given_projector(train_here, read_metrics):
    first = train_here("first", max_steps=2)
    again = train_here("again", max_steps=2, pretrain_mm_mlp_adapter=first / "mm_projector.bin")
    assert read_metrics(again)[0]["eval_lm_loss"] == pytest.approx(
        read_metrics(first)[2]["eval_lm_loss"], rel=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune_mm_mlp_adapter": None}, "add --tune_mm_mlp_adapter True"),
        ({"model_name_or_path": "./nowhere"}, "nowhere: no such folder"),
        ({"vision_tower": "./nowhere"}, "nowhere"),
        ({"version": "v9"}, "v9"),
        ({"data_path": "nowhere.json"}, r"nowhere\.json"),
        ({"sea_labels": "nowhere"}, "no finished label store"),
        ({"sea_eval_truth": "nowhere.json"}, "sea_eval_truth nowhere"),
        ({"sea_eval_data": "nowhere.json"}, r"nowhere\.json"),
        ({"pretrain_mm_mlp_adapter": "nowhere.bin"}, "no such file"),
        ({"model_max_length": 12}, "model_max_length"),
        ({"mm_vision_select_layer": -99}, r"--mm_vision_select_layer -99: .* from -4 to 3 "),
        ({"sea_window": 99}, r"--sea_window 99: .* from 1 to 4 "),
        ({"optim": "adamw_bnb_8bit"}, "--optim adamw_bnb_8bit: .*install"),
    ],
)
def test_wrong_input_is_a_clear_error(train_here, changes, message):
    with pytest.raises(UserError, match=message):
        train_here("run", **changes)


def test_a_clip_is_no_language_model(train_here, tiny, monkeypatch):
    monkeypatch.setattr("llava_sea.model.builder.load_tower", lambda *a, **k: 1 / 0)
    shared = {"model_name_or_path": tiny.clip, "sea_eval_data": None}
    with pytest.raises(UserError, match=f"--model_name_or_path {tiny.clip}.*'clip'.*no language"):
        train_here("one", **shared)
    stage2 = {"tune_mm_mlp_adapter": None, "sea_labels": None, "version": "v1"}
    with pytest.raises(UserError, match=f"{tiny.clip}.*'clip'"):
        train_here("two", **shared | stage2)


def test_the_time_left_starts_after_the_first_measuring(train_here, monkeypatch):
    from llava_sea.train import metrics
    from llava_sea.train.evaluation import AlignmentEvaluator

    events = []

    class Bar(metrics.Progress):
        def __init__(self, *args, **options):
            events.append("bar")
            super().__init__(*args, **options)

    monkeypatch.setattr(
        AlignmentEvaluator, "measure", lambda *a: events.append("measured") or {"eval_gap": 1.0}
    )
    monkeypatch.setattr(metrics, "Progress", Bar)
    train_here("run", max_steps=2, save_strategy="no")
    assert events[:2] == ["measured", "bar"]


def test_labels_that_do_not_fit_are_refused(train_here, tiny, tiny_labels, tiny_siglip_labels):
    with pytest.raises(UserError, match="transformed differently"):
        train_here("pad", image_aspect_ratio="pad")
    with pytest.raises(UserError, match=r"transformed differently|another encoder"):
        train_here("encoder", sea_labels=tiny_siglip_labels)
    with pytest.raises(UserError, match="mined with features value, --sea_preset paper"):
        train_here("preset", sea_preset="paper")


def test_labels_of_changed_pictures_are_refused(train_here, tiny, tmp_path):
    from PIL import Image

    folder = tmp_path / "images"
    shutil.copytree(tiny.images, folder)
    Image.new("RGB", (30, 40)).save(folder / "003.png")
    with pytest.raises(UserError, match=r"rec-3.*003\.png|003\.png.*rec-3"):
        train_here("run", image_folder=folder, sea_eval_data=None)


def test_another_run_in_the_folder_is_refused(train_here):
    output_dir = train_here("run", max_steps=2)
    before = {p: p.stat().st_mtime_ns for p in output_dir.rglob("*") if p.name != "run.json"}
    with pytest.raises(UserError, match=r"another run \(learning_rate: '0.01' there"):
        train_here("run", max_steps=2, learning_rate=3e-3)
    assert {
        p: p.stat().st_mtime_ns for p in output_dir.rglob("*") if p.name != "run.json"
    } == before


def test_a_damaged_projector_is_refused(train_here, tmp_path):
    path = tmp_path / "mm_projector.bin"
    path.write_bytes(b"not tensors")
    with pytest.raises(UserError, match="not a file of tensors alone"):
        train_here("run", pretrain_mm_mlp_adapter=path)
    torch.save({"model.mm_projector.0.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(UserError, match=r"Missing: \['0.bias'"):
        train_here("run", pretrain_mm_mlp_adapter=path)


def test_a_bad_picture_met_by_a_data_worker_ends_the_run(run_stage1, stage1_flags, tiny, tmp_path):
    shutil.copytree(tiny.images, images := tmp_path / "images")
    (images / "007.png").write_bytes(b"no picture")
    flags = stage1_flags(
        tmp_path / "run", image_folder=images, dataloader_num_workers=1, sea_eval_data=None
    )
    output = run_stage1(flags, expect=2)
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert (
        line.startswith(f"error: {tiny.data}: record 7 (id 'rec-7'): ")
        and "Traceback" not in output
    )


def test_bad_records_are_counted_before_anything_is_built(train_here, monkeypatch, tiny, tmp_path):
    from llava_sea.train import stage1 as module

    monkeypatch.setattr(module, "build_llava", lambda *a, **k: 1 / 0)
    records = json.loads(tiny.data.read_text())
    records[7]["conversations"][0]["value"] = "<image> and <image>"
    records[9]["conversations"][0]["value"] = "no place"
    data = tmp_path / "bad.json"
    data.write_text(json.dumps(records))
    message = rf"{data}: record 7 .*rec-7.* 2 of 24 records .*also record 9"
    with pytest.raises(UserError, match=message):
        train_here("run", data_path=data)


def test_bad_held_out_records_name_their_own_file(train_here, tiny, tmp_path):
    records = json.loads(tiny.heldout.read_text())
    records[1]["conversations"][1]["value"] = ""
    data = tmp_path / "held.json"
    data.write_text(json.dumps(records))
    with pytest.raises(UserError, match=rf"^{data}: record 1 .*caption .* is empty"):
        train_here("run", sea_eval_data=data)
    shutil.copytree(tiny.images, images := tmp_path / "images")
    (images / "002.jpg").unlink()
    with pytest.raises(UserError, match=rf"^{tiny.heldout}: record 2 .*rec-2.*002\.jpg"):
        train_here("run", sea_eval_image_folder=images)


def test_tokens_beyond_the_table_are_found_before_the_run(train_here, grown_llm, tiny, tmp_path):
    records = json.loads(tiny.data.read_text())
    records[1]["conversations"][1]["value"] += " <extra>"
    data = tmp_path / "data.json"
    data.write_text(json.dumps(records))
    for flag in ("data_path", "sea_eval_data"):
        message = rf"^{data}: record 1 \(id 'rec-1'\): holds '<extra>'.* 1 of 24 records"
        with pytest.raises(UserError, match=message):
            train_here("run", model_name_or_path=grown_llm, **{flag: data})


def test_a_finished_run_is_left_as_it_is_or_put_right(train_here, capsys):
    output_dir = train_here("run", max_steps=3, save_steps=2)
    before = {p: p.read_bytes() for p in output_dir.rglob("*") if p.is_file()}
    assert train_here("run", max_steps=3, save_steps=2) == output_dir
    after = {p: p.read_bytes() for p in output_dir.rglob("*") if p.is_file()}
    changed = {p.name for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
    assert not changed
    # a run that was ended right after its last checkpoint gets its results now
    (output_dir / "mm_projector.bin").unlink()
    train_here("run", max_steps=3, save_steps=2)
    assert (output_dir / "mm_projector.bin").read_bytes() == before[output_dir / "mm_projector.bin"]
    # results that were damaged since, and what killed runs left
    for name in ("mm_projector.bin", "alignment_head.safetensors", "config.json"):
        data = before[output_dir / name]
        (output_dir / name).write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    (output_dir / "trainer_state.json").write_bytes(b'{"epoch": 0.')
    for name in (".config.json.4711.tmp", "checkpoint-9/optimizer.pt", ".saving-4/former/x"):
        (output_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (output_dir / name).touch()
    capsys.readouterr()
    train_here("run", max_steps=3, save_steps=2)
    said = capsys.readouterr().out
    state = output_dir / "trainer_state.json"
    assert json.loads(state.read_bytes())["global_step"] == 3
    after = {p: p.read_bytes() for p in output_dir.rglob("*") if p.is_file() and p != state}
    del before[state]
    assert after == before
    for name in ("mm_projector.bin", "alignment_head.safetensors", "config.json", state.name):
        assert f"{output_dir / name} is not as the run left it" in said
    assert "checkpoint-9 was cut off" in said


def test_results_without_checkpoints_are_not_overwritten(train_here):
    output_dir = train_here("run", max_steps=2, save_strategy="no")
    before = (output_dir / "mm_projector.bin").read_bytes()
    with pytest.raises(UserError, match="results of another run"):
        train_here("run", max_steps=2, save_strategy="no", seed=7)
    (output_dir / "run.json").unlink()
    with pytest.raises(UserError, match=r"holds other things \(.*mm_projector\.bin"):
        train_here("run", max_steps=2, save_strategy="no")
    assert (output_dir / "mm_projector.bin").read_bytes() == before


def test_another_folders_checkpoint_is_no_checkpoint_of_this_run(train_here):
    first = train_here("first", max_steps=2)
    with pytest.raises(UserError, match="not a checkpoint of --output_dir"):
        train_here("second", max_steps=2, resume_from_checkpoint=first / "checkpoint-2")


def test_labels_fit_a_float16_run(train_here, read_metrics, monkeypatch):
    from llava_sea.train import precision
    from llava_sea.train import stage1 as module

    # float16 kernels are missing on some CPUs: build the model, check the labels, go no further
    seen = []
    for place in (precision, module):
        monkeypatch.setattr(place, "weights_dtype", lambda args: torch.float16)
    monkeypatch.setattr(module, "build_measurements", lambda *a: seen.append(a) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_here("run")
    assert seen


def test_the_temperature_moves_under_bfloat16(train_here, read_metrics):
    output_dir = train_here("run", bf16=True, use_cpu=True, sea_log_scale_init=2.659)
    rows = read_metrics(output_dir)
    taus = [rows[n]["temperature"] for n in range(1, 7)]
    assert len(set(taus)) == 6


def test_a_damaged_store_is_named(train_here, tiny_labels, tmp_path):
    for harm in ("labels", "index", "manifest"):
        folder = tmp_path / f"labels {harm}"
        shutil.copytree(tiny_labels, folder)
        if harm == "labels":
            (folder / "shard-00000.labels.npy").unlink()
        elif harm == "index":
            data = (folder / "index.npy").read_bytes()
            (folder / "index.npy").write_bytes(data[: len(data) // 2])
        else:
            (folder / "manifest.json").write_text('{"format": "llava_sea labels 3"}')
        with pytest.raises(UserError, match="damaged"):
            train_here(harm, sea_labels=folder)


def test_a_wrong_image_folder_is_refused_before_anything_is_built(train_here, tiny, monkeypatch):
    from llava_sea.train import stage1

    monkeypatch.setattr(stage1, "prepare", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(UserError, match=r"--image_folder /no/folder: no such folder"):
        train_here("none", image_folder="/no/folder")
    other = tiny.images.parent
    with pytest.raises(UserError, match=r"holds none of the first 24 .*000.*relative to\?"):
        train_here("other", image_folder=other)


def test_truth_that_lacks_a_picture_is_refused(train_here, tmp_path):
    truth = tmp_path / "truth.json"
    truth.write_text(
        json.dumps({"grid": [4, 4], "words_sets": [["a"]], "images": {}, "objects": {}})
    )
    with pytest.raises(UserError, match=r"sea_eval_truth.*000\.jpg"):
        train_here("run", sea_eval_truth=truth)


def test_a_checkpoint_file_that_torch_cannot_write_is_named(train_here, file_limit, tmp_path):
    file_limit(20_000)  # the optimizer's has 22 kB
    with pytest.raises(UserError, match=r"checkpoint-2/optimizer\.pt: File too large.*ulimit -f"):
        train_here("run", max_steps=2, sea_eval_data=None)


def test_a_result_that_cannot_be_written_is_named(train_here, monkeypatch, tmp_path):
    import errno

    from llava_sea.train.trainer import LLaVATrainer

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LLaVATrainer, "save_state", full)
    with pytest.raises(OSError, match=r"No space left .*run/trainer_state\.json"):
        train_here("run", max_steps=1, sea_eval_data=None)


def test_a_full_disk_leaves_the_former_checkpoint_whole(train_here, monkeypatch, tmp_path):
    import errno

    from llava_sea.train import checkpoint, saving

    real = saving.save_projector

    def full(path, state):
        if path.parent.name == "checkpoint-4":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, state)

    monkeypatch.setattr(saving, "save_projector", full)
    with pytest.raises(UserError, match=r"checkpoint-4/mm_projector\.bin: No space left"):
        train_here("run", save_steps=2, save_total_limit=1)
    (former,) = checkpoint.complete_checkpoints(tmp_path / "run")
    assert former.name == "checkpoint-2"
    checkpoint.verify(former)
    monkeypatch.setattr(saving, "save_projector", real)
    resumed = weights(train_here("run", save_steps=2, save_total_limit=1))
    unbroken = weights(train_here("unbroken", save_steps=2, save_total_limit=1))
    for name, tensor in unbroken.items():
        torch.testing.assert_close(resumed[name], tensor, atol=0, rtol=0)
