"""A picture whose features are not finite is named; nothing is labelled from it in silence.

All that reads pictures goes through `encode_batches`: mining, the sign, the centre, label quality.
"""

from types import SimpleNamespace

import pytest
import torch

from llava_sea.errors import UserError
from llava_sea.labels.mine_shards import encode_batches
from llava_sea.labels.pictures import Picture

PICTURES = [Picture("a.jpg", "0"), Picture("b.jpg", "1"), Picture("c.jpg", "2")]


def encoded(features, dtype):
    """The batches of three pictures, of which the first could not be read."""
    batch = SimpleNamespace(rows=[1, 2], pixels_BCHW=torch.zeros(2, 3, 4, 4))
    loader = SimpleNamespace(batches=lambda pictures, size: [batch])
    encoder = SimpleNamespace(encode_images=lambda pixels, which: features)
    options = SimpleNamespace(dtype=dtype, batch_size=2, sea_features="value")
    return list(encode_batches(encoder, loader, PICTURES, options, None))


@pytest.mark.parametrize(
    ("dtype", "way_out"), [("float16", "--dtype float32"), ("float32", "the vision tower's")]
)
def test_the_picture_is_named(dtype, way_out):
    features = torch.ones(2, 3, 4)
    assert encoded(features, dtype)[0][1] is features
    features[1, 2, 3] = torch.nan
    with pytest.raises(UserError, match=f"^c.jpg.*{way_out}"):
        encoded(features, dtype)
