"""`python -m llava_sea.model.export` and `merge`: what they say and what they write."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from llava_layouts import write_full, write_lora, write_projector_only
from model_world import write

from llava_sea.errors import UserError, run_command
from llava_sea.model import export, export_llm, export_lmms
from llava_sea.model.export import main
from llava_sea.model.load import load_llava


@pytest.fixture(scope="module")
def case(make_case):
    return make_case("clip-pad-v1")


def test_a_projector_becomes_a_model(case, tmp_path, capsys):
    source = write_projector_only(case, tmp_path / "x")
    out = tmp_path / "out"
    flags = ["--model_path", str(source), "--version", "v1", "--dtype", "bfloat16"]
    main([*flags, "--output_dir", str(out)])
    said = capsys.readouterr().out
    assert "a projector with its config.json" in said and "template v1, weights in bfloat16" in said
    assert "chat_template.jinja" in said and "model.safetensors" in said
    loaded = load_llava(str(out))
    assert loaded.model.dtype == torch.bfloat16 and loaded.version == "v1"
    expected = case.model.state_dict()["model.multi_modal_projector.linear_2.weight"]
    found = loaded.model.state_dict()["model.multi_modal_projector.linear_2.weight"]
    assert torch.equal(found, expected.bfloat16())


def test_merge_takes_llavas_flags(case, tmp_path, repo):
    source = write_lora(case, tmp_path / "x", "elsewhere/" + case.llm.name)
    out = tmp_path / "out"
    flags = ["--model-path", str(source), "--model-base", str(case.llm), "--version", "v1"]
    command = [sys.executable, "-m", "llava_sea.model.merge", *flags]
    done = subprocess.run(
        [*command, "--save-model-path", str(out)], capture_output=True, text=True, cwd=repo
    )
    assert done.returncode == 0, done.stderr[-2000:]
    merged = f"merged the LoRA updates of 2 layers into {case.llm}: added in float32, kept in"
    assert merged in done.stdout
    assert "%|" not in done.stderr  # no bars
    layer, (a, b) = next(iter(case.updates.items()))
    name = f"model.language_model.layers.{layer}.weight"
    merged = load_llava(str(out)).model.get_parameter(name)
    torch.testing.assert_close(merged.detach(), case.model.state_dict()[name] + 2 * b @ a)


def test_what_is_recorded_need_not_be_given(case, tmp_path, capsys):
    write(case, tmp_path / "first", dtype=torch.bfloat16)
    flags = ["--model_path", str(tmp_path / "first"), "--max_shard_size", "40KB"]
    main([*flags, "--output_dir", str(tmp_path / "second")])
    assert "a llava-hf checkpoint" in capsys.readouterr().out
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and config["mm_vision_tower"] == case.tower
    assert (tmp_path / "second" / "model.safetensors.index.json").is_file()


def test_a_whole_llava_with_vicunas_generation_settings(case, tmp_path):
    source = write_full(case, tmp_path / "x", form="bin")
    flags = ["--model_path", str(source), "--version", "v1", "--output_dir", str(tmp_path / "out")]
    main(flags)
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [2] and "temperature" not in written
    rope = load_llava(str(tmp_path / "out")).model.config.text_config.rope_parameters
    assert rope == case.model.config.text_config.rope_parameters


def test_errors_name_the_flag(case, tmp_path):
    source = write_full(case, tmp_path / "x", form="safetensors")
    with pytest.raises(UserError, match="give it with --version"):
        main(["--model_path", str(source), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no such conversation template"):
        main(["--model_path", str(source), "--output_dir", "out", "--version", "v9"])
    with pytest.raises(UserError, match="choose another folder"):
        main(["--model_path", str(source), "--output_dir", str(source), "--version", "v1"])


@pytest.mark.parametrize("command", [export, export_llm, export_lmms])
def test_the_same_command_goes_over_its_own_output_and_no_other_does(case, tmp_path, command):
    write(case, tmp_path / "x")
    out = tmp_path / "out"
    flags = ["--model_path", str(tmp_path / "x"), "--output_dir", str(out)]
    command.main(flags)
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    # cut off while the new files took the old ones' place
    for name in ("config.json", "tokenizer_config.json"):
        (out / name).unlink()
    (out / ".saving-4711-x" / "former").mkdir(parents=True)
    command.main(["--model-path", f"{tmp_path}/./x", *flags[2:]])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    other = export if command is not export else export_llm
    for main_, changed in ((command.main, [*flags, "--dtype", "bfloat16"]), (other.main, flags)):
        with pytest.raises(UserError, match="holds other things"):
            main_(changed)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


@pytest.mark.parametrize("command", [export, export_llm, export_lmms])
@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors"])
def test_a_file_that_cannot_be_written_is_one_line(
    case, tmp_path, capsys, file_limit, command, file
):
    write(case, tmp_path / "x")
    out = tmp_path / "out"
    flags = ["--model_path", str(tmp_path / "x"), "--output_dir", str(out)]
    command.main(flags)
    size = (out / file).stat().st_size
    shutil.rmtree(out)
    capsys.readouterr()
    file_limit(size - 1)
    with pytest.raises(SystemExit) as end:
        run_command(lambda: command.main(flags))
    assert end.value.code == 2
    (line,) = [said for said in capsys.readouterr().err.splitlines() if "error" in said]
    assert line.startswith("error: ") and "File too large (a file may have" in line
    assert file != "model.safetensors" or line.startswith(f"error: {out / file}: ")
    assert not [path for path in (out.iterdir() if out.exists() else []) if path.name[0] != "."]
