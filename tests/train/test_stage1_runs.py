"""Whole runs of stage 1 in this process: what is trained, what is written, what SEA changes."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llava_sea.model.projector_io import read_projector
from llava_sea.train import evaluation, metrics, precision, stage1
from tests.worlds import files_of, read_metrics


def weights(output_dir):
    return read_projector(output_dir / "mm_projector.bin")


def same(one, other, atol=0.0, rtol=0.0):
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=atol, rtol=rtol)


def mean_row_length(tiny):
    """The mean length of the embedding rows of the words' tokens, each token once."""
    tokenizer = AutoTokenizer.from_pretrained(tiny.llm)
    ids = {t for w in tiny.word_list for t in tokenizer.encode(w, add_special_tokens=False)}
    table = AutoModelForCausalLM.from_pretrained(tiny.llm).get_input_embeddings().weight
    return table[sorted(ids)].norm(dim=-1).mean().item()


def test_what_a_run_leaves(train_here, tiny):
    output_dir = train_here("run", dataloader_num_workers=2, sea_eval_steps=3)
    projector = torch.load(output_dir / "mm_projector.bin", weights_only=True)
    assert sorted(projector) == [
        f"model.mm_projector.{n}.{kind}" for n in (0, 2) for kind in ("bias", "weight")
    ]
    config = json.loads((output_dir / "config.json").read_text())
    assert config["mm_vision_tower"] == str(tiny.clip)
    assert config["mm_projector_type"] == "mlp2x_gelu" and config["hidden_size"] == 32
    assert (output_dir / "trainer_state.json").exists()
    rows = read_metrics(output_dir)
    logged = {"loss", "lm_loss", "sea_loss", "sea_weight", "temperature", "sea_pairs"}
    for step in range(1, 7):
        row = rows[step]
        assert logged | {"sea_unique_labels", "learning_rate", "grad_norm"} <= set(row)
        assert row["loss"] == pytest.approx(row["lm_loss"] + row["sea_loss"], rel=1e-5)
        assert row["sea_pairs"] == row["sea_unique_labels"]  # one process: one patch a label
    for step in (0, 3, 6):
        assert {"eval_lm_loss", "eval_tacs", "eval_gap", "eval_gap_unit"} <= set(rows[step])
        assert rows[step]["eval_visual_length"] != rows[0]["eval_visual_length"] or not step
        assert 0 < rows[step]["eval_gap_unit"] < 2
    lengths = [rows[step]["eval_embedding_length"] for step in (0, 3, 6)]
    assert lengths == pytest.approx([mean_row_length(tiny)] * 3, rel=1e-5)
    checkpoint = output_dir / "checkpoint-6"
    trainable = 32 * 32 * 2 + 32 * 2 + 1
    size = sum(p.stat().st_size for p in checkpoint.rglob("*") if p.is_file())
    assert size < 22 * trainable + 100_000  # nothing frozen: the LLM alone has 128,640 bytes
    assert {path.name for path in checkpoint.glob("*.safetensors")} <= {
        "alignment_head.safetensors"
    }


def test_only_projector_and_temperature_move(train_here, watched):
    train_here("run", max_steps=2)
    linear = "llava.model.multi_modal_projector.linear_"
    names = {f"{linear}{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
    assert watched.moved() == names | {"head.log_scale_delta"}


# L_g and L_a of six steps
TRACE = [
    [5.90825, 2.57563],
    [5.89383, 2.71644],
    [5.88468, 2.71129],
    [5.89, 2.62156],
    [5.9086, 2.30417],
    [5.94346, 2.54029],
]


def test_weight_zero_is_bit_identical_to_plain_llava(train_here):
    plain = train_here("plain", sea_labels=None)
    off = train_here("off", sea_weight=0)
    assert (plain / "mm_projector.bin").read_bytes() == (off / "mm_projector.bin").read_bytes()
    assert not (off / "alignment_head.safetensors").exists()
    assert read_metrics(plain) == read_metrics(off)


def test_the_committed_trace_is_reproduced(train_here):
    """A refactor must not move these numbers (made by this test on torch 2.13, CPU)."""
    rows = read_metrics(train_here("run", save_strategy="no", sea_eval_data=None))
    found = [[rows[n]["lm_loss"], rows[n]["sea_loss"]] for n in range(1, 7)]
    assert found == [pytest.approx(row, rel=1e-4) for row in TRACE]


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_lambda_to_zero_tends_to_plain_llava(train_here, clip):
    shared = {"max_steps": 8, "max_grad_norm": clip, "save_strategy": "no"}
    plain = weights(train_here("plain", sea_labels=None, **shared))
    faint = weights(train_here("faint", sea_weight=1e-12, **shared))
    strong = weights(train_here("strong", **shared))
    same(plain, faint, atol=1e-6)
    assert max((strong[n] - plain[n]).abs().max() for n in plain) > 1e-3


def test_accumulated_micro_batches_see_the_same_language_loss(train_here):
    whole = train_here("whole", per_device_train_batch_size=8, sea_labels=None)
    parts = train_here(
        "parts", per_device_train_batch_size=2, gradient_accumulation_steps=4, sea_labels=None
    )
    for step in range(1, 7):
        row, other = read_metrics(whole)[step], read_metrics(parts)[step]
        assert row["lm_loss"] == pytest.approx(other["lm_loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("negatives", ["local", "global"])
def test_siglip_towers_train_too(train_here, tiny, tiny_siglip_labels, negatives):
    output_dir = train_here(
        "siglip",
        vision_tower=tiny.siglip,
        sea_labels=tiny_siglip_labels,
        sea_negatives=negatives,
        sea_weight_schedule="decay",
        gradient_checkpointing=True,
        max_steps=4,
    )
    rows = read_metrics(output_dir)
    assert [rows[n]["sea_weight"] for n in range(1, 5)] == [1.0, 0.5, 0.0, 0.0]
    assert rows[4]["lm_loss"] < rows[1]["lm_loss"]


def test_the_projector_can_have_its_own_rate(train_here):
    shared = {"max_steps": 3, "save_strategy": "no", "sea_eval_data": None}
    plain = weights(train_here("plain", sea_labels=None, **shared))
    slow = {"mm_projector_lr": 1e-2, "learning_rate": 1e-5} | shared
    own = weights(train_here("own", sea_labels=None, **slow))
    same(plain, own)
    # the temperature keeps --learning_rate
    assert read_metrics(train_here("sea", **shared))[3]["temperature"] > 1.01
    slow_sea = read_metrics(train_here("slow", **slow))
    assert slow_sea[3]["temperature"] == pytest.approx(1.0, abs=1e-4)


def test_gradient_checkpointing_changes_nothing(train_here):
    plain = weights(train_here("plain", max_steps=3))
    saved = weights(train_here("saved", max_steps=3, gradient_checkpointing=True))
    same(plain, saved, 1e-6, 1e-5)


def test_bfloat16_on_the_cpu(train_here):
    output_dir = train_here("bf16", bf16=True, use_cpu=True)
    # without DeepSpeed what is trained stays in float32, the rest is bfloat16
    assert next(iter(weights(output_dir).values())).dtype == torch.float32
    rows, exact = read_metrics(output_dir), read_metrics(train_here("fp32"))
    for step in range(1, 7):
        for name in ("lm_loss", "sea_loss", "temperature"):
            assert rows[step][name] == pytest.approx(exact[step][name], rel=0.01)


def test_starts_from_a_given_projector(train_here):
    first = train_here("first", max_steps=2)
    again = train_here("again", max_steps=2, pretrain_mm_mlp_adapter=first / "mm_projector.bin")
    assert read_metrics(again)[0]["eval_lm_loss"] == pytest.approx(
        read_metrics(first)[2]["eval_lm_loss"], rel=1e-5
    )


def test_the_time_left_starts_after_the_first_measuring(train_here, monkeypatch):
    events = []

    class Bar(metrics.Progress):
        def __init__(self, *args, **options):
            events.append("bar")
            super().__init__(*args, **options)

    def measure(*_):
        events.append("measured")
        return {"eval_gap": 1.0}

    monkeypatch.setattr(evaluation.AlignmentEvaluator, "measure", measure)
    monkeypatch.setattr(metrics, "Progress", Bar)
    train_here("run", max_steps=2, save_strategy="no")
    assert events[:2] == ["measured", "bar"]


def test_a_finished_run_is_left_as_it_is_or_put_right(train_here, capsys):
    output_dir = train_here("run", max_steps=3, save_steps=2)
    before = files_of(output_dir)
    train_here("run", max_steps=3, save_steps=2)
    assert files_of(output_dir) == before
    # a run that was ended right after its last checkpoint gets its results now
    (output_dir / "mm_projector.bin").unlink()
    train_here("run", max_steps=3, save_steps=2)
    assert (output_dir / "mm_projector.bin").read_bytes() == before[output_dir / "mm_projector.bin"]
    # results that were damaged since, and what killed runs left
    for name in ("mm_projector.bin", "alignment_head.safetensors", "config.json"):
        data = before[output_dir / name]
        (output_dir / name).write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    (output_dir / "trainer_state.json").write_bytes(b'{"epoch": 0.')
    for name in (".config.json.4711.tmp", "checkpoint-9/optimizer.pt", ".saving-4/former/x"):
        (output_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (output_dir / name).touch()
    capsys.readouterr()
    train_here("run", max_steps=3, save_steps=2)
    said = capsys.readouterr().out
    state = output_dir / "trainer_state.json"
    assert json.loads(state.read_bytes())["global_step"] == 3
    assert files_of(output_dir) | {state: b""} == before | {state: b""}
    for name in ("mm_projector.bin", "alignment_head.safetensors", "config.json", state.name):
        assert f"{output_dir / name} is not as the run left it" in said
    assert "checkpoint-9 was cut off" in said


def test_labels_fit_a_float16_run(train_here, monkeypatch):
    # float16 kernels are missing on some CPUs: build the model, check the labels, go no further
    seen = []
    for place in (precision, stage1):
        monkeypatch.setattr(place, "weights_dtype", lambda args: torch.float16)
    monkeypatch.setattr(stage1, "build_measurements", lambda *a: seen.append(a) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_here("run")
    assert seen


def test_the_temperature_moves_under_bfloat16(train_here):
    output_dir = train_here("run", bf16=True, use_cpu=True, sea_log_scale_init=2.659)
    rows = read_metrics(output_dir)
    taus = [rows[n]["temperature"] for n in range(1, 7)]
    assert len(set(taus)) == 6


def test_the_length_loss_trains_and_counts(train_here):
    shared = {"max_steps": 1, "save_strategy": "no", "sea_eval_data": None}
    runs = [
        read_metrics(train_here(name, sea_negatives="global", **shared, **flags))[1]
        for name, flags in (("paper", {}), ("length", {"sea_length_weight": 1.0}))
    ]
    assert runs[0]["sea_pairs"] == runs[1]["sea_pairs"]
    assert runs[0]["sea_loss"] + 1e-3 < runs[1]["sea_loss"]
