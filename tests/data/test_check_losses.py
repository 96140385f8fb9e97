"""Each record's loss equals stock Llava's own on that record alone, whatever batch it is in."""

import json

import pytest
import torch

from llava_sea.check.__main__ import main
from llava_sea.check.losses import all_losses, like_lengths, record_losses
from llava_sea.conversation import get_template
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset
from llava_sea.data.images import ImageTransform
from llava_sea.data.records import load_records
from llava_sea.errors import UserError
from llava_sea.model.builder import build_llava, load_tokenizer
from llava_sea.model.projector_io import projector_state, save_projector
from llava_sea.model.stage1 import Stage1Model
from tests.worlds import parsed

IMAGE_ID = 359  # a row of the tiny table that no piece of the tokenizer uses
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stage1(tiny):
    llava = build_llava(str(tiny.llm), str(tiny.clip), seed=5)
    llava.config.image_token_index = IMAGE_ID  # for the stock forward pass alone
    return Stage1Model(llava).eval()


TALKS = [
    parsed("<image>\nwhat?", "a red ball", "where?", "beside a box", image="000.jpg", index=0),
    parsed("what is a kite?", "a thing", index=1),
    parsed("what is it?\n<image>", "a blue house", image="001.png", index=2),
    parsed("<image>", "red", image="002.jpg", index=3),
    parsed("say red", "red red red red", "again", "red", "more", "a tree a tree", index=4),
]


def make_dataset(tiny, version, aspect):
    tokenizer = load_tokenizer(str(tiny.llm), model_max_length=250)
    records = load_records(tiny.data)[:9] if version == "plain" else TALKS
    transform = ImageTransform.from_pretrained(str(tiny.clip), aspect)
    dataset = LazySupervisedDataset(
        records,
        str(tiny.images),
        transform,
        get_template(version),
        tokenizer,
        image_tokens=16,
        model_max_length=250,
    )
    return dataset, Collator.of(dataset, 360)


def stock_loss(llava, sample):
    """The stock model's own forward pass on one record: the mean over its supervised tokens."""
    ids = torch.where(sample["image_mask"], IMAGE_ID, sample["input_ids"])
    pixels = {"pixel_values": sample["pixel_values"]} if "pixel_values" in sample else {}
    with torch.no_grad():
        return float(llava(input_ids=ids[None], labels=sample["labels"][None], **pixels).loss)


@pytest.mark.parametrize(("version", "aspect"), [("plain", "square"), ("v1", "pad")])
def test_equal_stock_llava_singly_and_in_batches(tiny, stage1, version, aspect):
    dataset, collator = make_dataset(tiny, version, aspect)
    samples = [dataset[n] for n in range(len(dataset))]
    assert IMAGE_ID not in {int(i) for sample in samples for i in sample["input_ids"]}
    expected = [stock_loss(stage1.llava, sample) for sample in samples]
    assert len({round(loss, 3) for loss in expected}) > 3
    lengths = [len(sample["input_ids"]) for sample in samples]
    for batch_size in (1, 2, 4):
        found = list(
            all_losses(stage1, dataset, collator, lengths, batch_size=batch_size, device=CPU)
        )
        assert [row.loss for row in found] == pytest.approx(expected, abs=1e-5)
        for row, sample in zip(found, samples, strict=True):
            assert row.supervised_ids == [i for i in sample["labels"].tolist() if i != -100]


def test_their_sum_is_what_training_sees(tiny, stage1):
    dataset, collator = make_dataset(tiny, "v1", "pad")
    batch = collator([dataset[n] for n in range(len(dataset))])
    with torch.no_grad():
        whole = stage1(**batch)
        rows = record_losses(stage1, batch)
    assert sum(len(row.supervised_ids) for row in rows) == int(whole.num_tokens)
    total = sum(row.loss * len(row.supervised_ids) for row in rows)
    assert total == pytest.approx(float(whole.lm_loss_sum), abs=1e-4)


def test_batches_of_like_length_hold_every_record_once():
    lengths = [(7 * n) % 31 for n in range(150)]
    blocks = list(like_lengths(lengths, 2))
    for number, block in enumerate(blocks):
        indices = [index for batch in block for index in batch]
        assert sorted(indices) == list(range(number * 128, min(number * 128 + 128, 150)))
        assert [lengths[i] for i in indices] == sorted(lengths[i] for i in indices)


def test_the_command(tiny, tmp_path, capsys):
    """The projector given counts; records in order; an older file is replaced."""
    other = Stage1Model(build_llava(str(tiny.llm), str(tiny.clip), seed=9))
    save_projector(tmp_path / "mm_projector.bin", projector_state(other.projector))
    out = tmp_path / "losses.jsonl"
    out.write_text('{"id": "0", "supervised_ids": []}')
    flags = ["--model_name_or_path", str(tiny.llm), "--vision_tower", str(tiny.clip)]
    flags += ["--data_path", str(tiny.data), "--image_folder", str(tiny.images)]
    flags += ["--pretrain_mm_mlp_adapter", str(tmp_path / "mm_projector.bin")]
    assert main([*flags, "--losses", str(out), "--output_dir", str(tmp_path / "run")]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    records = load_records(tiny.data)
    assert [(row["index"], row["id"]) for row in rows] == [(r.index, r.id) for r in records]
    dataset, collator = make_dataset(tiny, "plain", "square")
    for row in rows[:3]:
        batch = collator([dataset[row["index"]]])
        (expected,) = record_losses(other.eval(), batch)
        assert row["loss"] == pytest.approx(expected.loss, abs=1e-5)
        assert row["supervised_ids"] == expected.supervised_ids
        assert row["num_tokens"] == len(expected.supervised_ids)
    with pytest.raises(UserError, match=r"--losses .*words\.tsv: holds something else"):
        main([*flags, "--losses", str(tiny.words)])
    assert not list(tmp_path.glob("*.tmp")) and not (tmp_path / "run").exists()
    assert "no problems" in capsys.readouterr().out


def test_losses_that_are_not_finite_are_problems(tiny, tmp_path, capsys):
    llava = build_llava(str(tiny.llm), str(tiny.clip))
    state = projector_state(llava.model.multi_modal_projector)
    save_projector(tmp_path / "bad.bin", {k: v * 1e38 for k, v in state.items()})
    flags = ["--model_name_or_path", str(tiny.llm), "--vision_tower", str(tiny.clip)]
    flags += ["--data_path", str(tiny.heldout), "--image_folder", str(tiny.images)]
    flags += ["--pretrain_mm_mlp_adapter", str(tmp_path / "bad.bin")]
    assert main([*flags, "--losses", str(tmp_path / "out.jsonl")]) == 1
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == [None] * 5
    assert "record 4 (id 'rec-4'): loss not finite: it is nan" in capsys.readouterr().out
