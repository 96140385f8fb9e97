"""A run of both stages: the package's own data and answers, one order of data for all arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.images import ImageTransform
from llava_sea.eval.generation import Answerer, Decoding
from llava_sea.model.builder import build_llava
from llava_sea.train.arguments import SeaArguments
from playground.benchmarks.perfect import perfect_answers
from playground.claims import run as run_module
from playground.claims.asked import answer_batches
from playground.claims.bench import ClaimsBench
from playground.claims.eight import answers_to, score_answers
from playground.claims.exam import Exam, prepare_exam
from playground.claims.recipe import ClaimsRecipe
from playground.claims.run import claims_run
from playground.claims.tuning import tuning_batches
from playground.study.arms import ARMS
from playground.study.bench import MAX_LENGTH
from playground.study.options import PLAYGROUND
from playground.study.prepare import World, prepare
from playground.study.recipe import Recipe

RECIPE = ClaimsRecipe(
    stage1=Recipe(
        num_train=24,
        batch=8,
        curve_shares=(0.0, 1.0),
        curve_pictures=2,
        curve_per_kind=1,
        final_pictures=2,
        final_per_kind=1,
        eval_batch=4,
    ),
    records=36,
    tuning_steps=4,
    batch=8,
    max_new_tokens=2,
)
CLIP = PLAYGROUND / "models" / "clip"
LLM = PLAYGROUND / "models" / "llm-small"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("claims")


@pytest.fixture(scope="module")
def exam(folder: Path) -> Exam:
    return prepare_exam(folder, CLIP, "test", 0)


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return prepare(folder, CLIP, ["plain", "sea-paper"], "dev", RECIPE.stage1)


@pytest.fixture(scope="module")
def bench(world: World, exam: Exam) -> ClaimsBench:
    return ClaimsBench(world, [exam], LLM, RECIPE, "float32")


def test_perfect_answers_score_100_and_are_not_cut(exam: Exam, bench: ClaimsBench) -> None:
    given, longest = {}, 0
    for task in exam.tasks():
        rows = perfect_answers(exam.folder / Path(task.questions).parts[0])
        known = {(str(r["question_id"]), _plain(r["prompt"])): r["text"] for r in rows}
        questions = bench.eights[0].asked[task]
        texts = [known[str(q.question_id), _plain(q.prompt)] for q in questions]
        given[task] = answers_to(questions, texts)
        longest = max(longest, *(len(_ids(bench, text)) for text in texts))
    assert set(score_answers(exam, given).values()) == {100.0} and len(given) == 8
    assert longest + 1 <= ClaimsRecipe().max_new_tokens, "the end is a token, too"
    empty = {t: [dataclasses.replace(a, text="") for a in answers] for t, answers in given.items()}
    assert max(score_answers(exam, empty).values()) < 100.0


def _plain(prompt: str) -> str:
    return prompt.removeprefix("<image>\n").partition("\nAnswer with the option")[0]


def _ids(bench: ClaimsBench, text: str) -> list[int]:
    found: list[int] = bench.stage1.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def test_answers_are_those_of_the_package(exam: Exam, bench: ClaimsBench) -> None:
    llava = build_llava(str(LLM), str(CLIP), seed=7)
    task = next(task for task in exam.tasks() if task.benchmark == "mmvet")
    answerer = Answerer(
        llava.eval(),  # type: ignore[arg-type]
        bench.stage1.tokenizer,
        ImageTransform.from_pretrained(str(CLIP), "square"),
        bench.template,
        exam.folder / str(task.images),
        Decoding(6),
        batch_size=5,
    )
    questions = bench.eights[0].asked[task][:8]
    theirs = {q.key: text for batch in answerer.answers(questions) for q, text in batch}
    model = bench.fresh(llava.model.multi_modal_projector).eval()
    batches = bench.eights[0].batches[task]
    ours = answer_batches(model.llava, batches, bench.stage1.tokenizer, bench.eights[0].stop, 6)
    assert [theirs[q.key] for q in questions] == ours[: len(questions)]
    assert len(set(ours)) > 1


def test_records_are_tokenised_as_the_package_does(world: World, bench: ClaimsBench) -> None:
    theirs = LazySupervisedDataset(
        bench.data.records,
        str(world.images),
        ImageTransform.from_pretrained(str(CLIP), "square"),
        bench.template,
        bench.stage1.tokenizer,
        image_tokens=bench.stage1.image_tokens,
        model_max_length=MAX_LENGTH,
    )
    for index, record in enumerate(bench.data.records):
        ours, expected = bench.data[index, 0], theirs[index]
        assert ours.keys() == expected.keys()
        for name in ("input_ids", "labels", "image_mask"):
            assert torch.equal(ours[name], expected[name])
        if record.images:
            assert len(ours["pixel_values"]) == len(expected["pixel_values"])
    assert {bool(record.images) for record in bench.data.records} == {True, False}


def test_arms_of_a_seed_see_the_same_data(
    bench: ClaimsBench, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Tensor]] = []
    real = run_module.tuning_steps

    def spied(model: Any, batches: Iterator[dict[str, Tensor]], *rest: Any) -> Iterator[float]:
        kept: list[Tensor] = []
        seen.append(kept)

        def spy() -> Iterator[dict[str, Tensor]]:
            for batch in batches:
                kept.append(batch["input_ids"])
                yield batch

        return real(model, spy(), *rest)

    monkeypatch.setattr(run_module, "tuning_steps", spied)
    one = {
        task: asked for task, asked in bench.eights[0].asked.items() if task.benchmark == "vizwiz"
    }
    monkeypatch.setattr(bench.eights[0], "asked", one)  # all eight are asked by the command's test
    labels = str(world.labels(ARMS["sea-paper"]))
    plain = claims_run(bench, SeaArguments(), 2, 1)
    sea = claims_run(bench, ARMS["sea-paper"].arguments(labels), 2, 1)
    again = claims_run(bench, SeaArguments(), 2, 1)
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert len(seen[0]) == RECIPE.tuning_steps
    other = next(tuning_batches(bench.data, bench.collate, RECIPE, seed=2))["input_ids"]
    assert other.shape != seen[0][0].shape or not torch.equal(other, seen[0][0])
    for result in (plain, again):
        del result["cpu_seconds"]
    assert plain == again, "nothing of one run is left in the next"
    assert plain["tuning_loss"] != sea["tuning_loss"]
    assert plain["language"]["before"] == sea["language"]["before"]
    assert plain["language"]["before"]["document"] > 80
    assert list(plain["scores"]) == ["vizwiz"]

    none = claims_run(bench, SeaArguments(), 0, 1)
    assert [point["step"] for point in none["stage1"]["curve"]] == [0]
    start = plain["stage1"]["curve"][0]
    assert none["stage1"]["final"]["gap"] == pytest.approx(start["gap"], rel=0.02)
