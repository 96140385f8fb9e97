"""Sealing, verifying, passing over and rotating checkpoints; claiming an output folder."""

import pytest

from llava_sea.errors import UserError
from llava_sea.train.checkpoint import (
    claim_output_dir,
    complete_checkpoints,
    rotate,
    seal,
    verify,
)
from llava_sea.train.run import find_checkpoint


def make(root, step, sealed=True):
    path = root / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "mm_projector.bin").write_bytes(b"weights %d" % step)
    (path / "global_step" / "rank0.pt").write_bytes(b"optimizer")
    if sealed:
        seal(path)
    return path


def test_a_sealed_checkpoint_verifies(tmp_path):
    verify(make(tmp_path, 2))


@pytest.mark.parametrize("harm", ["change", "remove", "add"])
def test_changed_files_are_refused(tmp_path, harm):
    path = make(tmp_path, 2)
    target = path / "global_step" / "rank0.pt"
    if harm == "change":
        target.write_bytes(b"malicious")
    elif harm == "remove":
        target.unlink()
    else:
        (path / "global_step" / "rank1.pt").write_bytes(b"more")
    with pytest.raises(
        UserError, match=r"does not match its checksums.*Delete the folder.*an older one"
    ):
        verify(path)


def test_cut_off_checkpoints_are_passed_over(tmp_path, caplog):
    make(tmp_path, 10)
    make(tmp_path, 9)
    make(tmp_path, 12, sealed=False)
    assert [p.name for p in complete_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert "checkpoint-12 was cut off" in caplog.text
    assert find_checkpoint(tmp_path, None).endswith("checkpoint-10")
    with pytest.raises(UserError, match="not a complete checkpoint"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-12"))


def test_fresh_start_into_a_used_folder_is_refused(tmp_path):
    make(tmp_path, 1)
    with pytest.raises(UserError, match="choose another --output_dir"):
        find_checkpoint(tmp_path, "False")
    with pytest.raises(UserError, match="no such folder"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-7"))


def test_rotation_keeps_the_latest_complete_ones(tmp_path):
    for step in (2, 4, 10):
        make(tmp_path, step)
    rotate(tmp_path, None)
    assert len(complete_checkpoints(tmp_path)) == 3
    rotate(tmp_path, 2)
    assert [p.name for p in complete_checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-10"]


def test_another_runs_folder_is_refused_and_untouched(tmp_path):
    claim_output_dir(tmp_path, {"lr": "1", "seed": "1"})
    claim_output_dir(tmp_path, {"lr": "2", "seed": "1"})  # nothing was saved: free to change
    path = make(tmp_path, 2)
    claim_output_dir(tmp_path, {"lr": "2", "seed": "1"})
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"another run \(lr: '2' there, '3' now\)"):
        claim_output_dir(tmp_path, {"lr": "3", "seed": "1"})
    assert (tmp_path / "run.json").read_bytes() == before and path.exists()


def test_checkpoints_of_other_software_are_refused(tmp_path):
    make(tmp_path, 2)
    with pytest.raises(UserError, match="something else"):
        claim_output_dir(tmp_path, {"lr": "1"})


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ],
)
def test_weights_of_other_software_are_not_overwritten(tmp_path, name):
    (tmp_path / name).write_bytes(b"dear")
    with pytest.raises(UserError, match=rf"something else \({name}; no run.json"):
        claim_output_dir(tmp_path, {"lr": "1"})
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_one_folder_in_two_spellings_is_no_difference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    (tmp_path / "other").mkdir()
    make(tmp_path / "run", 2)
    (tmp_path / "run" / "run.json").write_text('{"vision_tower": "clip", "version": "v1"}')
    claim = {"vision_tower": str(tmp_path / "clip"), "version": "v1"}
    claim_output_dir(tmp_path / "run", claim)
    with pytest.raises(UserError, match="vision_tower"):
        claim_output_dir(tmp_path / "run", claim | {"vision_tower": "./other"})
    with pytest.raises(UserError, match="vision_tower"):
        claim_output_dir(tmp_path / "run", claim | {"vision_tower": "gone"})


RUN = {"lr": "1", "data_sha256": "a", "records": "9 (8 with a picture)"}


def test_mended_data_is_gone_on_with_where_a_checkpoint_is_named(tmp_path, caplog):
    claim_output_dir(tmp_path, RUN)
    path = make(tmp_path, 2)
    mended = RUN | {"data_sha256": "b"}
    for vague in (None, "True", str(tmp_path / "checkpoint-3")):
        with pytest.raises(UserError, match=f"has changed.*--resume_from_checkpoint {path};"):
            claim_output_dir(tmp_path, mended, resume_from=vague)
    claim_output_dir(tmp_path, mended, resume_from=str(path))
    assert "data file that has changed" in caplog.text
    claim_output_dir(tmp_path, mended)  # from now on it is this run's data
    with pytest.raises(UserError, match="another run"):
        claim_output_dir(tmp_path, mended | {"lr": "2"}, resume_from=str(path))


def test_data_with_other_records_are_not_gone_on_with(tmp_path):
    claim_output_dir(tmp_path, RUN)
    path = make(tmp_path, 2)
    other = RUN | {"data_sha256": "b", "records": "9 (7 with a picture)"}
    with pytest.raises(UserError, match=r"holds 9 \(7 .* records now, 9 \(8 .* then"):
        claim_output_dir(tmp_path, other, resume_from=str(path))
