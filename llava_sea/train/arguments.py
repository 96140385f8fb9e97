"""The flags: LLaVA's under their names and meanings, `--sea_*` added, HF TrainingArguments below.

What LLaVA's scripts pass and today's libraries no longer take is accepted with a word about it;
a flag that nobody knows fails with the nearest name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import transformers

from llava_sea.errors import UserError
from llava_sea.files import check_folder
from llava_sea.presets import TRAINING_PRESETS
from llava_sea.ranges import check_ranges
from llava_sea.train.deepspeed_config import check_agreement, describe, read_engine


def _flag(default: Any, help: str, choices: Iterable[str] | None = None) -> Any:
    metadata = {"help": help} | ({"choices": list(choices)} if choices else {})
    return field(default=default, metadata=metadata)


@dataclass
class ModelArguments:
    """The parts of the model."""

    model_name_or_path: str = _flag(MISSING, "Base LLM, in stage 2 or a LLaVA: folder or hub id.")
    version: str = _flag(
        "plain",
        "Conversation template: plain in stage 1; v1, llama_3, ... in stage 2; auto: the LLM's.",
    )
    tune_mm_mlp_adapter: bool = _flag(False, "True is stage 1: train the projector only.")
    freeze_backbone: bool = _flag(False, "Stage 2: leave the LLM as it is.")
    unfreeze_mm_vision_tower: bool = _flag(
        False, "Stage 2: train the vision tower too (SEA-PRIME)."
    )
    vision_tower: str | None = _flag(None, "CLIP, SigLIP, DINOv2, ...: a folder or hub id.")
    mm_vision_select_layer: int = _flag(-2, "Hidden state of the tower that feeds the projector.")
    pretrain_mm_mlp_adapter: str | None = _flag(None, "An mm_projector.bin to start from.")
    mm_projector_type: str = _flag("mlp2x_gelu", "Only mlp2x_gelu: all that a llava can express.")
    mm_use_im_start_end: bool = _flag(False, "Obsolete: False only.")
    mm_use_im_patch_token: bool = _flag(False, "Obsolete: False only.")
    mm_patch_merge_type: str = _flag("flat", "flat only.")
    mm_vision_select_feature: str = _flag(
        "patch",
        "patch: the tower's patches alone; cls_patch: with its class token and registers, for "
        "towers of which a stock llava cannot leave out all of these.",
        ["patch", "cls_patch"],
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be honoured."""
        check_ranges("train", self)
        if self.mm_projector_type != "mlp2x_gelu":
            raise UserError(
                f"--mm_projector_type {self.mm_projector_type}: only mlp2x_gelu is supported. A "
                "plain llava checkpoint, which every tool opens, cannot express another projector"
            )
        for flag in ("mm_use_im_start_end", "mm_use_im_patch_token"):
            if getattr(self, flag):
                raise UserError(
                    f"--{flag} True: training never grows the vocabulary; pass {flag} False, as "
                    "all of LLaVA-1.5's scripts do"
                )
        if self.mm_patch_merge_type != "flat":
            raise UserError(f"--mm_patch_merge_type {self.mm_patch_merge_type}: use flat")


@dataclass
class DataArguments:
    """The data."""

    data_path: list[str] = _flag(  # noqa: RUF009
        MISSING,
        "Files of records: LLaVA's JSON list, .jsonl or .parquet; FILE:2 takes a file twice, "
        "FILE:0.5 a fixed half of it.",
    )
    image_folder: str | None = _flag(
        None, 'Folder (or .tar shards) that records\' "image" is relative to.'
    )
    image_aspect_ratio: str = _flag(
        "square",
        "square: the tower's resize and centre crop; pad: pad to a square first.",
        ["square", "pad"],
    )


@dataclass
class SeaArguments:
    """Supervised Embedding Alignment; off unless --sea_labels is given and the weight is not 0."""

    sea_labels: str | None = _flag(None, "Label store of scripts/extract_labels.sh; turns SEA on.")
    sea_preset: str | None = _flag(
        None,
        "paper or best: check that the labels were mined so, and train so: the schedule, the "
        "start of the temperature and the length's weight where these flags are not given. none: "
        "as without the flag.",
        ("none", *TRAINING_PRESETS),
    )
    sea_weight: float = _flag(1.0, "Lambda of eq. 13; 0 turns SEA off.")
    sea_weight_schedule: str | None = _flag(
        None,
        "decay lets lambda fall linearly to 0 over the first half of the steps (default: "
        "constant; preset best: decay).",
        ["constant", "decay"],
    )
    sea_window: int = _flag(2, "k: one patch per k x k window is kept.")
    sea_negatives: str = _flag(
        "local", "Negatives from the device's own batch, or from all devices.", ["local", "global"]
    )
    sea_log_scale_init: float | None = _flag(
        None,
        "Start of the log logit scale; tau = exp(-this) (default: 0; preset best: 2.659, CLIP's).",
    )
    sea_align_only: bool = _flag(
        False,
        "A warm start before stage 1: the alignment loss alone, lambda 1; the LLM is not run,"
        " of it only the embedding table is read.",
    )
    sea_length_weight: float | None = _flag(
        None,
        "Weight, within the alignment loss, of a term that holds visual tokens at the mean length "
        "of embedding rows, which cosines leave free (default: 0; preset best: 1).",
    )
    sea_transfer: bool = _flag(
        False, "Allow labels mined with another encoder than --vision_tower."
    )
    sea_eval_data: str | None = _flag(None, "Held-out records for TACS, gap and nearest words.")
    sea_eval_image_folder: str | None = _flag(
        None, "Image folder of --sea_eval_data; default: image_folder."
    )
    sea_eval_truth: str | None = _flag(
        None, "JSON with the true words of every patch, where they are known."
    )
    sea_eval_steps: int = _flag(50, "Measure every so many steps.")
    sea_eval_samples: int = _flag(128, "Held-out records used: the first so many.")
    sea_eval_words: int = _flag(20_000, "Most frequent words the nearest is sought among.")
    sea_eval_word_list: str | None = _flag(
        None, "words.tsv for these; default: that of --sea_labels."
    )

    def __post_init__(self) -> None:
        """Fill in what the preset decides and refuse values out of range."""
        check_ranges("train", self)
        if self.sea_preset == "none":
            self.sea_preset = None
        preset = TRAINING_PRESETS.get(self.sea_preset or "paper")
        if preset is None:
            known = ", ".join(TRAINING_PRESETS)
            raise UserError(f"--sea_preset {self.sea_preset}: choose one of {known}")
        if self.sea_weight_schedule is None:
            self.sea_weight_schedule = preset["sea_weight_schedule"]
        if self.sea_log_scale_init is None:
            self.sea_log_scale_init = float(preset["sea_log_scale_init"])
        if self.sea_length_weight is None:
            self.sea_length_weight = float(preset["sea_length_weight"])

    @property
    def enabled(self) -> bool:
        """Whether the head is built."""
        return self.sea_labels is not None and self.sea_weight > 0


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' TrainingArguments with LLaVA's additions and defaults."""

    cache_dir: str | None = _flag(None, "Cache for hub files.")
    optim: str = _flag("adamw_torch", "Optimizer.")
    remove_unused_columns: bool = _flag(False, "Stays False.")
    model_max_length: int = _flag(2048, "Longest sequence, image tokens included.")
    freeze_mm_mlp_adapter: bool = _flag(False, "Stage 2: leave the projector as it is.")
    mm_projector_lr: float | None = _flag(
        None, "Learning rate of the projector, if it has its own."
    )
    mm_vision_tower_lr: float | None = _flag(
        None, "Learning rate of the vision tower (SEA-PRIME: 2e-6)."
    )
    group_by_modality_length: bool = _flag(
        False, "Batches of one modality and like length (stage 2)."
    )
    pack_sequences: bool = _flag(
        False,
        "Stage 2: a micro-batch's samples one after the other, each attending to itself "
        "alone, instead of padded rows; the same loss.",
    )
    lora_enable: bool = _flag(False, "Stage 2: train LoRA adapters of the LLM, not the LLM.")
    lora_r: int = _flag(64, "Inner width of the adapters.")
    lora_alpha: int = _flag(16, "The adapters are scaled by alpha / r.")
    lora_dropout: float = _flag(0.05, "Dropout before the adapters.")
    lora_bias: str = _flag(
        "none", "Which of the LLM's biases are trained with LoRA.", ["none", "all", "lora_only"]
    )
    # As text, too: transformers' own field takes a dict, which no command line can pass.
    liger_kernel_config: dict[str, bool] | str | None = _flag(  # type: ignore[assignment]  # noqa: RUF009
        None,
        "JSON of Liger's kernels that are turned on or off, with --use_liger_kernel True; "
        "default: all that fit.",
    )
    bits: int = _flag(16, "16, or with LoRA 4 or 8: the LLM quantised by bitsandbytes (QLoRA).")
    double_quant: bool = _flag(True, "QLoRA: quantise the quantisation constants too.")
    quant_type: str = _flag("nf4", "QLoRA: 4-bit numbers.", ["nf4", "fp4"])
    attn_implementation: str | None = _flag(
        None, "Attention, as transformers names it; train_mem.py picks the fastest."
    )

    def __post_init__(self) -> None:
        """Fill in what LLaVA's users expect; refuse what is not there yet."""
        check_ranges("train", self)
        refused = {
            "load_best_model_at_end": "no checkpoint is measured during training that could be "
            "called the best; the last one is kept",
            "eval_on_start": "--sea_eval_data is measured before the first step as it is",
            "save_only_model": "a checkpoint without its optimizer cannot be resumed",
            "label_smoothing_factor": "L_g is the plain next-token loss (eq. 12)",
            "neftune_noise_alpha": "noise on the embeddings would change what L_a compares with",
        }
        for flag, reason in refused.items():
            if getattr(self, flag):
                raise UserError(f"--{flag} {getattr(self, flag)}: not supported, {reason}")
        if self.save_strategy == "best":
            raise UserError("--save_strategy best: nothing says which is best; use steps or epoch")
        check_folder(Path(self.output_dir or "."), "--output_dir")
        if self.deepspeed:
            given, self.deepspeed = self.deepspeed, read_engine(self.deepspeed)
            super().__post_init__()
            check_agreement(describe(given), self)
            self.deepspeed = given
        else:
            super().__post_init__()
        if self.eval_strategy != "no":
            raise UserError(
                f"--eval_strategy {self.eval_strategy}: held-out measurements have flags of their "
                "own, --sea_eval_data and --sea_eval_steps"
            )
        if self.n_gpu > 1:
            raise UserError(
                f"{self.n_gpu} GPUs in one process: start it with `deepspeed` (one process for "
                "each), or show it one with CUDA_VISIBLE_DEVICES=0"
            )
        if self.use_liger_kernel or self.liger_kernel_config is not None:
            from llava_sea.train.liger import check_liger

            self.liger_kernel_config = check_liger(self.liger_kernel_config)
            if not self.use_liger_kernel:
                raise UserError("--liger_kernel_config needs --use_liger_kernel True")
        if self.bits not in (4, 8, 16):
            raise UserError(f"--bits {self.bits}: 16, or with --lora_enable True 4 or 8")
        if self.bits != 16 and not self.lora_enable:
            raise UserError(
                f"--bits {self.bits}: a quantised LLM cannot be trained itself; add --lora_enable "
                "True (QLoRA), or leave --bits out"
            )


class Arguments(NamedTuple):
    """All flags of a run."""

    model: ModelArguments
    data: DataArguments
    sea: SeaArguments
    training: TrainingArguments
