"""What this device computes against the same in float64 on the CPU, with a tolerance for each.

Four checks: the miner (eq. 8), the alignment loss and its gradient (eq. 11), packed rows, and the
gradient of a stage-1 step of a tiny model in the run's dtype and attention. Without a GPU it is the
CPU's float32 that is held against its float64.

Shape letters: M patches, Q words, N pairs, D size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPVisionConfig, LlamaConfig, LlavaForConditionalGeneration

from llava_sea.alignment import (
    AlignmentHead,
    PatchWords,
    mine_top_words,
    symmetric_infonce,
    word_targets,
)
from llava_sea.data.collator import Collator
from llava_sea.data.packing import PackedCollator
from llava_sea.model.builder import llava_config
from llava_sea.model.packed import prepare_attention
from llava_sea.model.stage1 import Stage1Model
from llava_sea.model.stage2 import Stage2Model
from llava_sea.preflight.page import Line, red
from llava_sea.preflight.random_batches import Sizes, random_sample, random_words

ROWS, GRID, SIDE = 512, (4, 4), 56


class Setting(NamedTuple):
    """Where and how a run computes."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    attention: str = "sdpa"

    @property
    def tolerance(self) -> float:
        """Of a tiny model's gradient, relative: in bfloat16 9e-3 were found, in float16 1e-3."""
        return 1e-4 if self.dtype == torch.float32 else 3e-2


def miner(setting: Setting) -> tuple[float, float]:
    """The largest difference of a score from the sorted products, and the tolerance."""
    rng = torch.Generator().manual_seed(0)
    patches_MD = normalize(torch.randn(600, 256, generator=rng), dim=1)
    words_QD = normalize(torch.randn(20_000, 256, generator=rng), dim=1)
    _, found = mine_top_words(patches_MD.to(setting.device), words_QD.to(setting.device), 10)
    expected = (patches_MD.double() @ words_QD.double().T).topk(10).values
    return float((found.cpu().double() - expected).abs().max()), 1e-6


def alignment_loss(setting: Setting) -> tuple[float, float]:
    """The relative difference of loss and gradient from CLIP's full matrix in float64."""
    rng = torch.Generator().manual_seed(0)
    visual_ND, text_ND = (torch.randn(700, 256, generator=rng) for _ in range(2))
    one = visual_ND.to(setting.device, copy=True).requires_grad_()
    scale = torch.tensor(2.0, device=setting.device)
    loss = symmetric_infonce(one, text_ND.to(setting.device), scale)
    loss.backward()
    other = visual_ND.double().requires_grad_()
    expected = full_matrix(other, text_ND.double(), scale.double().cpu())
    expected.backward()
    assert one.grad is not None and other.grad is not None
    return max(apart(loss, expected), apart(one.grad, other.grad)), 1e-4


def full_matrix(visual_ND: Tensor, text_ND: Tensor, log_scale: Tensor) -> Tensor:
    """Eq. 11 as CLIP's code has it."""
    logits_NN = log_scale.exp() * normalize(visual_ND, dim=1) @ normalize(text_ND, dim=1).T
    target_N = torch.arange(len(logits_NN))
    return (cross_entropy(logits_NN, target_N) + cross_entropy(logits_NN.T, target_N)) / 2


class ExactStage1(Stage1Model):
    """Takes the alignment loss from the full matrix, in whatever dtype it is in."""

    def align(self, visual_IPD: Tensor, words: PatchWords) -> tuple[Tensor, Tensor]:
        """As `Stage1Model`, for labels that each have one patch."""
        assert self.head is not None and words.words_UT is not None and words.patch_N is not None
        tokens_UTD = self.embed(words.words_UT.clamp(min=0))
        text_UD = word_targets(tokens_UTD, words.words_UT >= 0)
        valid_N = words.valid_N
        place_N = torch.searchsorted(words.word_U, words.label_N[valid_N])
        visual_ND = visual_IPD.flatten(0, 1)[words.patch_N[valid_N]]
        return full_matrix(
            visual_ND, text_UD[place_N].to(visual_ND), self.head.log_scale
        ), valid_N.sum()


def packing(setting: Setting) -> tuple[float, float]:
    """The relative difference of a packed row's loss from that of the samples one by one."""
    rng = np.random.default_rng(0)
    collator = Collator(0, (SIDE, SIDE), 16)
    sizes = [Sizes(40, 9, 1), Sizes(23, 7, 0), Sizes(31, 12, 1)]
    samples = [random_sample(rng, one, collator, ROWS, GRID, 2) for one in sizes]
    model = Stage2Model(tiny_llava(setting))
    prepare_attention(model.language_model)
    packed = PackedCollator(0, (SIDE, SIDE), 16)(samples)
    with torch.no_grad():
        together = model(**on(packed, setting)).lm_loss_sum.float()
        exact = Stage2Model(tiny_llava(Setting(dtype=torch.float64)))
        alone = sum(exact(**collator([sample])).lm_loss_sum.double() for sample in samples)
    # A row whose samples see each other is 6e-3 apart, bfloat16 3e-4.
    return apart(together, torch.as_tensor(alone)), min(setting.tolerance, 2e-3)


def tiny_step(setting: Setting) -> tuple[float, float]:
    """The relative difference of the projector's gradient in a step of stage 1."""
    rng = np.random.default_rng(0)
    collator = Collator(0, (SIDE, SIDE), 16, 4 * 8, random_words(ROWS))
    drawn = [random_sample(rng, Sizes(40, 12, 1), collator, ROWS, GRID, 2) for _ in range(8)]
    batch, found = collator(drawn), []
    for one, kind in ((setting, Stage1Model), (Setting(dtype=torch.float64), ExactStage1)):
        llava = tiny_llava(one)
        model = kind(llava, AlignmentHead(2.659).to(llava.device))
        losses = model(**on(batch, one))
        assert losses.sea_loss is not None
        (losses.lm_loss_sum / losses.num_tokens + losses.sea_loss).backward()
        grads = [p.grad for p in model.projector.parameters() if p.grad is not None]
        found.append(torch.cat([grad.flatten().double().cpu() for grad in grads]))
    return apart(*found), setting.tolerance


CHECKS: dict[str, Callable[[Setting], tuple[float, float]]] = {
    "miner": miner,
    "alignment loss": alignment_loss,
    "packing": packing,
    "tiny step": tiny_step,
}


def check(name: str, setting: Setting) -> Line:
    """Return a check's line."""
    difference, tolerance = CHECKS[name](setting)
    here = setting.device if setting.device != "cpu" else "no GPU; the CPU"
    dtype = str(setting.dtype).removeprefix("torch.")
    how = "float32" if name in ("miner", "alignment loss") else f"{dtype}, {setting.attention}"
    found = f"{here} ({how}) against float64: {difference:.1e} apart, {tolerance:.0e} allowed"
    details: dict[str, Any] = {"difference": difference, "tolerance": tolerance}
    details |= setting._asdict() | {"dtype": dtype}
    if difference <= tolerance:
        return Line(name, found, details=details)
    way_out = "run it again; if it stays, another --attn_implementation (sdpa), driver or torch"
    return red(name, found, f"{way_out}: training would learn from wrong numbers", **details)


def apart(found: Tensor, expected: Tensor) -> float:
    """Return the length of a difference over that of what is expected; infinite for NaN."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    difference = float((found - expected).norm() / expected.norm())
    return difference if difference == difference else float("inf")


def tiny_llava(setting: Setting) -> Any:
    """Make the same tiny model anywhere, from float32 numbers drawn on the CPU."""
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**shape, num_hidden_layers=3, image_size=SIDE, patch_size=14)
    text = LlamaConfig(**shape, num_hidden_layers=2, vocab_size=ROWS, initializer_range=0.1)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    llava: Any = LlavaForConditionalGeneration(llava_config(vision, text, select_layer=-2))
    torch.random.set_rng_state(state)
    llava.set_attn_implementation(setting.attention)
    return llava.to(setting.device, setting.dtype)


def on(batch: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """Move a batch to a setting's device."""
    return {
        name: on(value, setting)
        if isinstance(value, dict)
        else value.to(setting.device)
        if isinstance(value, Tensor)
        else value
        for name, value in batch.items()
    }
