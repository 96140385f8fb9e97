"""A training step's memory by part, computed from configurations, before anything is loaded.

The model is made on the meta device (shapes without values), wrapped and frozen as training does
it. Its parameters are counted there, and so are the activations: a forward pass of one record runs
there and the tensors that autograd keeps are summed up, so every LLM and tower is counted as it is.
Attention counts as a fused kernel's (what goes in, what comes out, a number a row), eager's with
its weights in float32.

Limits: bytes of one GPU without what the driver, the allocator's gaps and single operations take
(`RESERVE`, `ROOM`); of DeepSpeed's buffers only the float32 gradients of a step and the parameters
that ZeRO-3 gathers.

Shape letters: B records, L tokens, H heads, D size of a head.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AttentionInterface, LlavaConfig, LlavaForConditionalGeneration

from llava_sea.alignment import AlignmentHead
from llava_sea.alignment.contrast import KEEP_AT_MOST
from llava_sea.model.builder import without_zero3
from llava_sea.model.lora import add_lora
from llava_sea.model.stage1 import Stage1Model
from llava_sea.model.stage2 import Stage2Model, choose_trainable
from llava_sea.model.wrapped import WrappedLlava

RESERVE = 1.5e9
"""Bytes of a GPU that are never ours: driver, NCCL, cuBLAS."""
ROOM = 1.1
"""Of what is computed, for gaps and for the work of single operations."""
LIVE = 1_000_000_000
"""Parameters that ZeRO-3 holds gathered at most: ``stage3_max_live_parameters`` of zero_configs."""
MOMENTS = {"adafactor": 0.1, "sgd": 0.0, "lion_32bit": 4.0, "adamw_bnb_8bit": 2.0}
"""Bytes of state for each trained parameter; others have Adam's two float32 moments."""
_FUSED, _EAGER = "llava_sea_counted", "llava_sea_counted_eager"


@dataclass(frozen=True)
class Step:
    """All of a recipe that decides a step's memory; the sizes are of one GPU."""

    stage: int
    batch: int
    length: int
    """Tokens of a record, the image's included."""
    supervised: int
    """How many of them have a label."""
    dtype: str = "bfloat16"
    images: int = 1
    """Of a record."""
    world: int = 1
    zero: int | None = None
    """ZeRO's stage; None without DeepSpeed."""
    offload_optimizer: bool = False
    offload_weights: bool = False
    recompute: bool = False
    """Whether layers are computed again in the backward pass (``--gradient_checkpointing``)."""
    optimizer: str = "adamw_torch"
    attention: str = "sdpa"
    fused_loss: bool = False
    """Liger's: no logits are kept."""
    pairs: int = 0
    """Labelled patches of a batch: SEA's part in stage 1."""
    lora_rank: int = 0
    bits: int = 16
    train_llm: bool = True
    train_projector: bool = True
    train_tower: bool = False


@dataclass(frozen=True)
class Parts:
    """Bytes of one GPU; `host` are those that offloading puts into main memory."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    host: int = 0

    @property
    def total(self) -> int:
        """All that lies on the GPU at the step's fullest moment."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


class Counts(NamedTuple):
    """Numbers of parameters, and bytes that autograd keeps of one record."""

    trained: int
    frozen: int
    quantised: int
    """Of the frozen: the LLM's linear layers, which QLoRA packs."""
    hidden: int
    vocab: int
    kept: int
    """Without recomputing."""
    kept_recomputing: int


def memory_of(config: LlavaConfig, step: Step) -> Parts:
    """Compute a step's memory by part."""
    counts = count(config, step)
    width = torch.empty((), dtype=getattr(torch, step.dtype)).element_size()
    own = width if step.zero is not None else 4  # without DeepSpeed training keeps them in float32
    packed = counts.quantised * (step.bits / 8 + 0.07 * (step.bits == 4)) if step.bits < 16 else 0
    loose = counts.frozen - (counts.quantised if step.bits < 16 else 0)
    weights = loose * width + packed + counts.trained * own
    shares = step.world if (step.zero or 0) >= 1 else 1
    of_gradients = step.world if (step.zero or 0) >= 2 else 1
    host = 0.0
    if step.zero == 3 and step.world > 1:
        everything = counts.trained + counts.frozen
        weights = weights / step.world + width * min(LIVE, everything) * (1 - 1 / step.world)
    if step.offload_weights:
        host += (counts.trained + counts.frozen) * width / step.world
        weights = width * min(LIVE, counts.trained + counts.frozen)
    gradients = counts.trained * own / of_gradients
    state = MOMENTS.get(step.optimizer, 8.0) + (4 if step.zero is not None else 0)
    optimizer, at_the_step = state * counts.trained / shares, 0.0
    if step.offload_optimizer:
        host += optimizer + 4 * counts.trained / shares
        optimizer = 0.0
    elif step.zero is not None:
        at_the_step = 4 * counts.trained / shares  # gradients in float32, when activations are gone
    kept = counts.kept_recomputing if step.recompute else counts.kept
    activations = step.batch * kept + _alignment(counts, step, width)
    logits = 0 if step.fused_loss else _logits(step.batch * step.supervised, counts.vocab, width)
    gradients += max(0.0, at_the_step - activations - logits)
    return Parts(*(int(x) for x in (weights, gradients, optimizer, activations, logits, host)))


def _logits(rows: int, vocab: int, width: int) -> int:
    """Bytes of the loss at its fullest: log-softmax, its gradient and the logits' in float32.

    In 16 bits the gradient is there once more.
    """
    return rows * vocab * (12 + (width if width < 4 else 0))


def _alignment(counts: Counts, step: Step, width: int) -> int:
    """About what the alignment loss keeps: both sides, words of two tokens, logits if they fit."""
    sides = step.pairs * counts.hidden * (2 * width + 4 + 2 * width)
    logits = 4 * step.pairs**2
    return sides + (logits if logits <= KEEP_AT_MOST else 0)


def count(config: LlavaConfig, step: Step) -> Counts:
    """Count parameters and what autograd keeps of one record; repeated questions cost nothing."""
    whole = json.dumps(config.to_dict(), default=str, sort_keys=True)
    same: dict[str, Any] = dict(batch=1, supervised=0, world=1, zero=None, optimizer="")
    same |= dict(recompute=False, fused_loss=False, pairs=int(step.pairs > 0))
    of_model = replace(step, offload_optimizer=False, offload_weights=False, **same)
    found = _COUNTED.get((whole, of_model))
    if found is None:
        found = _COUNTED[whole, of_model] = _count(config, of_model)
    return found


_COUNTED: dict[tuple[str, Step], Counts] = {}


def _count(config: LlavaConfig, step: Step) -> Counts:
    model = make_shell(config, step)
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    quantised = 0
    if step.bits < 16:
        named = model.language_model.named_parameters()
        quantised = sum(
            p.numel() for n, p in named if p.ndim == 2 and not p.requires_grad and "embed" not in n
        )
    text_config: Any = config.text_config
    total = sum(p.numel() for p in parameters)
    sizes = text_config.hidden_size, text_config.vocab_size
    return Counts(trained, total - trained, quantised, *sizes, *kept_bytes(model, step))


def make_shell(config: LlavaConfig, step: Step) -> WrappedLlava:
    """Make a stage's model on the meta device, with what it trains."""
    config = copy.deepcopy(config)
    with torch.device("meta"), without_zero3():
        llava = LlavaForConditionalGeneration(config).to(getattr(torch, step.dtype))
    text_config: Any = config.text_config
    if getattr(text_config, "tie_word_embeddings", False):
        table: Any = llava.get_input_embeddings()
        llava.lm_head.weight = table.weight
    counted = _EAGER if step.attention == "eager" else _FUSED
    AttentionInterface.register(counted, _attention[counted])
    llava.set_attn_implementation(counted)
    if step.stage == 1:
        head = AlignmentHead().to("meta") if step.pairs else None
        return Stage1Model(llava, head).train()
    parts: Any = {"projector": step.train_projector, "vision_tower": step.train_tower}
    if step.lora_rank:
        add_lora(llava, rank=step.lora_rank, alpha=1, dropout=0.05, base="", **parts)
        llava.to(getattr(torch, step.dtype))
    else:
        choose_trainable(llava, language_model=step.train_llm, **parts)
    return Stage2Model(llava).train()


def kept_bytes(model: WrappedLlava, step: Step) -> tuple[int, int]:
    """Return the bytes that autograd keeps of one record, and those with layers recomputed."""
    config: Any = model.config
    vision, hidden = config.vision_config, config.text_config.hidden_size
    dtype = getattr(torch, step.dtype)
    kept = KeptTensors(model)
    inside: list[int] = []
    inputs = 0

    def before(*_: Any) -> None:
        inside.append(-kept.total)

    def after(module: nn.Module, given: Any, output: Any) -> None:
        nonlocal inputs
        inside[-1] += kept.total
        inputs += (output[0] if isinstance(output, tuple) else output).nbytes

    for layer in _layers(model, tower=step.train_tower):
        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)
    side = vision.image_size
    shape = (side, side) if isinstance(side, int) else tuple(side)
    pixels = torch.empty(max(1, step.images), 3, *shape, device="meta", dtype=dtype)
    embeds_1LD = torch.empty(1, step.length, hidden, device="meta", dtype=dtype)
    with kept:
        visual = model.project(pixels)
        # Gradients come through the projector, or from the embeddings.
        model.language_model(
            inputs_embeds=embeds_1LD + 0 * visual.sum()
            if visual.requires_grad
            else embeds_1LD.requires_grad_(),
            use_cache=False,
        )
    recomputing = kept.total - sum(inside) + inputs + max(inside, default=0)
    return kept.total, min(kept.total, recomputing)


class KeptTensors(saved_tensors_hooks):
    """Sums up the bytes of the storages that autograd keeps, each once, without weights."""

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._known = {t.untyped_storage()._cdata for t in tensors}
        self._held: list[Tensor] = []  # alive, or a number would be given out twice
        self.total = 0
        super().__init__(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._held.append(tensor.detach())
            self.total += storage.nbytes()
        return tensor


def _layers(model: WrappedLlava, *, tower: bool) -> Iterator[nn.Module]:
    for part in [model.language_model, *([model.vision_tower] if tower else [])]:
        depth = int(part.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
        lists = (m for m in part.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
        yield from next(lists, nn.ModuleList())


class _Attention(torch.autograd.Function):
    """Keeps what an attention keeps, `row` numbers for each query beside its input and output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, row: int) -> Tensor:
        output_BLHD = value.new_empty(*query.shape[:-1], value.shape[-1]).transpose(1, 2)
        rows = query.new_empty(*query.shape[:-1], row, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output_BLHD, rows)
        return output_BLHD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError


def _fused_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Any, None]:
    return _Attention.apply(query, key, value, 1), None


def _eager_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Any, None]:
    return _Attention.apply(query, key, value, key.shape[2]), None


_attention = {_FUSED: _fused_attention, _EAGER: _eager_attention}


def fits(parts: Parts, memory: float) -> bool:
    """Say whether a step fits into a GPU of so many bytes."""
    return parts.total * ROOM + RESERVE <= memory


def ways_to_fit(config: LlavaConfig, step: Step, accumulation: int, memory: float) -> list[str]:
    """Return the flags that make a step fit, as few as will do; [] if none here does.

    In the order in which they are tried: what costs time before what changes the training.
    """
    chosen: list[tuple[str, dict[str, Any]]] = []
    for flag, change in _changes(step, accumulation):
        chosen = [(f, c) for f, c in chosen if not c.keys() & change.keys()] + [(flag, change)]
        if not fits(memory_of(config, _changed(step, chosen)), memory):
            continue
        for one in list(chosen):
            fewer = [other for other in chosen if other is not one]
            if fits(memory_of(config, _changed(step, fewer)), memory):
                chosen = fewer
        return [flag for flag, _ in chosen]
    return []


def _changed(step: Step, changes: list[tuple[str, dict[str, Any]]]) -> Step:
    return replace(step, **dict(pair for _, change in changes for pair in change.items()))


def _changes(step: Step, accumulation: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if not step.recompute:
        yield "--gradient_checkpointing True", {"recompute": True}
    if step.world > 1 and step.zero != 3 and step.bits == 16:
        yield "--deepspeed zero_configs/zero3.json", {"zero": 3}
    batch = step.batch
    while batch > 1:
        batch, accumulation = batch // 2, accumulation * 2
        flags = f"--per_device_train_batch_size {batch} --gradient_accumulation_steps "
        yield (
            flags + str(accumulation),
            {"batch": batch, "pairs": step.pairs * batch // step.batch},
        )
    if step.bits == 16:
        offload = {"zero": 3, "offload_optimizer": True, "offload_weights": True}
        yield "--deepspeed zero_configs/zero3_offload.json", offload
    if step.stage == 2 and not step.lora_rank:
        lora = {"lora_rank": 128}
        yield "LoRA (bash scripts/finetune_lora.sh)", lora
        quantised = {"bits": 4, "zero": 2, "offload_optimizer": False, "offload_weights": False}
        flags = "QLoRA (finetune_lora.sh --bits 4 --deepspeed zero_configs/zero2.json)"
        yield flags, lora | quantised


def as_json(step: Step, parts: Parts) -> dict[str, Any]:
    """Return both for the report."""
    return {"step": asdict(step), "bytes": asdict(parts) | {"total": parts.total}}
