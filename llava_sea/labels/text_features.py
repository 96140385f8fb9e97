"""Words and phrases to vectors in the space that the text tower shares with the images (SEA eq. 7).

Everything after the tokenizer is the model's own text path. CLIP is causal and reads its result at
the end-of-text token, so a batch is padded only to its longest entry, exactly; the padding is more
end-of-text, which both of its pooling rules (first end token, or largest id) pass over. SigLIP
attends to its padding and is always padded to its full length, as in its training. TIPSv2 takes the
mean over its tokens, padding masked out.

Limit: an entry longer than the tower's context is never cut in silence. Its vector is zero, so its
score is 0 and it can be no patch's label, and it is returned by name for the caller to report.

An extraction encodes its word list once, into a file that its ranks map: at 4 million words and 768
dimensions it has 12 GB, is written in place and never held.

Shape letters: Q words, D joint dimension, L tokens.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from llava_sea.errors import UserError
from llava_sea.files import open_atomically
from llava_sea.labels.patch_features import FAMILIES
from llava_sea.pretrained import load_pretrained
from llava_sea.progress import Progress

logger = logging.getLogger(__name__)

_CHUNK = 65_536  # words tokenised and sorted by length at a time
_LEGACY_EOS = 2  # CLIP configs with this end token pool at the largest id instead


class EncodedWords(NamedTuple):
    """Vectors of length 1, and the words that are too long for the text tower: they have zeros."""

    features_QD: NDArray[np.float32]
    too_long: list[str]


class TextEncoder:
    """The text side of a model of one of the `FAMILIES`."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        config, text_config = model.config, model.config.text_config
        self.max_length = min(text_config.max_position_embeddings, tokenizer.model_max_length)
        family = FAMILIES[config.model_type]
        self._padding, self.joint_size = family.text_padding, family.joint_size(config)
        self._end = text_config.eos_token_id

    @classmethod
    def from_pretrained(cls, path_or_id: str | Path, model: Any) -> TextEncoder:
        """Load the tokenizer that belongs to `model`, which was loaded from the same place."""
        return cls(model, tokenizer_of(str(path_or_id), model.config.model_type))

    @torch.no_grad()
    def encode_words(
        self,
        words: Sequence[str],
        batch: int = 256,
        *,
        template: str = "{}",
        out_QD: NDArray[np.float32] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> EncodedWords:
        """Encode words or phrases into the joint space (SEA eq. 7), `batch` at a time.

        Args:
            words: words or phrases.
            batch: how many go through the tower at a time.
            template: the prompt, with one ``{}`` for the word; the bare word is the paper's.
            out_QD: float32 array to write to (say, on disk), ``(Q, D)``; made here if None.
            progress: called with the number of words done since the last call.

        Raises:
            UserError: if the template has not exactly one ``{}``, or the tokenizer does not end a
                text as the model expects.
        """
        if template.count("{}") != 1:
            raise UserError(f"the prompt template needs exactly one {{}}, got {template!r}")
        if out_QD is None:
            out_QD = np.zeros((len(words), self.joint_size), np.float32)
        too_long: list[str] = []
        for start in range(0, len(words), _CHUNK):
            chunk = words[start : start + _CHUNK]
            tokens = self._tokenize([template.replace("{}", word) for word in chunk])
            order = sorted(range(len(chunk)), key=lambda i: len(tokens[i]))
            fitting = [i for i in order if len(tokens[i]) <= self.max_length]
            too_long += [chunk[i] for i in sorted(order[len(fitting) :])]
            out_QD[[start + i for i in order[len(fitting) :]]] = 0.0
            for first in range(0, len(fitting), batch):
                rows = fitting[first : first + batch]
                vectors_QD = self._encode([tokens[i] for i in rows])
                out_QD[[start + i for i in rows]] = vectors_QD.cpu().numpy()
                if progress is not None:
                    progress(len(rows))
        return EncodedWords(out_QD, too_long)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids with the special tokens, neither cut nor padded."""
        tokens = self.tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]
        if self._padding == "end" and self._end != _LEGACY_EOS:
            for text, ids in zip(texts, tokens, strict=True):
                if self._end not in ids:
                    raise UserError(
                        f"the tokenizer turns {text!r} into {ids} without the end-of-text token "
                        f"{self._end} that the text tower reads its result at: tokenizer and model "
                        "do not belong together"
                    )
        return tokens

    def _encode(self, tokens: list[list[int]]) -> Tensor:
        if self._padding == "end":
            longest = max(map(len, tokens))
            ids_QL = torch.tensor([ids + ids[-1:] * (longest - len(ids)) for ids in tokens])
            inputs = {"input_ids": ids_QL}
        else:
            full = {"padding": "max_length", "max_length": self.max_length, "return_tensors": "pt"}
            full["return_attention_mask"] = self._padding != "full"  # a tokenizer may have another
            inputs = dict(self.tokenizer.pad({"input_ids": tokens}, **full))
        inputs = {name: values.to(self.model.device) for name, values in inputs.items()}
        output = self.model.get_text_features(**inputs)
        joint_QD = getattr(output, "pooler_output", output)
        return F.normalize(joint_QD.float(), dim=-1)


def tokenizer_of(path: str, kind: str) -> Any:
    """Load the tokenizer of one of the `FAMILIES`.

    Raises:
        UserError: if there is none.
    """
    import transformers

    from llava_sea.model.load_sentencepiece import auto_tokenizer

    if not (name := FAMILIES[kind].tokenizer_class):
        return auto_tokenizer(path)
    try:
        tokenizer = load_pretrained(getattr(transformers, name), path)
        if len(tokenizer) > 2:  # without its file it has its special tokens alone
            return tokenizer
        reason = "its tokenizer.model or tokenizer.json is missing"
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(f"{path}: no tokenizer there, or a damaged one ({reason})")


class WordVectors(NamedTuple):
    """Where the vectors are, and how many words were too long to have one (their rows are zero)."""

    path: str
    num_too_long: int

    def load(self, device: str | torch.device) -> Tensor:
        """Map the vectors (copy-on-write: processes of a machine share the pages); ``(Q, D)``."""
        return torch.from_numpy(np.load(self.path, mmap_mode="c")).to(device)


def encode_to_disk(
    path: Path,
    texts: TextEncoder,
    words: Sequence[str],
    template: str,
    check: Callable[[], object] = lambda: None,
) -> WordVectors:
    """Encode the words of an extraction into a file; `check` is called now and then."""

    def report(count: int) -> None:
        check()
        progress.update(count)

    shape = (len(words), texts.joint_size)
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with open_atomically(path) as file, Progress("words", len(words)) as progress:
        np.lib.format.write_array_header_1_0(file, about)
        file.flush()
        start = file.tell()
        if hasattr(os, "posix_fallocate"):  # a mapped write to a full disk is fatal
            os.posix_fallocate(file.fileno(), 0, start + 4 * math.prod(shape))
        array_QD = np.memmap(file.name, "<f4", "r+", start, shape)
        _, too_long = texts.encode_words(words, template=template, out_QD=array_QD, progress=report)
        array_QD.flush()
        del array_QD
    if len(too_long) == len(words):
        raise UserError(f"every word is longer than the text tower's {texts.max_length} tokens")
    if too_long:
        logger.warning(
            "%d of %d words are longer than the text tower's %d tokens and can be no label: %s%s",
            *(len(too_long), len(words), texts.max_length),
            ", ".join(map(repr, too_long[:5])),
            " ..." if len(too_long) > 5 else "",
        )
    return WordVectors(str(path), len(too_long))
