"""Recipes of today, and labels of another encoder: their flags pass the real argument classes."""

import pytest

from tests.test_recipes import LLAVA_15, SIGLIP, TABLES, TIPSV2, TODAY, commands, start, training


@pytest.mark.parametrize("recipe", TODAY)
def test_recipes_of_today(repo, recipe):
    from llava_sea.labels.options import parse_options

    llm, tower, labels, data, rate = TODAY[recipe]
    gpus = "1" if recipe == "smollm2-360m" else "8"
    _, extract, *_ = commands(repo, "pretrain_sea.sh", RECIPE=recipe, NUM_GPUS=gpus)
    options = parse_options(extract[extract.index("llava_sea.labels.extract") + 1 :])
    one = training(repo, "pretrain_sea.sh", recipe, gpus=gpus)
    two = training(repo, "finetune.sh", recipe, gpus=gpus)
    for run, batch, file in zip((one, two), (256, 128), data, strict=True):
        args = run.args
        sizes = (args.per_device_train_batch_size, args.gradient_accumulation_steps)
        assert int(gpus) * sizes[0] * sizes[1] == batch
        assert (run.model.model_name_or_path, run.model.vision_tower) == (llm, tower)
        assert run.data.data_path[0].endswith(file)
        assert {name: getattr(args, name) for name in LLAVA_15} == LLAVA_15
    assert (one.model.version, two.model.version) == ("plain", "auto")
    assert (one.args.learning_rate, two.args.learning_rate) == (1e-3, rate)
    assert list(options.data_files) == one.data.data_path
    assert (options.vision_tower, options.output_dir) == (labels, one.sea.sea_labels)
    assert one.sea.sea_transfer == (labels != tower)
    assert two.model.pretrain_mm_mlp_adapter == f"{one.args.output_dir}/mm_projector.bin"
    parts = [("zero2.json", one), ("zero2.json" if gpus == "1" else "zero3.json", two)]
    assert all(run.args.deepspeed.endswith(config) for config, run in parts)


def test_the_recipe_of_one_gpu_has_a_word_list_and_labels_of_its_own(repo):
    words, extract = commands(repo, "extract_labels.sh", RECIPE="smollm2-360m")
    assert words[-2:] == ["--min_count", "5"]
    assert words[words.index("--output") + 1].endswith("/words-5-times.tsv")
    assert extract[extract.index("--output_dir") + 1].endswith("/labels-clip-l-336-5-times-best")


@pytest.mark.parametrize("recipe", [*(name for name, row in TABLES.items() if row[2] == SIGLIP)])
def test_labels_of_tipsv2_make_a_run_of_their_own(repo, recipe):
    words = {"RECIPE": recipe, "LABELS_FROM": "tipsv2"}
    _, extract, train, *_ = commands(repo, "pretrain_sea.sh", **words)
    assert extract[extract.index("--vision_tower") + 1] == TIPSV2
    labels = extract[extract.index("--output_dir") + 1]
    assert labels.endswith("/labels-tipsv2-l-448-best") and labels in train
    assert train[train.index("--sea_transfer") + 1] == "True"
    assert train[train.index("--vision_tower") + 1] == SIGLIP
    own = training(repo, "pretrain_sea.sh", recipe).args.output_dir
    output = train[train.index("--output_dir") + 1]
    assert output == own.replace("-pretrain-sea", "-labels-tipsv2-pretrain-sea") != own
    second = commands(repo, "finetune.sh", **words)[0]
    assert f"{output}/mm_projector.bin" in second


def test_finevisions_files_get_names_of_their_own(repo, tmp_path):
    for name in ("scripts", "zero_configs", "llava_sea"):
        (tmp_path / name).symlink_to(repo / name)
    for name in ("vqav2/train-00000-of-00001", "chartqa/train-00000-of-00001"):
        path = tmp_path / "playground/data/FineVision" / f"{name}.parquet"
        path.parent.mkdir(parents=True)
        path.write_text(name)
    assert start(tmp_path, "finetune.sh", RECIPE="qwen3-4b", DRY_RUN="").returncode == 2
    for name in ("vqav2", "chartqa"):
        link = tmp_path / f"playground/data/FineVision/mix/{name}-train-00000-of-00001.parquet"
        assert link.read_text() == f"{name}/train-00000-of-00001"
    assert str(link) in commands(tmp_path, "finetune.sh", RECIPE="qwen3-4b")[0]
