"""HF Trainer, thinly subclassed: data order, the sum of the losses, learning rates, checkpoints.

Normalisation. Engines average gradients over W ranks and add them up over A micro-batches. L_g is
divided by the number of supervised tokens of the whole step, so its gradient does not depend on how
the step is cut up. L_a is the mean over the A x W micro-batches of each one's own mean (or, with
global negatives, over the A micro-batches of the loss over all ranks), so lambda means the same at
any accumulation and any number of ranks. `compute_loss` holds the whole arithmetic.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import DeepSpeedSchedulerWrapper
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer
from transformers.integrations import is_deepspeed_zero3_enabled

from llava_sea.alignment import PatchWords
from llava_sea.data.collator import Collator
from llava_sea.data.dataset import LazySupervisedDataset, Loader
from llava_sea.data.packing import PackedBatchSampler
from llava_sea.data.sampler import EpochBatchSampler, ModalityBatchSampler
from llava_sea.errors import UserError, cannot_write, failed_write, newest_file
from llava_sea.model.stage1 import Stage1Model
from llava_sea.model.wrapped import StepLosses, WrappedLlava
from llava_sea.train import checkpoint as checkpoints
from llava_sea.train.arguments import SeaArguments, TrainingArguments
from llava_sea.train.evaluation import MeasureAlignment
from llava_sea.train.liger import use_liger
from llava_sea.train.precision import describe
from llava_sea.train.saving import Saver, count, trained
from llava_sea.train.stop import guard_worker

logger = logging.getLogger(__name__)


@dataclass
class Prepared:
    """A stage's parts for the trainer."""

    model: WrappedLlava
    dataset: LazySupervisedDataset
    collator: Collator
    saver: Saver
    measure: MeasureAlignment | None = None


def sea_weight(sea: SeaArguments, progress: float) -> float:
    """Return lambda (eq. 13) at a share of the run's steps: constant, or to 0 at its middle.

    Of the alignment loss alone it is 1.
    """
    if sea.sea_align_only:
        return 1.0
    if sea.sea_weight_schedule == "decay":
        return sea.sea_weight * max(0.0, 1.0 - 2.0 * progress)
    return sea.sea_weight


def own_part(parameter: Tensor, rank: int) -> Tensor:
    """Return what a rank holds of a parameter: all of it, or of ZeRO-3's its share.

    A share is padded where the number of ranks does not divide the parameter's size, and nobody
    sets the padding: it may well be NaN.
    """
    share = getattr(parameter, "ds_tensor", None)
    if share is None:
        return parameter.detach()
    left = getattr(parameter, "ds_numel", 0) - rank * share.numel()
    return share.detach().flatten()[: max(0, left)]


class LLaVATrainer(Trainer):
    """Trains a `WrappedLlava`."""

    args: TrainingArguments

    def __init__(self, *args: Any, sea: SeaArguments, saver: Saver, **kw: Any):
        """As Trainer, with the alignment flags and what writes the model."""
        self.sea = sea
        self.saver = saver
        self._sums: dict[str, Tensor] = {}
        self._steps_summed: set[int] = set()
        options, model = kw["args"], kw["model"]
        used = "none"
        if options.use_liger_kernel:
            used = use_liger(model, options.liger_kernel_config, zero3=is_deepspeed_zero3_enabled())
            # transformers would patch a causal LM's forward, which is never called here.
            options.use_liger_kernel = False
        # transformers would delete older checkpoints before the new one is sealed.
        self._num_kept, options.save_total_limit = options.save_total_limit, None
        super().__init__(*args, **kw)
        logger.info("%s; Liger: %s", describe(model), used)

    # --- data ---------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Make the loader ourselves: its sampler knows ranks and epochs."""
        args, dataset, collate = self.args, self.train_dataset, self.data_collator
        assert isinstance(dataset, LazySupervisedDataset) and collate is not None
        size, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
        options: dict[str, Any] = dict(
            rank=args.process_index,
            world_size=args.world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            epoch_of=lambda: int(self.state.epoch or 0),
            drop_last=args.dataloader_drop_last,
        )
        sampler: EpochBatchSampler
        if args.group_by_modality_length:
            lengths = dataset.modality_lengths
            sampler = ModalityBatchSampler(lengths, size, accumulation=accumulation, **options)
        else:
            sampler = EpochBatchSampler(len(dataset), size, **options)
        batches: Sampler[list[tuple[int, int]]] = sampler
        if args.pack_sequences:
            lengths = dataset.modality_lengths
            batches = PackedBatchSampler(sampler, lengths, accumulation=accumulation)
        workers = args.dataloader_num_workers
        return Loader(
            dataset,
            collate,
            batch_sampler=batches,
            num_workers=workers,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=args.dataloader_persistent_workers and workers > 0,
            prefetch_factor=args.dataloader_prefetch_factor if workers else None,
            worker_init_fn=guard_worker,
        )

    # --- loss ---------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return L_g + lambda * L_a (eq. 13), scaled for the engine to average over ranks."""
        output: StepLosses = model(**inputs)
        world = self.args.world_size
        loss: Any = 0.0
        if not self.sea.sea_align_only:
            tokens = output.num_tokens if num_items_in_batch is None else num_items_in_batch
            scale = world if self.args.average_tokens_across_devices else 1
            loss = output.lm_loss_sum * scale / tokens
            self._add("lm_loss", loss)
        if output.sea_loss is not None and output.num_pairs is not None:
            share = output.sea_loss / self.current_gradient_accumulation_steps
            pairs = output.num_pairs / self.current_gradient_accumulation_steps
            if self.sea.sea_negatives == "global":
                share = share * world
            loss = loss + self.lambda_now() * share
            self._add("sea_loss", share)
            self._add("sea_pairs", pairs)
            words = PatchWords(**inputs["sea"])
            self._last_labels = torch.where(words.valid_N, words.label_N, -1)
        return (loss, output) if return_outputs else loss

    def lambda_now(self) -> float:
        """Return lambda at the current step."""
        return sea_weight(self.sea, self.state.global_step / max(1, self.state.max_steps))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As Trainer, with groups of their own for parts that have a learning rate of their own."""
        if self.optimizer is not None:
            return self.optimizer  # DeepSpeed's path asks twice
        optimizer = super().create_optimizer(model)
        rates: dict[nn.Module, float | None] = {
            self.wrapped.projector: self.args.mm_projector_lr,
            self.wrapped.vision_tower: self.args.mm_vision_tower_lr,
        }
        for part, rate in rates.items():
            if rate is None:
                continue
            members = {id(p) for p in part.parameters()}
            for group in list(optimizer.param_groups):
                own = [p for p in group["params"] if id(p) in members]
                group["params"] = [p for p in group["params"] if id(p) not in members]
                if own:
                    optimizer.add_param_group({**group, "params": own, "lr": rate})
        optimizer.param_groups[:] = [g for g in optimizer.param_groups if g["params"]]
        for group in optimizer.param_groups:
            numbers = f"{count(group['params']):,}", group["lr"], group["weight_decay"]
            logger.info("%14s parameters at %g, weight decay %g", *numbers)
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """As Trainer; ZeRO's optimizers lack the rate that cosine_with_min_lr and others read."""
        made: Any = self.optimizer if optimizer is None else optimizer
        if not hasattr(made, "defaults"):
            made.defaults = {"lr": self.args.learning_rate}
        return super().create_scheduler(num_training_steps, optimizer)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Weight decay is for matrices; the temperature has none."""
        return [n for n in super().get_decay_parameter_names(model) if n != "head.log_scale_delta"]

    # --- log ----------------------------------------------------------------------------------

    def _add(self, name: str, value: Tensor) -> None:
        value = value.detach().float()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps_summed.add(self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss, averaged over ranks and the steps since the last log."""
        if "loss" in logs and self._sums:
            means = torch.stack(list(self._sums.values())) / len(self._steps_summed)
            if self.args.world_size > 1:
                dist.all_reduce(means)
                means /= self.args.world_size
            logs.update(zip(self._sums, means.tolist(), strict=True))
            if not means.isfinite().all():
                raise UserError(self._diverged(f"the loss is {means.tolist()[0]:g}"))
            if "sea_loss" in self._sums:
                logs.update(self._log_alignment())
            self._sums, self._steps_summed = {}, set()
        super().log(logs, start_time)

    def _diverged(self, what: str) -> str:
        sealed = checkpoints.complete_checkpoints(Path(self.args.output_dir or "."))
        kept = f"; {sealed[-1]} is the last good checkpoint" if sealed else ""
        return (
            f"step {self.state.global_step}: {what}, training cannot continue{kept}. Lower "
            f"--learning_rate {self.args.learning_rate:g} or raise --warmup_steps, in another "
            "--output_dir"
        )

    def _log_alignment(self) -> dict[str, float]:
        """Lambda and tau of the step just taken, and the distinct labels of its last batch."""
        labels_N = self._last_labels
        if self.args.world_size > 1:
            parts = [torch.empty_like(labels_N) for _ in range(self.args.world_size)]
            dist.all_gather(parts, labels_N)
            labels_N = torch.cat(parts)
        progress = (self.state.global_step - 1) / max(1, self.state.max_steps)
        model = self.wrapped
        assert isinstance(model, Stage1Model)
        return {
            "sea_weight": sea_weight(self.sea, progress),
            "temperature": model.temperature(),
            "sea_unique_labels": len(labels_N[labels_N >= 0].unique()),
        }

    # --- checkpoints --------------------------------------------------------------------------

    @property
    def wrapped(self) -> WrappedLlava:
        """The model without the engine around it."""
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(model, WrappedLlava)
        return model

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model as its saver does; every rank calls this."""
        path = Path(output_dir or self.args.output_dir or ".")
        own = (own_part(p, self.args.process_index) for p in trained(self.wrapped))
        broken = torch.stack([~part.isfinite().all() for part in own]).any().float()
        if self.args.world_size > 1:
            dist.all_reduce(broken)
        if broken:
            raise UserError(self._diverged("a weight is not finite"))
        self.saver.save(self.wrapped, path, write=self.args.should_save)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Trainer leaves frozen weights out for PEFT models only; here they always stay out."""
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        engine: Any = self.model_wrapped
        engine.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        if self.args.should_save and not isinstance(self.lr_scheduler, DeepSpeedSchedulerWrapper):
            schedule: Any = self.lr_scheduler
            torch.save(schedule.state_dict(), Path(output_dir) / "scheduler.pt")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save, wait for all ranks, seal, and only then delete older checkpoints."""
        root = Path(self.args.output_dir or ".")
        path = root / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and path.exists():
            (path / checkpoints.CHECKSUMS).unlink(missing_ok=True)
            shutil.rmtree(path)
        self._barrier()
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            failed = failed_write(error, newest_file(path))
            if failed is None:
                raise
            raise UserError(cannot_write(failed, "Earlier checkpoints are untouched")) from error
        self._barrier()
        if self.args.should_save:
            checkpoints.seal(path)
            checkpoints.rotate(root, self._num_kept)
        self._barrier()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Without DeepSpeed the weights come from the files that the saver wrote.

        DeepSpeed loads shards of its own, which are pickles: `checkpoint` says what that means.
        """
        self.saver.load(self.wrapped, Path(resume_from_checkpoint))

    def _barrier(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()
