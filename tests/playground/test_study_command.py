"""The command: it goes on where it stopped, does changed runs again, and names what is wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_sea.errors import UserError
from playground.study import report as report_module
from playground.study import run as run_module
from playground.study.__main__ import study
from playground.study.command import make_folders
from playground.study.figure import FILES, draw_study
from playground.study.options import PLAYGROUND, Options, parse_options
from playground.study.plan import Planned, all_runs, plan
from playground.study.pool import Setup, run_all
from playground.study.prepare import prepare
from playground.study.recipe import Recipe

RECIPE = Recipe(
    num_train=16,
    batch=8,
    curve_shares=(0.0, 1.0),
    curve_pictures=2,
    curve_per_kind=1,
    final_pictures=2,
    final_per_kind=1,
    eval_batch=4,
)
CLIP = PLAYGROUND / "models" / "clip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study command")


@pytest.fixture
def options(folder: Path, tmp_path: Path, tiny: SimpleNamespace) -> Options:
    return Options(
        llms=(tiny.llm,),
        arms=("plain", "sea-paper"),
        lengths=(2, 3),
        seeds=2,
        clip=CLIP,
        output=folder,
        results=tmp_path / "results",
        split="dev",
        precision="float32",
    )


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes a second; the test of them draws them itself."""
    monkeypatch.setattr(report_module, "draw_study", lambda *_: [])


def test_a_killed_study_goes_on_and_a_changed_one_is_done_again(
    options: Options,
    executed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = run_module.train_steps

    def killed_in_third(*args: object) -> Iterator[tuple[float, ...]]:
        for parts in real(*args):  # type: ignore[arg-type]
            yield parts
            if len(executed) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "train_steps", killed_in_third)
    with pytest.raises(KeyboardInterrupt):
        study(options, RECIPE)
    runs = options.results / "runs"
    assert len(list(runs.iterdir())) == 2, "a run that was cut off leaves nothing"
    monkeypatch.setattr(run_module, "train_steps", real)
    capsys.readouterr()

    # What there is can be reported, and what is missing is named.
    study(dataclasses.replace(options, only_report=True), RECIPE)
    text = (options.results / "study.md").read_text()
    assert "6 of 8 runs are missing" in text and "(n=1)" in text and "missing |" in text

    study(dataclasses.replace(options, only_forecast=True), RECIPE)
    assert "8 runs, 2 are done, 6 left" in capsys.readouterr().out
    assert len(executed) == 3

    study(options, RECIPE)
    assert len(executed) == 3 + 6 and executed[2] == executed[3]
    results = json.loads((options.results / "results.json").read_text())
    assert results["missing"] == [] and len(results["cells"]) == 4
    assert draw_study(results, options.results) == [options.results / name for name in FILES]
    sizes = [path.stat().st_size for path in options.results.iterdir() if path.is_file()]
    assert len(sizes) == len(FILES) + 3 and min(sizes) > 500 and max(sizes) < 300_000
    assert "missing" not in (options.results / "study.md").read_text()

    study(options, RECIPE)
    assert len(executed) == 9, "finished runs are not done again"
    changed = dataclasses.replace(RECIPE, learning_rate=1e-3)
    study(dataclasses.replace(options, seeds=1, lengths=(2,)), changed)
    assert len(executed) == 9 + 2, "another recipe is another study"


def test_workers_do_runs_and_pass_on_what_is_wrong(options: Options, tmp_path: Path) -> None:
    world = prepare(options.output, CLIP, ["plain"], "dev", RECIPE)
    runs = all_runs(options.llms, [1], ["plain"], 1)
    good = plan(runs, world, RECIPE, "float32", tmp_path)[0]
    absent = dataclasses.replace(good.run, llm=tmp_path / "no such llm")
    bad = Planned(absent, good.config, tmp_path / "bad.json")
    ending = run_all(Setup(world, RECIPE, "float32"), [good, bad], workers=1)
    assert next(ending).planned == good and good.result() is not None
    with pytest.raises(UserError, match="no such folder"):
        next(ending)
    assert [path.name for path in tmp_path.iterdir()] == [good.path.name]


def test_nothing_to_report_is_said(options: Options, executed: list[str]) -> None:
    with pytest.raises(UserError, match="nothing to report"):
        study(
            dataclasses.replace(options, only_report=True),
            dataclasses.replace(RECIPE, learning_rate=5e-3),
        )
    assert executed == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arms", "plain", "sea-magic"], "--arms sea-magic: choose from plain, sea-paper"),
        (["--lengths", "40", "0"], "--lengths 0 40: must be at least 1"),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--workers", "0"], "--workers 0"),
        (["--split", "train"], "--split train: choose one of test, dev"),
        (["--precision", "int8"], "--precision int8: choose one of auto"),
        (["--llms", "llm-giant"], "llm-giant: no model there"),
        (["--clip", "nowhere"], "--clip nowhere: no model there"),
    ],
)
def test_wrong_flags_are_named(flags: list[str], message: str, tiny: SimpleNamespace) -> None:
    llms = [] if "--llms" in flags else ["--llms", str(tiny.llm)]
    with pytest.raises(UserError) as error:
        parse_options([*flags, *llms])
    assert message in str(error.value)


def test_an_llm_is_named_once(tiny: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="name each LLM's folder once"):
        parse_options(["--llms", str(tiny.llm), str(tiny.llm)])


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_broken_result_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    run = all_runs([tmp_path], [1], ["plain"], 1)[0]
    with pytest.raises(UserError, match=r"run\.json: is no finished run; remove it"):
        Planned(run, {}, path).result()


def test_a_result_of_another_run_is_named(tmp_path: Path) -> None:
    run = all_runs([tmp_path], [1], ["plain"], 1)[0]
    path = tmp_path / "run.json"
    Planned(run, {"seed": 1}, path).save(dict.fromkeys(Planned.NEEDED, 0))
    assert Planned(run, {"seed": 1}, path).result() is not None
    with pytest.raises(UserError, match=r"run\.json: holds the run .* or one made otherwise"):
        Planned(run, {"seed": 2}, path).result()


def test_folders_are_made_before_the_first_run(tmp_path: Path) -> None:
    make_folders({"--results": tmp_path / "new/results"})
    assert (tmp_path / "new/results").is_dir()
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/below", Path("/proc/nowhere")):
        with pytest.raises(UserError, match=r"--results: .* must be a folder for files"):
            make_folders({"--results": place})
