"""Transformers' Trainer, made to fit: losses by chunks, micro-batches that shrink, checkpoints without pickles."""

import contextlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils.memory import should_reduce_batch_size
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from secateur.distributed import (
    all_reduce_numbers,
    all_reduce_sum,
    barrier,
    broadcast,
    is_first,
    process_count,
    process_number,
)
from secateur.errors import TrainingError
from secateur.models.masks import Masks
from secateur.recovery import checkpoints
from secateur.recovery.callbacks import Rhythm, StepLosses, learning_rate_factor
from secateur.recovery.config import RecoverConfig
from secateur.recovery.datasets import Batch, Padding, Sequences, own_parts, scored_tokens, unscored
from secateur.recovery.masked import require_zeros
from secateur.recovery.sharding import average_unsharded_gradients, reduce_gradients, reshard, take_as_it_is, whole
from secateur.recovery.student import Student
from secateur.recovery.timing import TimeLimit
from secateur.recovery.workplace import Workplace

logger = logging.getLogger(__name__)

CROSS_ENTROPY, DIVERGENCE = "eval_cross_entropy", "eval_kl_divergence"
# A copy of the last good weights is cheap for an adapter and half a second for a whole model.
KEEP_GOOD_EVERY = {"lora": 1, "masked-lora": 1, "masked": 10, "full": 10}


class Diverged(Exception):
    """A loss or a gradient is not finite."""


@dataclass(frozen=True)
class TrainingData:
    """What a trainer learns from and looks at.

    Attributes:
        train: to learn from.
        validation: of the same source, for early stopping and the choice of the best weights; None without.
        extra: other texts by name, for their perplexity.
        padding: makes batches.
    """

    train: Sequences
    validation: Sequences | None
    extra: Mapping[str, Sequences]
    padding: Padding


class RecoveryTrainer(Trainer):
    """Trains a `Student`.

    One batch of the Trainer is one optimizer step, of all processes together: each draws the same one and takes its
    rows. They go through the model in parts of `progress.micro_batch_size` windows, each weighted by its tokens, so
    that the step is the same for any size of part and any number of processes.

    Args:
        student: the model.
        arguments: the Trainer's own.
        config: the command's.
        data: sequences.
        progress: filled in on the way, and replaced when a training is resumed.
        workplace: where checkpoints go.
        masks: where the model's zeros are that must stay.
    """

    def __init__(
        self,
        student: Student,
        arguments: TrainingArguments,
        config: RecoverConfig,
        data: TrainingData,
        progress: checkpoints.TrainingProgress,
        workplace: Workplace,
        masks: Masks,
    ) -> None:
        super().__init__(model=student, args=arguments, train_dataset=data.train, data_collator=data.padding)
        self.remove_callback(PrinterCallback)
        self.config = config
        self.data = data
        self.progress = progress
        self.workplace = workplace
        self.masks = masks
        self.limit = TimeLimit(config, progress, evaluates=bool(data.validation or data.extra))
        self.rhythm = Rhythm(config, progress, self.limit)
        self.add_callback(self.rhythm)
        self.losses = StepLosses(student.has_teacher)
        self._noticed = time.monotonic()
        self.good_weights: dict[str, Tensor] = {}
        self.good_step: int | None = None

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if isinstance(self.model, FSDPModule):
            take_as_it_is(self.accelerator)

    @property
    def student(self) -> Student:
        return cast(Student, self.model)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:
            given = self.config.warmup_steps

            def factor(step: int) -> float:
                warmup = (self.limit.expected or num_training_steps) // 20 if given is None else given
                return learning_rate_factor(step, num_training_steps, warmup, self.limit.share_used)

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self._optimizer, factor)
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Batches of all processes together, the same in each."""
        loader = DataLoader(
            self.data.train,
            batch_size=self.config.batch_size,
            sampler=self._get_train_sampler(),
            collate_fn=self.data.padding,
        )
        return prepare_data_loader(
            loader, num_processes=1, process_index=0, use_seedable_sampler=True, data_seed=self.args.data_seed
        )

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        model.train()
        loss = self._loss_with_gradients(model, inputs)
        self._require_finite(model, loss)
        self._keep_good_weights()
        mask = inputs.get("attention_mask")
        self.progress.tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())
        self.limit.step_took(self._spend(training=True))
        return loss

    def _loss_with_gradients(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss per token over the batch of all processes, its gradient added to the weights'."""
        while True:
            try:
                return self._parts_with_gradients(model, batch)
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                reason = str(error).strip().splitlines()[0]
            # Not in the except block: the error holds on to the tensors that did not fit.
            self._halve_micro_batch(reason, "--seqlen")
            model.zero_grad()

    def _parts_with_gradients(self, model: nn.Module, batch: Batch) -> Tensor:
        # Processes' gradients are averaged where they should be added up.
        factor = process_count() / max(1, int(scored_tokens(batch["labels"])))
        parts = own_parts(batch, self.progress.micro_batch_size)
        total = torch.zeros(3, device=self.args.device)  # the loss, and what it is made of
        for part in parts:
            last = part is parts[-1]
            reduce_gradients(model, now=last)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                with self.accelerator.autocast():
                    self.student.parts = None
                    loss = model(**self._prepare_inputs(part)) * factor
                self.accelerator.backward(loss)
            total[0] += loss.detach().to(total.device)
            if self.student.parts is not None:
                total[1:] += self.student.parts.to(total.device) * factor
        if self.config.fsdp:
            average_unsharded_gradients(model)
        mean, cross_entropy, divergence = all_reduce_sum(total) / process_count()
        if self.student.parts is not None:
            self.losses.add(float(cross_entropy), float(divergence))
        return mean

    def _halve_micro_batch(self, reason: str, remedy: str) -> None:
        size = self.progress.micro_batch_size
        if size == 1 or process_count() > 1:
            smaller = "" if size == 1 else " or --micro-batch-size"
            raise TrainingError(
                f"memory is short with windows at once: {size} ({reason}); lower {remedy}{smaller}, or "
                "pass --gradient-checkpointing"
            )
        self.progress.micro_batch_size = size // 2
        logger.warning("Memory is short with %d windows at once; going on with %d", size, size // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _require_finite(self, model: nn.Module, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            raise Diverged(f"the loss is {float(loss)}")
        # A gradient scaler meets infinities on its way to the right scale, and skips those steps.
        if getattr(self.accelerator, "scaler", None) is None:
            gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
            norm = whole(torch.nn.utils.get_total_norm(gradients))
            if not bool(torch.isfinite(norm)):
                raise Diverged(f"the norm of the gradient is {float(norm)}")

    def _keep_good_weights(self) -> None:
        """Copy the weights that have just given a finite loss."""
        if self.state.global_step % KEEP_GOOD_EVERY[self.config.method]:
            return
        checkpoints.keep_own_weights(self.student, self.good_weights)
        self.good_step = self.state.global_step

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self.losses.means())
        super().log(logs, start_time)

    def _spend(self, training: bool) -> float:
        """Put the seconds since the last call down to training, or to something else."""
        now = time.monotonic()
        # One clock, the first process's: the learning rate and the end depend on it.
        seconds = float(broadcast(torch.tensor(now - self._noticed, dtype=torch.float64)))
        self._noticed = now
        self.progress.seconds += seconds
        if training:
            self.progress.training_seconds += seconds
        return seconds

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Validation losses in nats per token and the perplexity of the extra texts; keeps the best weights.

        Raises `TrainingError` where a zero of the model was lost.
        """
        self._spend(training=self.state.global_step > 0)
        if not self.config.fsdp:
            require_zeros(self.student.base, self.masks)
        metrics: dict[str, float] = {}
        if self.data.validation is not None:
            metrics.update(self._validated(self.data.validation))
        for name, sequences in self.data.extra.items():
            metrics[f"eval_perplexity {name}"] = math.exp(min(self.mean_loss(sequences), 700.0))
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if CROSS_ENTROPY in metrics:
            self._judge(metrics[CROSS_ENTROPY])
        self.limit.evaluation_took(self._spend(training=False))
        return metrics

    def _validated(self, sequences: Sequences) -> dict[str, float]:
        """Cross entropy, and divergence from the teacher where there is one, of the validation windows."""
        self.student.hears_teacher = self.student.has_teacher
        try:
            cross_entropy, divergence = self._means(sequences)
        finally:
            self.student.hears_teacher = False
        return {CROSS_ENTROPY: cross_entropy, **({DIVERGENCE: divergence} if self.student.has_teacher else {})}

    def mean_loss(self, sequences: Sequences) -> float:
        """Cross entropy per scored token, of the sequences of all processes together."""
        return self._means(sequences)[0]

    @torch.no_grad()
    def _means(self, sequences: Sequences) -> tuple[float, float]:
        """Cross entropy and, while the student hears its teacher, divergence per scored token."""
        self.student.eval()
        total, apart, tokens, start = 0.0, 0.0, 0, 0
        own = range(process_number(), len(sequences), process_count())
        most = math.ceil(len(sequences) / process_count())
        while start < most:
            end = start + self.progress.micro_batch_size
            chosen = self.data.padding([sequences[number] for number in own[start:end] or own[:1] or range(1)])
            batch: Batch = self._prepare_inputs(chosen if own[start:end] else unscored(chosen))
            batch["index"] = batch["index"] + len(self.data.train)
            try:
                with self.accelerator.autocast():
                    total += float(self.student(**batch))
                if self.student.hears_teacher and self.student.parts is not None:
                    apart += float(self.student.parts[1])
            except (RuntimeError, MemoryError) as error:
                if not lacks_memory(error):
                    raise
                reason = str(error).strip().splitlines()[0]
            else:
                tokens += int(scored_tokens(batch["labels"]))
                start = end
                continue
            self._halve_micro_batch(reason, "--seqlen")
        if self.config.fsdp:
            reshard(self.student)
        total, apart, scored = all_reduce_numbers(total, apart, tokens)
        return total / max(1, scored), apart / max(1, scored)

    def _judge(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(f"the validation loss is {loss}")
        progress, patience = self.progress, self.config.early_stopping_patience
        if progress.best_loss is None or loss < progress.best_loss:
            progress.best_loss, progress.best_step = loss, self.state.global_step
            progress.evaluations_without_gain = 0
            weights = checkpoints.gathered_weights(self.student)
            if is_first():
                with self.workplace.new_best() as directory:
                    save_file(weights, directory / checkpoints.WEIGHTS)
            return
        progress.evaluations_without_gain += 1
        if patience is not None and progress.evaluations_without_gain >= patience:
            logger.info("No lower validation cross entropy in %d evaluations: stopping", patience)
            self.control.should_training_stop = True

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._spend(training=True)
        weights = checkpoints.gathered_weights(self.student)
        optimizer = checkpoints.gathered_optimizer(self._optimizer)
        if is_first():
            with self.workplace.new_checkpoint(self.state.global_step) as directory:
                save_file(weights, directory / checkpoints.WEIGHTS)
                checkpoints.write_training_state(directory, optimizer, self.lr_scheduler, self._scaler, self.progress)
                self.state.save_to_json(str(directory / TRAINER_STATE_NAME))
        barrier()
        self.rhythm.saved(self._spend(training=False))

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return cast(torch.optim.Optimizer, self.optimizer)

    @property
    def _scaler(self) -> Any:
        return getattr(self.accelerator, "scaler", None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with checkpoints.readable(Path(resume_from_checkpoint)):
            weights = load_file(Path(resume_from_checkpoint) / checkpoints.WEIGHTS)
            checkpoints.load_weights(self.student, weights)
            before = checkpoints.read_progress(Path(resume_from_checkpoint))
        before.micro_batch_size = min(before.micro_batch_size, self.progress.micro_batch_size)
        vars(self.progress).update(vars(before))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with checkpoints.readable(Path(checkpoint)):
                checkpoints.read_training_state(Path(checkpoint), self._optimizer, self.lr_scheduler, self._scaler)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """The scaler's state comes with the optimizer's."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        # The file holds the generators of the first process; the same for all would repeat its dropout everywhere.
        if checkpoint is not None and process_count() == 1:
            with checkpoints.readable(Path(checkpoint)):
                checkpoints.restore_random_state(Path(checkpoint))


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU or the machine has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and (any(sign in text for sign in signs) or should_reduce_batch_size(error))
