"""Sealing, verifying, passing over and rotating checkpoints; claiming an output folder."""

import os
import time

import pytest

from llava_sea.errors import UserError
from llava_sea.files import only_writer
from llava_sea.train import output_dir
from llava_sea.train.checkpoint import (
    clean_up,
    complete_checkpoints,
    find_checkpoint,
    rotate,
    seal,
    verify,
)
from llava_sea.train.output_dir import claim_output_dir, only_run


def make(root, step, sealed=True):
    path = root / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "mm_projector.bin").write_bytes(b"weights %d" % step)
    (path / "global_step" / "rank0.pt").write_bytes(b"optimizer")
    if sealed:
        seal(path)
    return path


@pytest.mark.parametrize("harm", ["change", "remove", "add"])
def test_changed_files_are_refused(tmp_path, harm):
    path = make(tmp_path, 2)
    verify(path)
    target = path / "global_step" / "rank0.pt"
    if harm == "change":
        target.write_bytes(b"malicious")
    elif harm == "remove":
        target.unlink()
    else:
        (path / "global_step" / "rank1.pt").write_bytes(b"more")
    with pytest.raises(
        UserError, match=r"does not match its checksums.*Delete the folder.*an older one"
    ) as caught:
        verify(path)
    # whoever changes a shard can change its checksum: only the folder's origin is a protection
    assert "can run code: resume only from folders of your own" in str(caught.value)


DAMAGE = {"empty": b"", "cut": b'{"lr": ', "list": b"[]", "null": b"null", "bytes": b"\xff\xfe{}"}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checksum_file_is_one_clear_line(tmp_path, damage):
    make(tmp_path, 2)
    path = make(tmp_path, 4) / "checksums.json"
    path.write_bytes(DAMAGE[damage])
    for resume in (None, str(path.parent)):  # never without a word from the one before it
        with pytest.raises(UserError, match=r"damaged \(.*Delete the folder to resume") as caught:
            find_checkpoint(tmp_path, resume)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert complete_checkpoints(tmp_path)[-1] == path.parent and path.parent.is_dir()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_file_is_one_clear_line(tmp_path, damage):
    run = tmp_path / "run.json"
    run.write_bytes(DAMAGE[damage])
    claim_output_dir(tmp_path, {"lr": "1"})  # nothing was saved: it is written anew
    make(tmp_path, 2)
    claim_output_dir(tmp_path, {"lr": "1"})
    run.write_bytes(DAMAGE[damage])
    with pytest.raises(UserError, match=r"damaged \(.*choose another --output_dir") as caught:
        claim_output_dir(tmp_path, {"lr": "1"})
    assert str(caught.value).startswith(f"{run}: ") and "\n" not in str(caught.value)
    assert run.read_bytes() == DAMAGE[damage]


def test_cut_off_checkpoints_are_passed_over(tmp_path, caplog):
    make(tmp_path, 10)
    make(tmp_path, 9)
    make(tmp_path, 12, sealed=False)
    assert [p.name for p in complete_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert "checkpoint-12 was cut off" in caplog.text
    assert find_checkpoint(tmp_path, None) == tmp_path / "checkpoint-10"
    with pytest.raises(UserError, match="not a complete checkpoint"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-12"))


def test_fresh_start_into_a_used_folder_is_refused(tmp_path):
    make(tmp_path, 1)
    with pytest.raises(UserError, match="choose another --output_dir"):
        find_checkpoint(tmp_path, "False")
    with pytest.raises(UserError, match="no such folder"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-7"))


def test_rotation_keeps_the_latest_complete_ones(tmp_path):
    for step in (2, 4, 6, 8, 10):
        make(tmp_path, step, sealed=step not in (6, 10))
    for keep, kept in ((None, {2, 4, 6, 8, 10}), (2, {4, 6, 8, 10}), (1, {8, 10})):
        rotate(tmp_path, keep)
        assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{n}" for n in kept}


def test_what_killed_runs_left_is_removed_by_the_next_start(tmp_path, caplog):
    run = {"lr": "1"}
    claim_output_dir(tmp_path, run)
    for step in (9, 10, 12):
        make(tmp_path, step, sealed=step == 9)
    left = [".model.safetensors.4711.tmp", ".run.json.12.tmp", ".saving-4/x"]
    only_copy, others = [".saving-5/former/config.json"], [".gitkeep", "notes.tmp", "runs/.x.7.tmp"]
    for name in [*left, *only_copy, *others]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 9)
    with only_run(tmp_path, run) as alone:
        assert alone
        clean_up(tmp_path)
    kept = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    of_9 = {f"checkpoint-9/{name}" for name in ("checksums.json", "mm_projector.bin")}
    of_9.add("checkpoint-9/global_step/rank0.pt")
    assert kept == {"run.json", ".lock", *only_copy, *others, *of_9}
    for name in ("checkpoint-10", "checkpoint-12", ".model.safetensors.4711.tmp"):
        assert f"{tmp_path / name} was cut off while it was written; it is removed" in caplog.text


def test_a_second_run_in_the_folder_is_refused_and_removes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(output_dir, "WAIT_S", 0.1)
    claim_output_dir(tmp_path, {"lr": "1"})
    make(tmp_path, 2, sealed=False)  # being written
    with (
        only_writer(tmp_path / ".lock", ""),
        pytest.raises(UserError, match="another process is writing there"),
        only_run(tmp_path, {"lr": "1"}),
    ):
        pass
    assert (tmp_path / "checkpoint-2").is_dir()
    with only_run(tmp_path, {"lr": "1"}, write=False) as alone:  # as ranks other than the first
        assert not alone


def test_a_run_waits_for_the_former_ones_end(tmp_path, caplog):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with only_writer(tmp_path / ".lock", ""):
            os.write(writer, b"1")
            time.sleep(0.5)
        os._exit(0)
    os.read(reader, 1)
    with only_run(tmp_path, {"lr": "1"}) as alone:
        assert alone
    os.waitpid(child, 0)
    assert "held by another process; waiting" in caplog.text


def test_another_runs_folder_is_refused_and_untouched(tmp_path):
    claim_output_dir(tmp_path, {"lr": "1", "seed": "1"})
    claim_output_dir(tmp_path, {"lr": "2", "seed": "1"})  # nothing was saved: free to change
    path = make(tmp_path, 2)
    claim_output_dir(tmp_path, {"lr": "2", "seed": "1"})
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"another run \(lr: '2' there, '3' now\)"):
        claim_output_dir(tmp_path, {"lr": "3", "seed": "1"})
    assert (tmp_path / "run.json").read_bytes() == before and path.exists()


@pytest.mark.parametrize("name", ["checkpoint-2", "model.safetensors", "thesis.doc"])
def test_a_folder_that_holds_other_things_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"dear")
    with pytest.raises(UserError, match=rf"holds other things \({name}\)\. Nothing was changed"):
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


def test_fixed_data_are_accepted_where_a_checkpoint_is_named(tmp_path, caplog):
    claim_output_dir(tmp_path, RUN)
    path = make(tmp_path, 2)
    fixed = RUN | {"data_sha256": "b"}
    for vague in (None, "True", str(tmp_path / "checkpoint-3")):
        with pytest.raises(UserError, match=f"has changed.*--resume_from_checkpoint {path};"):
            claim_output_dir(tmp_path, fixed, resume_from=vague)
    claim_output_dir(tmp_path, fixed, resume_from=str(path))
    assert "data file that has changed" in caplog.text
    claim_output_dir(tmp_path, fixed)  # from now on it is this run's data
    with pytest.raises(UserError, match="another run"):
        claim_output_dir(tmp_path, fixed | {"lr": "2"}, resume_from=str(path))


def test_data_with_other_records_are_not(tmp_path):
    claim_output_dir(tmp_path, RUN)
    path = make(tmp_path, 2)
    other = RUN | {"data_sha256": "b", "records": "9 (7 with a picture)"}
    with pytest.raises(UserError, match=r"holds 9 \(7 .* records now, 9 \(8 .* then"):
        claim_output_dir(tmp_path, other, resume_from=str(path))
