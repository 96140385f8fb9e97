import json

import pytest

from llava_sea.errors import UserError
from llava_sea.report.runs import open_run
from tests.report.report_world import LOG, evaluation, write_log


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "out"
    checkpoint = folder / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    for place in (folder, checkpoint):
        (place / "config.json").write_text(json.dumps({"_name_or_path": place.name}))
        (place / "mm_projector.bin").touch()
    (folder / "mm_projector_initial.bin").touch()
    write_log(folder, LOG)
    return folder


def test_finished_run(run):
    found = open_run(run)
    assert found.name == "out" and found.step == 8 and found.notes == []
    assert [(p.label, p.path.name) for p in found.projectors] == [
        ("before training", "mm_projector_initial.bin"),
        ("after 8 steps", "mm_projector.bin"),
    ]
    assert len(found.rows) == len(LOG) and found.report_name() == "report.html"


def test_a_start_from_another_projector_is_told(run):
    (run / "run.json").write_text(json.dumps({"pretrain_mm_mlp_adapter": "warm/mm_projector.bin"}))
    assert open_run(run).notes == [
        "The run began from warm/mm_projector.bin: numbers of step 0 are that projector's."
    ]


def test_checkpoint_finds_what_its_run_holds(run):
    for found in (open_run(run / "checkpoint-4"), open_run(run, run / "checkpoint-4")):
        assert found.root == run and found.step == 4 and len(found.rows) == len(LOG)
        assert [p.path for p in found.projectors] == [
            run / "mm_projector_initial.bin",
            run / "checkpoint-4" / "mm_projector.bin",
        ]
        assert found.report_name() == "report-checkpoint-4.html"
    assert open_run(run / "checkpoint-4").config["_name_or_path"] == "checkpoint-4"


def test_projector_of_another_run_has_no_step(run, tmp_path):
    other = tmp_path / "other" / "checkpoint-4"
    other.mkdir(parents=True)
    (other / "mm_projector.bin").touch()
    found = open_run(run, other / "mm_projector.bin")
    assert found.step is None
    assert found.projectors[-1].label == "with checkpoint-4/mm_projector.bin"
    assert found.report_name() != "report.html"


def test_plain_llava_folder(run):
    (run / "metrics.jsonl").unlink()
    (run / "mm_projector_initial.bin").unlink()
    history = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}]
    (run / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    found = open_run(run)
    # Its loss is the caption loss.
    assert [row["lm_loss"] for row in found.rows] == [5.0, 4.0] and found.step == 2
    assert [p.label for p in found.projectors] == ["after 2 steps"]
    assert "mm_projector_initial.bin" in " ".join(found.notes)
    (run / "trainer_state.json").unlink()
    found = open_run(run)
    assert found.rows == [] and found.step is None
    assert "no metrics.jsonl" in found.notes[0]


def test_log_of_a_killed_run_ends_in_half_a_line(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')
    assert open_run(run).step == 8


def test_broken_line_in_the_middle_is_named(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[2] = "[3]"
    (run / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"metrics\.jsonl:3"):
        open_run(run)


def test_what_must_be_there_is_asked_for(run, tmp_path):
    with pytest.raises(UserError, match=r"--run .*nowhere: no such folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"--projector .*nothing\.bin"):
        open_run(run, "nothing.bin")
    (run / "mm_projector.bin").unlink()
    with pytest.raises(UserError, match=r"not finished; its latest checkpoint is --run .*point-4"):
        open_run(run)
    (run / "checkpoint-4" / "config.json").unlink()
    (run / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: broken JSON"):
        open_run(run / "checkpoint-4")
    (run / "config.json").write_text('{"mm_vision_select_layer": "x"}')
    with pytest.raises(UserError, match=r"config\.json: mm_vision_select_layer cannot be 'x'"):
        open_run(run / "checkpoint-4")
    (run / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        open_run(run)


def test_rows_are_in_the_order_of_steps(run):
    write_log(run, [evaluation(8, 1.0, 0.1), evaluation(0, 2.0, 0.2)])
    assert [row["step"] for row in open_run(run).rows] == [0, 8]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"step": 3, "loss": "4.0"}', "loss is '4.0', not a number"),
        (b'{"step": "3", "loss": 4.0}', "step is '3', not a number"),
        (b'{"step": 3, "eval_gap": [1]}', "eval_gap is .1., not a number"),
        (b'{"step": null}', "step is None"),
        (b'{"step": NaN}', "NaN"),
        (b'{"step": Infinity}', "infinity"),
        (b'{"step": 1, "loss": ' + b"1" * 400 + b"}", "too large"),
        (b'"step"', "a str"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_text_for_numbers_is_named(run, line, reason, last):
    after = b"" if last else b'\n{"step": 9}\n'
    (run / "metrics.jsonl").write_bytes(b'{"step": 0, "loss": null}\n' + line + after)
    with pytest.raises(UserError, match=rf"metrics\.jsonl:2: .*{reason}"):
        open_run(run)


def test_a_trainers_state_with_text_for_numbers(run):
    (run / "metrics.jsonl").unlink()
    for history in ([{"step": 1, "loss": "x"}], [1], None):
        (run / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        with pytest.raises(UserError, match=r"trainer_state\.json: not a trainer's state"):
            open_run(run)


@pytest.mark.parametrize("name", ["metrics.jsonl", "trainer_state.json", "config.json"])
def test_bytes_that_are_no_text_are_named(run, name):
    (run / "metrics.jsonl").rename(run / "trainer_state.json")
    (run / name).write_bytes(b'{"step": 1}\n{"step": 2, "loss": "\xff"}\n')
    with pytest.raises(UserError, match=rf"{name}: not UTF-8 text .byte 33, line 2"):
        open_run(run)
