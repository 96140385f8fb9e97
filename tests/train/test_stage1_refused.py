"""Stage 1 with wrong input, a folder of something else, a full disk: one line, nothing lost."""

import errno
import json
import shutil

import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from llava_sea.errors import UserError
from llava_sea.model.projector_io import read_projector
from llava_sea.train import checkpoint, saving, stage1
from llava_sea.train.trainer import LLaVATrainer
from tests.worlds import edited, files_of


def projector_of(output_dir):
    return read_projector(output_dir / "mm_projector.bin")


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
        ({"report_to": "foo"}, "refuses a training flag: foo is not supported"),
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


def test_labels_that_do_not_fit_are_refused(train_here, tiny, tiny_labels, tiny_siglip_labels):
    with pytest.raises(UserError, match="transformed differently"):
        train_here("pad", image_aspect_ratio="pad")
    with pytest.raises(UserError, match=r"transformed differently|another encoder"):
        train_here("encoder", sea_labels=tiny_siglip_labels)
    with pytest.raises(UserError, match="mined with features value, --sea_preset paper"):
        train_here("preset", sea_preset="paper")


def test_labels_of_changed_images_are_refused(train_here, tiny, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(tiny.images, folder)
    Image.new("RGB", (30, 40)).save(folder / "003.png")
    with pytest.raises(UserError, match=r"rec-3.*003\.png|003\.png.*rec-3"):
        train_here("run", image_folder=folder, sea_eval_data=None)


def test_a_damaged_projector_is_refused(train_here, tmp_path):
    path = tmp_path / "mm_projector.bin"
    path.write_bytes(b"not tensors")
    with pytest.raises(UserError, match="not a file of tensors alone"):
        train_here("run", pretrain_mm_mlp_adapter=path)
    torch.save({"model.mm_projector.0.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(UserError, match=r"Missing: \['0.bias'"):
        train_here("run", pretrain_mm_mlp_adapter=path)


def test_a_bad_image_met_by_a_data_worker_ends_the_run(train_here, tiny, tmp_path):
    shutil.copytree(tiny.images, images := tmp_path / "images")
    (images / "007.png").write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        train_here("run", image_folder=images, dataloader_num_workers=1, sea_eval_data=None)
    assert str(caught.value).startswith(f"{tiny.data}: record 7 (id 'rec-7'): ")
    assert "Traceback" not in str(caught.value)


def test_bad_records_are_counted_before_anything_is_built(train_here, monkeypatch, tiny, tmp_path):
    monkeypatch.setattr(stage1, "build_llava", lambda *a, **k: 1 / 0)

    def spoil(records):
        records[7]["conversations"][0]["value"] = "<image> and <image>"
        records[9]["conversations"][0]["value"] = "no place"

    data = edited(tiny.data, tmp_path / "bad.json", spoil)
    message = rf"{data}: record 7 .*rec-7.* 2 of 24 records .*also record 9"
    with pytest.raises(UserError, match=message):
        train_here("run", data_path=data)


def test_bad_held_out_records_name_their_own_file(train_here, tiny, tmp_path):
    def empty(records):
        records[1]["conversations"][1]["value"] = ""

    data = edited(tiny.heldout, tmp_path / "held.json", empty)
    with pytest.raises(UserError, match=rf"^{data}: record 1 .*caption .* is empty"):
        train_here("run", sea_eval_data=data)
    shutil.copytree(tiny.images, images := tmp_path / "images")
    (images / "002.jpg").unlink()
    with pytest.raises(UserError, match=rf"^{tiny.heldout}: record 2 .*rec-2.*002\.jpg"):
        train_here("run", sea_eval_image_folder=images)


def test_tokens_beyond_the_table_are_found_before_the_run(train_here, grown_llm, tiny, tmp_path):
    def add(records):
        records[1]["conversations"][1]["value"] += " <extra>"

    data = edited(tiny.data, tmp_path / "data.json", add)
    for flag in ("data_path", "sea_eval_data"):
        message = rf"^{data}: record 1 \(id 'rec-1'\): holds '<extra>'.* 1 of 24 records"
        with pytest.raises(UserError, match=message):
            train_here("run", model_name_or_path=grown_llm, **{flag: data})


def test_a_token_behind_the_cut_of_a_held_out_caption(train_here, grown_llm, tiny, tmp_path):
    def add(records):
        records[1]["conversations"][1]["value"] += " red" * 60 + " <extra>"

    data = edited(tiny.data, tmp_path / "data.json", add)
    changes = {"model_name_or_path": grown_llm, "model_max_length": 40, "sea_eval_data": data}
    with pytest.raises(UserError, match=r"record 1 \(id 'rec-1'\): holds '<extra>'"):
        train_here("run", **changes)


def test_results_without_checkpoints_are_not_overwritten(train_here):
    output_dir = train_here("run", max_steps=2, save_strategy="no")
    before = files_of(output_dir)
    with pytest.raises(UserError, match=r"results of another run \(learning_rate: '0.01' there"):
        train_here("run", max_steps=2, save_strategy="no", learning_rate=3e-3)
    assert files_of(output_dir) == before
    (output_dir / "run.json").unlink()
    with pytest.raises(UserError, match=r"holds other things \(.*mm_projector\.bin"):
        train_here("run", max_steps=2, save_strategy="no")


def test_another_folders_checkpoint_is_no_checkpoint_of_this_run(train_here):
    first = train_here("first", max_steps=2)
    with pytest.raises(UserError, match="not a checkpoint of --output_dir"):
        train_here("second", max_steps=2, resume_from_checkpoint=first / "checkpoint-2")


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("geometry", None),
        ("encoder_fingerprint", 5),
        ("encoder", []),
        ("features", {}),
        ("sign", "+1"),
        ("skipped", 5),
        ("top_n", 1e400),
    ],
)
def test_a_damaged_manifest_is_named(train_here, tiny_labels, tmp_path, field, value):
    folder = shutil.copytree(tiny_labels, tmp_path / "labels")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {field: value}))
    with pytest.raises(UserError, match=rf"{folder}.* damaged"):
        train_here("run", sea_labels=folder)


def test_a_wrong_image_folder_is_refused_before_anything_is_built(train_here, tiny, monkeypatch):
    monkeypatch.setattr(stage1, "prepare", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(UserError, match=r"--image_folder /no/folder: no such folder"):
        train_here("none", image_folder="/no/folder")
    other = tiny.images.parent
    with pytest.raises(UserError, match=r"holds none of the first 24 .*000.*relative to\?"):
        train_here("other", image_folder=other)


def test_truth_that_lacks_an_image_is_refused(train_here, tmp_path):
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
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LLaVATrainer, "save_state", full)
    with pytest.raises(OSError, match=r"No space left .*run/trainer_state\.json"):
        train_here("run", max_steps=1, sea_eval_data=None)


def test_a_full_disk_of_the_curves_is_named(train_here, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "curves"))
    with pytest.raises(OSError, match="No space left") as caught:
        train_here("run", max_steps=1, report_to="tensorboard")
    assert caught.value.filename == str(tmp_path / "curves")


def test_a_full_disk_leaves_the_former_checkpoint_whole(train_here, monkeypatch, tmp_path):
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
    resumed = projector_of(train_here("run", save_steps=2, save_total_limit=1))
    unbroken = projector_of(train_here("unbroken", save_steps=2, save_total_limit=1))
    for name, tensor in unbroken.items():
        torch.testing.assert_close(resumed[name], tensor, atol=0, rtol=0)
