"""The ablations' flags reach the loss; the warm start is the alignment loss alone."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_sea.alignment import PatchWords
from llava_sea.labels.extract import extract_labels
from llava_sea.labels.options import ExtractOptions
from llava_sea.train.arguments import SeaArguments
from playground.claims import run as claims_module
from playground.claims import work
from playground.claims.ablations import ABLATIONS, BASELINE
from playground.study.arms import Arm
from playground.study.bench import Bench
from playground.study.options import PLAYGROUND
from playground.study.plan import Planned, Run
from playground.study.prepare import World, prepare
from playground.study.recipe import Recipe
from playground.study.run import draw_batches, make_model, train_run, train_steps, warm_start

RECIPE = Recipe(
    num_train=24,
    batch=8,
    learning_rate=3e-2,  # so that few steps leave their mark
    curve_shares=(0.0, 1.0),
    curve_pictures=2,
    curve_per_kind=1,
    final_pictures=2,
    final_per_kind=1,
    eval_batch=4,
)
CLIP = PLAYGROUND / "models" / "clip"
STEPS = 3
LATER = {"weight-0.25", "weight-0.5", "weight-2", "constant"}
"""Arms whose first batch has the baseline's alignment loss: lambda is a factor of it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A tiny world whose labels have the sign set: 24 pictures are too few to measure it."""
    world = prepare(tmp_path_factory.mktemp("ablations"), CLIP, ["plain"], "dev", RECIPE)
    for arm in ABLATIONS.values():
        folder = world.labels(arm)
        if folder is not None and not folder.exists():
            extract_labels(
                ExtractOptions(
                    data_path=str(world.data),
                    image_folder=str(world.images),
                    vision_tower=str(CLIP),
                    words=str(world.words),
                    output_dir=str(folder),
                    sea_preset="best",
                    device="cpu",
                    **(arm.extraction() | {"sea_sign": "+1"}),
                )
            )
    return world


@pytest.fixture(scope="module")
def bench(world: World, tiny: SimpleNamespace) -> Bench:
    return Bench(world, tiny.llm, RECIPE, "float32")


def _arguments(world: World, arm: Arm) -> SeaArguments:
    labels = world.labels(arm)
    return arm.arguments(str(labels) if labels else None)


@pytest.fixture(scope="module")
def losses(bench: Bench, world: World) -> dict[str, list[tuple[float, ...]]]:
    """Each arm's losses step by step: caption loss and, with SEA, alignment loss."""
    found = {}
    for name, arm in ABLATIONS.items():
        sea = _arguments(world, arm)
        model = warm_start(bench, sea, STEPS, 0) if arm.warm_start else make_model(bench, sea, 0)
        batches = draw_batches(*bench.training_data(sea, 0), RECIPE, 0)
        found[name] = list(train_steps(model, sea, batches, STEPS, RECIPE))
    return found


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != BASELINE])
def test_an_arm_trains_otherwise_than_best(
    name: str, losses: dict[str, list[tuple[float, ...]]]
) -> None:
    ours, best, arm = losses[name], losses[BASELINE], ABLATIONS[name]
    assert len(ours) == STEPS
    assert abs(ours[-1][0] - best[-1][0]) > 1e-5, "what the projector learned is the same"
    if arm.warm_start:
        assert abs(ours[0][0] - best[0][0]) > 1e-3, "the warm start left no mark"
    else:
        assert ours[0][0] == best[0][0], "start and order of the data are the seed's"
    if name in ("plain", "warm-plain"):
        assert {len(parts) for parts in ours} == {1}, "a loss that is not there"
    else:
        assert (ours[0][1] == best[0][1]) == (name in LATER)


def test_labels_of_another_number_are_other_labels(world: World) -> None:
    folders = {name: world.labels(arm) for name, arm in ABLATIONS.items()}
    assert folders["plain"] is None
    own = {name: f for name, f in folders.items() if f not in (None, folders[BASELINE])}
    assert list(own) == ["top-1", "top-5", "top-10"] and len(set(own.values())) == 3


def test_a_batch_has_what_its_flags_need(bench: Bench, world: World) -> None:
    def first(name: str) -> PatchWords:
        sea = _arguments(world, ABLATIONS[name])
        return PatchWords(**next(draw_batches(*bench.training_data(sea, 0), RECIPE, 0))["sea"])

    best, everyone, soft, mask = (first(name) for name in (BASELINE, "all", "soft", "mask"))
    assert best.key_N is not None and everyone.key_N is None
    assert int(everyone.num_pairs(None)) > int(best.num_pairs(None)) == int(mask.num_pairs(None))
    assert everyone.own_NJ is None and soft.weight_NK.shape == (8 * 16, 2)
    assert mask.own_NJ is not None and mask.own_NJ.shape == (8 * 16, 2)
    windows = {name: len(first(name).weight_NK) for name in ("window-1", BASELINE, "window-3")}
    assert windows == {"window-1": 8 * 64, BASELINE: 8 * 16, "window-3": 8 * 9}


def test_the_warm_start_is_the_alignment_loss_alone(
    bench: Bench, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The naive twin: AdamW by hand on L_a, one step of warm-up, then a quarter cosine each."""
    sea = _arguments(world, ABLATIONS["warm-best"])
    model = make_model(bench, sea, 0)
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(trained, weight_decay=0.0)
    batches = draw_batches(*bench.training_data(sea, 0), RECIPE, 0)
    for share, batch in zip((0.0, 1.0, 0.5 * (1 + math.cos(math.pi / 2))), batches, strict=False):
        visual_IPD = model.stage1.project(batch["pixel_values"])
        model.stage1.align(visual_IPD, PatchWords(**batch["sea"]))[0].backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        adam.param_groups[0]["lr"] = 3e-2 * share
        adam.step()
        adam.zero_grad()
    expected = {name: p.detach().clone() for name, p in model.named_parameters() if name in start}

    llm = bench.llava.model.language_model
    monkeypatch.setattr(llm, "forward", lambda *_, **__: pytest.fail("the LLM runs"))
    warm = warm_start(bench, sea, 3, 0)
    found = {name: p for name, p in warm.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys() and any("log_scale" in name for name in found)
    for name, parameter in found.items():
        torch.testing.assert_close(parameter, expected[name])
        assert not torch.equal(parameter, start[name]), f"{name} has not moved"
    plain = warm_start(bench, _arguments(world, ABLATIONS["warm-plain"]), 3, 0)
    assert plain.stage1.head is None
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter, expected[name])


def test_a_run_with_a_warm_start_begins_after_it(bench: Bench, world: World) -> None:
    sea = _arguments(world, ABLATIONS["warm-plain"])
    warm, cold = train_run(bench, sea, 2, 0, 3), train_run(bench, sea, 2, 0)
    plain = train_run(bench, SeaArguments(), 2, 0)
    assert warm["curve"][0]["tacs"] != cold["curve"][0]["tacs"]
    assert warm["temperature"] is None and len(warm["losses"]) == 2
    assert cold["losses"] == plain["losses"] and cold["curve"] == plain["curve"]


def test_a_worker_trains_the_arm_that_is_planned(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[SeaArguments, int]] = []

    def spied(bench: Any, sea: SeaArguments, steps: int, seed: int, num_warm: int) -> Any:
        given.append((sea, num_warm))
        return {"scores": {}}

    monkeypatch.setattr(claims_module, "claims_run", spied)
    monkeypatch.setattr(work, "_bench", lambda *_: None)
    for name in ("soft", "warm-plain", "sea-best"):
        run = Run(tmp_path, 100, name, 0)
        setup: Any = SimpleNamespace(world=world)
        work.execute(setup, Planned(run, {}, tmp_path / name))
    (soft, no), (after, warm), (best, none) = given
    assert soft.pair_options.need_top_n and soft.sea_log_scale_init == 2.659
    assert not after.enabled and after.sea_labels == best.sea_labels
    assert (no, warm, none) == (0, 50, 0)
