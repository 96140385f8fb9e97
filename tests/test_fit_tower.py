"""scripts/fit_dinov2.py: the same model at the new size, and CLIP's view of an image."""

import importlib.util

import pytest
import torch

from llava_sea.data.images import ImageTransform, patch_grid, view
from llava_sea.errors import UserError
from llava_sea.model.towers import load_tower, num_patches
from tests.worlds import save_dinov2


@pytest.fixture(scope="module")
def script(repo):
    spec = importlib.util.spec_from_file_location("fit_dinov2", repo / "scripts/fit_dinov2.py")
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


def test_what_cannot_be_fitted_is_refused(script, dinov2, tiny, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match="--size 25: must be a multiple of the patch side, 6"):
        script.main(["--model", str(dinov2), "--size", "25", "--output_dir", out])
    with pytest.raises(UserError, match="is a clip, not a dinov2"):
        script.main(["--model", str(tiny.clip), "--size", "24", "--output_dir", out])
    assert not (tmp_path / "out").exists()
