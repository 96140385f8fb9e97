"""A picture whose features are not finite is named; nothing is labelled from it in silence."""

from types import SimpleNamespace

import pytest
import torch

from llava_sea.errors import UserError
from llava_sea.labels.mine_shards import _require_finite
from llava_sea.labels.pictures import Picture


@pytest.mark.parametrize(
    ("dtype", "way_out"), [("float16", "--dtype float32"), ("float32", "the vision tower's")]
)
def test_the_picture_is_named(dtype, way_out):
    pictures = [Picture("a.jpg", "0"), Picture("b.jpg", "1")]
    patches_BPD = torch.ones(2, 3, 4)
    options = SimpleNamespace(dtype=dtype)
    _require_finite(patches_BPD, pictures, options)
    patches_BPD[1, 2, 3] = torch.nan
    with pytest.raises(UserError, match=f"b.jpg.*{way_out}"):
        _require_finite(patches_BPD, pictures, options)
