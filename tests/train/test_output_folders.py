"""Output folders: none that holds other things, one way in all commands; whose a run's is."""

from dataclasses import dataclass, fields
from fnmatch import fnmatch
from types import SimpleNamespace

import psutil
import pytest
import transformers

from llava_sea.data.records import open_records
from llava_sea.errors import UserError
from llava_sea.labels.claims import Claims
from llava_sea.labels.extract import extract_labels
from llava_sea.labels.options import ExtractOptions
from llava_sea.labels.state import begin_or_resume
from llava_sea.model import export
from llava_sea.train.arguments import (
    DataArguments,
    ModelArguments,
    SeaArguments,
    TrainingArguments,
)
from llava_sea.train.output_dir import NOT_IDENTITY, claim_output_dir, identity
from llava_sea.train.parse import parse_args


@pytest.fixture
def write_into(tiny, train_here, tune_here):
    """Run a command, by its name, with an output folder."""
    paths = {"data_path": tiny.data, "image_folder": tiny.images, "vision_tower": tiny.clip}
    labels = {name: str(path) for name, path in (paths | {"words": tiny.words}).items()}
    commands = {
        "export": lambda out: export.main(["--model_path", "any", "--output_dir", str(out)]),
        "stage 1": train_here,
        "stage 2": tune_here,
        "labels": lambda out: extract_labels(
            ExtractOptions(**labels, output_dir=str(out), device="cpu")
        ),
    }
    return lambda command, folder: commands[command](folder)


COMMANDS = ["export", "stage 1", "stage 2", "labels"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_holds_other_things_is_left_as_it_is(write_into, tmp_path, command):
    folder = tmp_path / "out"
    folder.mkdir()
    # a stage-1 run of LLaVA, labels without their work/, a word list of one's own, notes
    for name in ("config.json", "mm_projector.bin", "shard-00000.json", "words.tsv", "notes.md"):
        (folder / name).write_text("dear")
    message = rf"^--output_dir {folder}: holds other things \(config\.json, mm_projector\.bin, "
    with pytest.raises(UserError, match=message):
        write_into(command, folder)
    left = [path.read_text() for path in folder.iterdir()]
    assert left == ["dear"] * 5


@pytest.mark.parametrize("place", ["file", "file/run", "broken"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_is_no_output_folder(write_into, tmp_path, command, place):
    (tmp_path / "file").write_text("dear")
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=rf"^--output_dir {tmp_path / place}: .* file, no folder"):
        write_into(command, tmp_path / place)
    assert (tmp_path / "file").read_text() == "dear"


def test_a_word_list_in_the_labels_folder_is_taken_where_it_is_the_given_one(tiny, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "words.tsv").write_text("another list")
    with pytest.raises(UserError, match=r"holds other things \(words\.tsv\)"):
        begin_or_resume(folder, {"words_sha256": "0"}, Claims(folder / "work" / "claims"))
    (folder / "words.tsv").unlink()
    (folder / "work").mkdir()
    (folder / "work" / "thesis.doc").touch()  # work/ is deleted at the end
    with pytest.raises(UserError, match=r"work: holds other things \(thesis\.doc\)"):
        begin_or_resume(folder, {"words_sha256": "0"}, Claims(folder / "work" / "claims"))


def test_a_run_file_of_something_else_opens_no_folder(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    claim_output_dir(tmp_path, {"seed": 1})  # as a run left it that ended early
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(UserError, match=r"holds other things \(thesis\.doc\)"):
        claim_output_dir(tmp_path, {"seed": 2})
    assert (tmp_path / "run.json").read_text() == '{\n "seed": 1\n}'


def arguments(tiny, tmp_path, *more):
    flags = ["--model_name_or_path", tiny.llm, "--vision_tower", tiny.clip]
    flags += ["--data_path", tiny.data, "--image_folder", tiny.images, "--output_dir", tmp_path]
    return parse_args([*map(str, flags), "--tune_mm_mlp_adapter", "True", *more])


OWN = ["cache_dir", "attn_implementation", "sea_preset"]
OWN += ["data_path", "sea_labels"]  # by their contents


def test_every_flag_but_a_few_belongs_to_the_run():
    groups = (ModelArguments, DataArguments, SeaArguments, TrainingArguments)
    flags = {field.name for group in groups for field in fields(group)}
    out = {flag for flag in flags if any(fnmatch(flag, one) for one in NOT_IDENTITY)}
    own = flags - {field.name for field in fields(transformers.TrainingArguments)}
    assert out & own == {*OWN, *(flag for flag in own if flag.startswith("sea_eval_"))}
    matter = ("learning_rate", "optim", "seed", "fsdp", "group_by_length", "double_quant")
    assert not out & {*matter, "max_steps", "label_smoothing_factor", "bf16", "quant_type"}
    assert all(any(fnmatch(flag, one) for flag in flags) for one in NOT_IDENTITY)


def identify(tiny, output, *flags):
    given = arguments(tiny, output, *flags)
    return identity(given, open_records(given.data.data_path))


def test_a_flag_that_is_new_belongs_to_the_run(tiny, tmp_path):
    @dataclass
    class Newer(TrainingArguments):
        brand_new: int = 3

    *others, _ = arguments(tiny, tmp_path)
    records = open_records(str(tiny.data))
    usual, other = (
        identity((*others, Newer(str(tmp_path), use_cpu=True, brand_new=value)), records)
        for value in (3, 4)
    )
    assert set(other.items()) - set(usual.items()) == {("brand_new", "4")}
    assert "brand_new" not in usual  # what was saved before there was the flag can be resumed


@pytest.mark.parametrize(
    ("flags", "differing"),
    [
        (["--sea_negatives", "global"], {"sea_negatives"}),
        (["--pack_sequences", "True"], {"pack_sequences"}),
        (["--double_quant", "False"], {"double_quant"}),
        (["--logging_steps", "3", "--save_steps", "7", "--dataloader_num_workers", "2"], set()),
        (["--sea_eval_steps", "3", "--gradient_checkpointing", "True", "--run_name", "x"], set()),
        (
            ["--sea_preset", "best"],
            {"sea_weight_schedule", "sea_log_scale_init", "sea_length_weight"},
        ),
    ],
)
def test_which_flags_make_another_run(tiny, tiny_labels, tmp_path, flags, differing):
    shared = ("--sea_labels", str(tiny_labels))
    one = identify(tiny, tmp_path, *shared)
    other = identify(tiny, tmp_path, *shared, *flags)
    assert {name for name in {*one, *other} if one.get(name) != other.get(name)} == differing


def test_without_sea_its_flags_do_not_count(tiny, tmp_path):
    plain = identify(tiny, tmp_path)
    assert identify(tiny, tmp_path, "--sea_window", "3") == plain


def test_a_run_tells_its_memory_and_refuses_what_does_not_fit(train_here, monkeypatch, capfd):
    train_here("told", max_steps=1)
    assert "gradients and optimizer 0.00 GB of main memory" in capfd.readouterr().out
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(UserError, match="parameters are trained: gradients and optimizer need"):
        train_here("large", max_steps=1)
