"""Every command that writes into a folder refuses one that holds other things, in one way."""

import sys

import pytest

from llava_sea.errors import UserError
from llava_sea.labels.extract import extract_labels
from llava_sea.labels.options import ExtractOptions
from llava_sea.model import export, export_llm, export_lmms
from llava_sea.train import train, warm_start


@pytest.fixture
def write_into(tiny, stage1_flags, stage2_flags, monkeypatch):
    """Run a command, by its name, with an output folder."""

    def run_with(main, flags):
        monkeypatch.setattr(sys, "argv", ["command", *flags])
        main()

    def extract(folder):
        extract_labels(
            ExtractOptions(
                data_path=str(tiny.data),
                image_folder=str(tiny.images),
                vision_tower=str(tiny.clip),
                words=str(tiny.words),
                output_dir=str(folder),
                device="cpu",
            )
        )

    def run(command, folder):
        exported = ["--model_path", "any", "--output_dir", str(folder)]
        {
            "export": lambda: export.main(exported),
            "export_llm": lambda: export_llm.main(exported),
            "export_lmms": lambda: export_lmms.main(exported),
            "stage 1": lambda: run_with(train.train, stage1_flags(folder)),
            "stage 2": lambda: run_with(train.train, stage2_flags(folder)),
            "warm start": lambda: run_with(warm_start.main, stage1_flags(folder)),
            "labels": lambda: extract(folder),
        }[command]()

    return run


COMMANDS = ["export", "export_llm", "export_lmms", "stage 1", "stage 2", "warm start", "labels"]


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


@pytest.mark.parametrize("below", [False, True], ids=["a file", "below a file"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_is_no_output_folder(write_into, tmp_path, command, below):
    (tmp_path / "out").write_text("dear")
    folder = tmp_path / "out" / "run" if below else tmp_path / "out"
    with pytest.raises(UserError, match=rf"^--output_dir {folder}: .* is a file, no folder"):
        write_into(command, folder)
    assert (tmp_path / "out").read_text() == "dear"


def test_a_word_list_in_the_labels_folder_is_taken_where_it_is_the_given_one(tiny, tmp_path):
    from llava_sea.labels.extraction_state import begin_or_resume

    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "words.tsv").write_text("another list")
    with pytest.raises(UserError, match=r"holds other things \(words\.tsv\)"):
        begin_or_resume(folder, {"words_sha256": "0"})
    (folder / "words.tsv").unlink()
    (folder / "work").mkdir()
    (folder / "work" / "thesis.doc").touch()  # work/ is deleted at the end
    with pytest.raises(UserError, match=r"work: holds other things \(thesis\.doc\)"):
        begin_or_resume(folder, {"words_sha256": "0"})
