"""A run of the study is the package's own stage 1: same batches, same losses; labels; answers."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llava_sea.alignment import LabelStore, sample_pairs
from llava_sea.labels.extract import extract_labels
from llava_sea.labels.occurrence import Truth
from llava_sea.labels.options import ExtractOptions
from playground.questions import QUESTION_KINDS
from playground.scene import sample_scene
from playground.study.answers import is_right
from playground.study.arms import ARMS
from playground.study.bench import Bench
from playground.study.heldout import truth_of
from playground.study.options import ARM_NAMES, PLAYGROUND
from playground.study.prepare import World, prepare
from playground.study.recipe import Recipe
from playground.study.run import draw_batches, make_model, train_run, train_steps
from playground.study.true_labels import label_precision, true_ids, write_true_labels
from playground.truth import patch_words

RECIPE = Recipe(
    num_train=24,
    batch=8,
    learning_rate=3e-2,  # so that five steps leave their mark
    curve_shares=(0.0, 0.5, 1.0),
    curve_pictures=3,
    curve_per_kind=1,
    final_pictures=5,
    final_per_kind=2,
    eval_batch=4,
)
CLIP = PLAYGROUND / "models" / "clip"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return prepare(tmp_path_factory.mktemp("study"), CLIP, ["plain", "sea-paper"], "dev", RECIPE)


@pytest.fixture(scope="module")
def bench(world: World, tiny: SimpleNamespace) -> Bench:
    return Bench(world, tiny.llm, RECIPE, "float32")


@pytest.fixture(scope="module")
def plus_store(world: World) -> LabelStore:
    """Labels with the plain sign, without measuring it: 24 pictures are too few for that."""
    folder = world.folder / "labels-plus"
    extract_labels(
        ExtractOptions(
            data_path=str(world.data),
            image_folder=str(world.images),
            vision_tower=str(CLIP),
            words=str(world.words),
            output_dir=str(folder),
            sea_preset="paper",
            sea_sign="+1",
            device="cpu",
        )
    )
    return LabelStore(folder)


def _trainer_losses(
    world: World, llm: Path, labels: Path | None, steps: int, output: Path
) -> list[tuple[float, ...]]:
    """Each step's losses as ``train_mem.py`` logs them: real tower, real pictures, HF's Trainer."""
    import transformers

    from llava_sea.data.images import ImageTransform
    from llava_sea.data.records import load_records
    from llava_sea.train.parse import parse_args
    from llava_sea.train.saving import Stage1Saver, llava_config
    from llava_sea.train.stage1 import build_data, build_model
    from llava_sea.train.trainer import LLaVATrainer

    flags = {
        "model_name_or_path": llm,
        "vision_tower": CLIP,
        "version": "plain",
        "tune_mm_mlp_adapter": True,
        "data_path": world.data,
        "image_folder": world.images,
        "output_dir": output,
        "per_device_train_batch_size": RECIPE.batch,
        "learning_rate": RECIPE.learning_rate,
        "warmup_ratio": RECIPE.warmup_ratio,
        "lr_scheduler_type": "cosine",
        "max_steps": steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 3,
        "use_cpu": True,
        "disable_tqdm": True,
    } | ({"sea_labels": labels} if labels else {})
    arguments = parse_args(
        [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    )
    args = arguments.training
    transformers.set_seed(args.seed)
    records = load_records(arguments.data.data_path)
    transform = ImageTransform.from_pretrained(str(CLIP), "square")
    model = build_model(arguments)
    dataset, collator = build_data(records, transform, model, arguments)
    trainer = LLaVATrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        data_collator=collator,
        sea=arguments.sea,
        saver=Stage1Saver(llava_config(model.llava, arguments)),
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "lm_loss" in row]
    return [tuple(row[k] for k in ("lm_loss", "sea_loss") if k in row) for row in rows]


@pytest.mark.parametrize("with_labels", [False, True])
def test_a_run_has_the_losses_of_the_real_trainer(
    with_labels: bool,
    world: World,
    bench: Bench,
    plus_store: LabelStore,
    tiny: SimpleNamespace,
    tmp_path: Path,
) -> None:
    labels = plus_store.directory if with_labels else None
    steps = 5  # three fill the epoch: the second one begins
    expected = _trainer_losses(world, tiny.llm, labels, steps, tmp_path)
    sea = ARMS["sea-paper" if with_labels else "plain"].arguments(str(labels) if labels else None)

    def lean_losses(recipe: Recipe) -> list[tuple[float, ...]]:
        model = make_model(bench, sea, seed=3)
        dataset, collator = bench.training_data(sea, seed=3)
        batches = draw_batches(dataset, collator, recipe, seed=3)
        return list(train_steps(model, sea, batches, steps, recipe))

    found = lean_losses(RECIPE)
    assert len(expected[0]) == 1 + with_labels
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    still = lean_losses(dataclasses.replace(RECIPE, learning_rate=0.0))
    assert abs(still[-1][0] - found[-1][0]) > 1e-2, "too little was learned to tell paths apart"


def test_arms_of_a_seed_start_alike_and_see_the_same_data(bench: Bench, world: World) -> None:
    plain, paper = ARMS["plain"], ARMS["sea-paper"]
    batches = []
    for arm, seed in ((plain, 1), (paper, 1), (plain, 2)):
        labels = world.labels(arm)
        sea = arm.arguments(str(labels) if labels else None)
        model = make_model(bench, sea, seed)
        dataset, collator = bench.training_data(sea, seed)
        first = next(draw_batches(dataset, collator, RECIPE, seed))
        batches.append((first, model.stage1.projector.linear_1.weight.detach().clone()))  # type: ignore[union-attr,operator]
    (one, start), (other, same), (another, different) = batches
    assert torch.equal(one["pixel_values"], other["pixel_values"]) and torch.equal(start, same)
    assert "sea" not in one and bool(other["sea"]["weight_NK"].any())
    assert not torch.equal(one["pixel_values"], another["pixel_values"])
    assert not torch.equal(start, different)


def test_a_run_measures_its_curve_and_its_end(bench: Bench, world: World) -> None:
    sea = ARMS["sea-paper"].arguments(str(world.labels(ARMS["sea-paper"])))
    found = train_run(bench, sea, steps=4, seed=0)
    assert [point["step"] for point in found["curve"]] == [0, 2, 4]
    assert len(found["losses"]) == 4 and found["temperature"] != 1.0
    assert list(found["final_answers"]) == list(QUESTION_KINDS)
    assert 0 <= found["final"]["answers"] <= 1 and found["final"]["caption_loss"] > 0
    assert found["curve"][0]["caption_loss"] != found["curve"][2]["caption_loss"]
    json.dumps(found, allow_nan=False)
    again = train_run(bench, sea, steps=4, seed=0)
    assert {k: v for k, v in again.items() if k != "cpu_seconds"} == {
        k: v for k, v in found.items() if k != "cpu_seconds"
    }


def test_an_answer_is_right_when_all_its_tokens_are_the_first_choice(bench: Bench) -> None:
    """The naive twin writes two tokens greedily, one forward pass each, without padding."""
    sea = ARMS["plain"].arguments(None)
    stage1 = make_model(bench, sea, 0).stage1
    features_PD = torch.from_numpy(np.array(bench._features_IPD[0]))
    samples = []
    for prompt in ([5, 9, 11], [7]):
        known = [1, *prompt]
        with torch.no_grad():
            visual_PD = stage1.project(features_PD[None])[0]
            for _ in range(2):
                text_LD = stage1.embed(torch.tensor(known))
                embeds = torch.cat([text_LD[:1], visual_PD, text_LD[1:]])[None]
                hidden = stage1.llava.model.language_model(inputs_embeds=embeds).last_hidden_state
                known.append(int(stage1.llava.lm_head(hidden[0, -1]).argmax()))
        right = known[-2:]
        for answer in (right, [right[0], right[1] + 1], [right[0] + 1, right[1]]):
            before = 1 + len(visual_PD) + len(prompt)
            mask = torch.zeros(before + 2, dtype=torch.bool)
            mask[1 : 1 + len(visual_PD)] = True
            samples.append(
                {
                    "input_ids": torch.tensor([1, *[0] * len(visual_PD), *prompt, *answer]),
                    "labels": torch.tensor([-100] * before + answer),
                    "image_mask": mask,
                    "pixel_values": features_PD,
                }
            )
    with torch.no_grad():
        found = is_right(stage1, bench.collator()(samples))
    assert found.tolist() == [True, False, False] * 2


def test_true_labels_are_true_and_mined_ones_are_not_always(
    world: World, plus_store: LabelStore
) -> None:
    truth = Truth(world.truth)
    store = write_true_labels(world.folder / "labels-true", plus_store, truth, top_n=4)
    words = store.words()
    assert words == plus_store.words() and store.images() == plus_store.images()
    num_labels = 0
    for image in store.images():
        labels = store.read(image)
        assert labels.crc32 == plus_store.read(image).crc32
        for patch in range(64):
            true = truth.words(image, patch)
            kept = labels.ids_PN[patch][labels.scores_PN[patch] > 0].tolist()
            in_list = [number for number, word in enumerate(words) if word in true]
            assert kept == in_list[:4]
            num_labels += len(kept)
        sample_pairs(*labels[:2], store.grid, window=2, seed=0, epoch=0, record=0)
    assert num_labels > 1000
    assert label_precision(store, truth, store.images()) == (1.0, 1.0)
    assert label_precision(plus_store, truth, store.images())[0] < 0.9
    before = (store.directory / "manifest.json").stat().st_mtime_ns
    write_true_labels(store.directory, plus_store, truth, top_n=4)
    assert (store.directory / "manifest.json").stat().st_mtime_ns == before
    assert write_true_labels(store.directory, plus_store, truth, top_n=2).top_n == 2


def test_the_most_frequent_true_words_come_first() -> None:
    assert true_ids(["rare", "ball", "red"], {"red": 0, "ball": 1, "x": 2, "rare": 3}, 2) == [0, 1]


def test_truth_of_scenes_is_what_the_evaluator_reads(tmp_path: Path) -> None:
    scenes = [sample_scene(random.Random(seed), "dev") for seed in range(3)]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth_of(["a", "b", "c"], scenes)))
    truth = Truth(path)
    truth.check("b", 64)
    assert truth.words("b", 17) == set(patch_words(scenes[1])[17])


def test_arms_follow_the_presets() -> None:
    assert tuple(ARMS) == ARM_NAMES
    assert ARMS["plain"].labels_folder() is None
    assert not ARMS["plain"].arguments(None).enabled
    assert ARMS["sea-paper"].extraction()["sea_sign"] == "-1"
    measured = ARMS["sea-paper-sign"].extraction()
    assert measured == ARMS["sea-paper"].extraction() | {"sea_sign": "auto"}
    folders = {arm.labels_folder() for arm in ARMS.values()}
    assert len(folders) == len(ARMS)
