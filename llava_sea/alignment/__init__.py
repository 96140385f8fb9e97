"""SEA as a library: labels, sampling, the loss, the metrics. Needs torch and numpy alone.

Made for any training loop: mine labels once (`mine_top_words`, `LabelStore`), draw pairs for each
image (`sample_pairs`), keep one patch a label (`keep_one_per_label`), call the loss
(`AlignmentHead`), watch `nearest_words` and `tacs`. The README adds it to a loop in a function.
"""

from llava_sea.alignment.batch import PatchWords
from llava_sea.alignment.label_store import (
    Labels,
    LabelStore,
    LabelStoreError,
    finalize_store,
    finished_shards,
    write_shard,
)
from llava_sea.alignment.loss import AlignmentHead, infonce, symmetric_infonce, word_targets
from llava_sea.alignment.metrics import (
    NearestWords,
    modality_integration_rate,
    nearest_words,
    tacs,
)
from llava_sea.alignment.mining import mine_top_words
from llava_sea.alignment.mining_bounds import PreparedWords, prepare_words
from llava_sea.alignment.sampling import Pairs, keep_one_per_label, num_windows, sample_pairs
from llava_sea.alignment.transfer import Overlap, grid_overlap, transfer_labels

__all__ = [
    "AlignmentHead",
    "LabelStore",
    "LabelStoreError",
    "Labels",
    "NearestWords",
    "Overlap",
    "Pairs",
    "PatchWords",
    "PreparedWords",
    "finalize_store",
    "finished_shards",
    "grid_overlap",
    "infonce",
    "keep_one_per_label",
    "mine_top_words",
    "modality_integration_rate",
    "nearest_words",
    "num_windows",
    "prepare_words",
    "sample_pairs",
    "symmetric_infonce",
    "tacs",
    "transfer_labels",
    "word_targets",
    "write_shard",
]
