"""scripts/fit_tower.py: the same model at the new size, and CLIP's view of an image."""

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_sea.data.images import ImageTransform, patch_grid, view
from llava_sea.errors import UserError
from llava_sea.labels.patch_features import PatchEncoder
from llava_sea.labels.text_features import TextEncoder
from llava_sea.model.towers import load_tower, num_patches
from tests import towers
from tests.worlds import save_dinov2


@pytest.fixture(scope="module")
def script(repo):
    spec = importlib.util.spec_from_file_location("fit_tower", repo / "scripts/fit_tower.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return save_dinov2(tmp_path_factory.mktemp("dino"), image_size=54)


def test_the_model_computes_the_same_and_sees_what_clip_sees(script, dinov2, tiny, tmp_path):
    from transformers import AutoModel

    target = tmp_path / "towers" / "dino-24"
    flags = ["--model", str(dinov2), "--size", "24", "--output_dir", str(target)]
    script.main(flags)
    old, new = (AutoModel.from_pretrained(folder).eval() for folder in (dinov2, target))
    assert patch_grid(new.config) == (4, 4) != patch_grid(old.config)
    pixels = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(
            new(pixels).last_hidden_state, old(pixels).last_hidden_state, rtol=0, atol=1e-6
        )
    clip, fitted, hub = (
        view(ImageTransform.from_pretrained(str(folder), "square").geometry())
        for folder in (tiny.clip, target, dinov2)
    )
    assert fitted == clip != hub
    assert ImageTransform.from_pretrained(str(target), "square").resolution == (24, 24)
    assert num_patches(load_tower(str(target)).config) == 16
    assert [path.name for path in target.parent.iterdir()] == ["dino-24"]
    with pytest.raises(UserError, match="exists"):
        script.main(flags)


@pytest.mark.parametrize("kind", ["dinov2_with_registers", "dinov3", "tipsv2"])
def test_towers_with_more_tokens_compute_the_same(script, kind, tiny, tmp_path):
    from transformers import AutoModel

    source = towers.KINDS[kind](tmp_path / "hub")
    crop = ["--view", "crop"] if kind == "tipsv2" else []
    target = tmp_path / "fitted"
    script.main(["--model", str(source), "--size", "18", "--output_dir", str(target), *crop])
    pixels, tower = torch.rand(2, 3, 18, 18), load_tower(str(target))
    assert patch_grid(tower.config) == (3, 3)
    old = AutoModel.from_pretrained(source)
    old = getattr(old, "vision_model", old).eval()
    with torch.no_grad():
        expected, found = (one(pixels).last_hidden_state for one in (old, tower.eval()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    transform = ImageTransform.from_pretrained(str(target), "square")
    transform.check_fits(tower.config)
    clip = ImageTransform.from_pretrained(str(tiny.clip), "square")
    assert (view(transform.geometry()) == view(clip.geometry())) == (kind != "dinov3")
    if kind == "tipsv2":
        encoder = PatchEncoder.from_pretrained(target)
        assert encoder.grid_of(*transform.resolution) == (3, 3)
        assert TextEncoder.from_pretrained(target, encoder.model).encode_words(["a b"])


def test_a_naflex_becomes_a_siglip_that_computes_the_same(script, tmp_path):
    from transformers import Siglip2Model

    source, target = towers.naflex(tmp_path / "hub"), tmp_path / "fitted"
    script.main(["--model", str(source), "--size", "24", "--output_dir", str(target)])
    naflex, pixels = Siglip2Model.from_pretrained(source).eval(), torch.rand(2, 3, 24, 24)
    tower = load_tower(str(target)).eval()
    assert tower.config.model_type == "siglip_vision_model" and patch_grid(tower.config) == (4, 4)
    patches = pixels.unflatten(3, (4, 6)).unflatten(2, (4, 6)).permute(0, 2, 4, 3, 5, 1).flatten(3)
    shapes = torch.tensor([[4, 4], [4, 4]])
    with torch.no_grad():
        expected = naflex.vision_model(
            patches.flatten(1, 2), torch.ones(2, 16, dtype=torch.long), shapes
        )
        found = tower(pixels)
    for name in ("last_hidden_state", "pooler_output"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
    ImageTransform.from_pretrained(str(target), "square").check_fits(tower.config)
    encoder = PatchEncoder.from_pretrained(target)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        of_text = [one.get_text_features(input_ids=ids) for one in (naflex, encoder.model)]
    torch.testing.assert_close(*(one.pooler_output for one in of_text), rtol=0, atol=1e-5)


def test_what_cannot_be_fitted_is_refused(script, dinov2, tiny, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match="--size 25: must be a multiple of the patch side, 6"):
        script.main(["--model", str(dinov2), "--size", "25", "--output_dir", out])
    with pytest.raises(UserError, match="a clip has one size"):
        script.main(["--model", str(tiny.clip), "--size", "24", "--output_dir", out])
    assert not (tmp_path / "out").exists()


def damage(folder, how):
    weights = folder / "model.safetensors"
    if how == "cut off":
        weights.write_bytes(weights.read_bytes()[:9999])
    elif how == "less":
        tensors = load_file(weights)
        tensors.pop("layernorm.weight")
        save_file(tensors, weights, {"format": "pt"})
    else:
        config = folder / "config.json"
        settings = json.loads(config.read_text()) | {"patch_size": how}
        config.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut off", "model.safetensors: "),
        ("less", "weights are missing: .'layernorm.weight'"),
        (-6, "names a size below 0"),
        ([6, 6], r"patch_size \[6, 6\] is not one number"),
    ],
)
def test_a_damaged_tower_is_refused(script, dinov2, tmp_path, how, said):
    folder = tmp_path / "tower"
    shutil.copytree(dinov2, folder)
    damage(folder, how)
    with pytest.raises(UserError, match=f"--model {folder}: .*{said}"):
        script.main(["--model", str(folder), "--size", "24", "--output_dir", str(tmp_path / "x")])


def test_a_place_for_no_folder_is_named(script, dinov2, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, said in (("file/x", "--output_dir"), ("link", "--output_dir .*link: exists")):
        with pytest.raises(UserError, match=said):
            script.main(["--model", str(dinov2), "--output_dir", str(tmp_path / name)])
    out = ["--output_dir", str(tmp_path / "x")]
    with pytest.raises(UserError, match="--size 6000000: 16,384 pixels at most"):
        script.main(["--model", str(dinov2), "--size", "6000000", *out])


def test_a_folder_that_is_not_there_is_named(script, tmp_path):
    flags = ["--model", str(tmp_path / "no"), "--output_dir", str(tmp_path / "x")]
    with pytest.raises(UserError, match=f"--model {tmp_path}/no: no such folder"):
        script.main(flags)
