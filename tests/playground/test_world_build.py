"""Building a model: it arrives whole with its card, or the former one stays."""

import functools
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, LlamaForCausalLM

from playground import build as build_module
from playground.build import RECIPES, Recipe, build
from playground.evaluate import MODELS, Result
from playground.train_clip import Lesson, train_clip
from playground.train_llm import train_llm
from playground.training import Schedule

TINY = Schedule(steps=2, learning_rate=1e-3)
TINY_TRAINERS = {
    "clip": functools.partial(
        train_clip, lessons=(Lesson(TINY, 0.5, 0.0, 0.2, 16, 0.2),) * 2, batch=8
    ),
    "llm-small": functools.partial(train_llm, "llm-small", schedule=TINY, batch=8),
}


def copy_tokenizer(folder: Path, seed: int) -> None:
    """Take the shipped one: training one takes seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (MODELS / "llm-small").glob("tokenizer*"):
        shutil.copy(path, folder)


@pytest.fixture
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setattr(build_module, "STATE_FOLDER", folder)
    monkeypatch.setattr("playground.train_llm.train_tokenizer", copy_tokenizer)
    monkeypatch.setattr("playground.train_clip.sample_captions", lambda _, seed: ["a red ball"])
    for name, trainer in TINY_TRAINERS.items():
        recipe = Recipe(
            functools.partial(trainer, state_folder=folder),
            lambda _: [Result("a measure", 0.5, 0.9)],
            RECIPES[name].title,
            RECIPES[name].about,
        )
        monkeypatch.setitem(RECIPES, name, recipe)
    monkeypatch.setattr(build_module, "write_samples", lambda _: [("true", "written")])
    return folder


@pytest.mark.parametrize(
    ("name", "model_class"), [("clip", CLIPModel), ("llm-small", LlamaForCausalLM)]
)
def test_build_makes_a_loadable_folder_with_a_card(
    name: str, model_class: type, state_folder: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    build(name, models=models)
    loader: object = model_class
    loader.from_pretrained(models / name, local_files_only=True)  # type: ignore[attr-defined]
    assert AutoTokenizer.from_pretrained(models / name, local_files_only=True)("a red ball")
    card = (models / name / "README.md").read_text("utf-8")
    assert "0.500  >= 0.90 MISSED" in card and f"--only {name}" in card
    assert "Bars that are missed: a measure." in card
    assert [path.name for path in models.iterdir()] == [name]
    assert not list(state_folder.iterdir())


def test_interrupted_build_keeps_the_former_model_and_resumes_to_the_same_weights(
    state_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("llm-small", models=tmp_path / "unbroken")
    models = tmp_path / "models"
    (models / "llm-small").mkdir(parents=True)
    (models / "llm-small" / "former").write_text("here")
    real = build_module.write_card

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(build_module, "write_card", fail)
    with pytest.raises(OSError, match="disk full"):
        build("llm-small", models=models)
    assert (models / "llm-small" / "former").read_text() == "here"
    monkeypatch.setattr(build_module, "write_card", real)
    build("llm-small", models=models, resume=True)
    one, other = (
        LlamaForCausalLM.from_pretrained(folder / "llm-small").state_dict()
        for folder in (models, tmp_path / "unbroken")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not (models / "llm-small" / "former").exists()
