"""Training: dense while attention takes shape, block-sparse after that.

Yoon, Lee, Kim, Moon 2024, "Exploring Attention Sparsity to Accelerate Transformer Training on GPUs".
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from secateur.console import track
from secateur.distributed import all_reduce_together, any_process, broadcast
from secateur.errors import TrainingError
from secateur.longrange.checkpoint import (
    BEST,
    LAST,
    TrainState,
    load_optimiser,
    load_watch,
    optimiser_tensors,
    read_checkpoint,
    restoring,
    watch_tensors,
    write_checkpoint,
)
from secateur.longrange.config import LongRangeConfig, towers
from secateur.longrange.data import Batch, LongRangeData
from secateur.longrange.evaluate import accuracy_of
from secateur.longrange.model import LongRangeModel
from secateur.longrange.options import TrainConfig
from secateur.longrange.pattern import BlockPattern, PatternLearner, choose_patterns
from secateur.longrange.schedule import batch_of_step, learning_rate
from secateur.longrange.statistics import AttentionWatch, LayerFigures, LayerStatistics, layer_figures
from secateur.longrange.switch import Switch
from secateur.models.memory import now, peak_growth

logger = logging.getLogger(__name__)

DENSE, CHECKED, SPARSE = "dense", "checked", "sparse"
MEASURED_STEP = 2
LOG_EVERY = 10
Report = Callable[[dict[str, float], int], None]


@dataclass
class Trainer:
    """A training in a run directory. `train` goes on where an earlier one with the same settings stopped.

    Attributes:
        config: model, training and sizes of the splits.
        options: of the command.
        data: the examples.
        directory: of the run; the first process writes there.
        report: is given figures by name and the step.
        parts: pieces that a process's share of a batch is split into, so that each fits in memory; as many everywhere.
    """

    config: LongRangeConfig
    options: TrainConfig
    data: LongRangeData
    directory: Path
    accelerator: Accelerator
    report: Report = lambda figures, step: None
    parts: int = 1
    state: TrainState = field(default_factory=TrainState)

    def __post_init__(self) -> None:
        torch.manual_seed(self.options.seed)
        sizes = self.config.model
        self.model = LongRangeModel(sizes, towers(self.options.task)).to(self.accelerator.device)
        self.learner = PatternLearner(sizes.num_layers, sizes.num_blocks, sizes.head_dim).to(self.accelerator.device)
        self.switch = Switch.of(self.config.training)
        self.watch = AttentionWatch(sizes.num_blocks, sizes.block_size)
        self.seen: list[LayerStatistics] = []
        # For its precision only: the processes add their gradients up when all of them have theirs.
        self.wrapped: nn.Module = self.accelerator.prepare_model(self.model, evaluation_mode=True)
        self.optimiser = self._new_optimiser()

    @property
    def is_watching(self) -> bool:
        """Whether attention is dense and may become sparse."""
        return self.options.mode != "dense" and self.state.switched is None

    def train(self) -> TrainState:
        """Train to the end, or until accuracy no longer rises. The best model is in `best.safetensors`.

        Raises:
            TrainingError: the loss is not finite, or a single example does not fit in memory.
            DataError: a checkpoint is damaged.
        """
        self._resume()
        training = self.config.training
        if self._is_done():
            return self.state
        if self.options.mode == "sparse" and self.state.switched is None:
            self._look_first()
        for _ in track(range(self.state.step, training.num_train_steps), "Training"):
            self._step()
            if self.state.step % training.eval_frequency == 0 or self.state.step == training.num_train_steps:
                self._evaluate()
                if self._is_done():
                    logger.info("accuracy on dev has not risen for %d evaluations: training ends", training.patience)
                    break
        return self.state

    def _new_optimiser(self) -> torch.optim.Optimizer:
        training = self.config.training
        parameters: list[dict[str, Any]] = [
            {"params": list(self.model.parameters()), "weight_decay": training.weight_decay},
            {"params": list(self.learner.parameters()), "weight_decay": 0.0, "lr": training.attn_loss_scale},
        ]
        return torch.optim.AdamW(parameters, lr=training.learning_rate)

    def _resume(self) -> None:
        file = self.directory / LAST
        if not file.is_file():
            return
        tensors, state = read_checkpoint(file, self.options.task)
        if state is None:
            raise TrainingError(f"{file} is a finished model and no training; pass --overwrite to train anew")
        self.state = state
        with restoring(file):
            self.model.load_state_dict(_below(tensors, "model."))
            self.learner.load_state_dict(_below(tensors, "learner."))
            load_optimiser(self.optimiser, tensors)
            load_watch(self.watch, _below(tensors, "watch."))
            self.switch = Switch.of_record(state.switch)
        logger.info("goes on at step %d", state.step)

    def _step(self) -> None:
        training, state = self.config.training, self.state
        checked = self.is_watching and state.step % self.options.check_every == 0
        kind = SPARSE if state.switched is not None else CHECKED if checked else DENSE
        # The same dropout whether the training was stopped or not.
        torch.manual_seed(self.options.seed * 1_000_003 + state.step * 1009 + self.accelerator.process_index)
        self.optimiser.param_groups[0]["lr"] = learning_rate(training, state.step, state.switched is not None)
        batch = self._batch(state.step)
        measured = kind not in state.memory and len(state.seconds.get(kind, [])) == MEASURED_STEP
        start = now(self.model)
        if measured:
            state.memory[kind] = peak_growth(lambda: self._learn(batch, checked), self.accelerator.device)
        else:
            self._learn(batch, checked)
            state.seconds.setdefault(kind, []).append(now(self.model) - start)
        state.step += 1
        if self.is_watching and self.switch.update(state.step, self._figures()):
            self._go_sparse(str(self.switch.reason))

    def _learn(self, batch: Batch, checked: bool) -> None:
        """One step of the optimiser; shares are split and their gradients summed where one does not fit in memory.

        What was seen of the attention is in `seen`: nothing where it is not to be looked at, or the batch was split
        under way.
        """
        self.wrapped.train()
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            self.seen = []
            reason: str | None = None
            try:
                loss = self._gradients(batch, checked)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                reason = str(error).strip().partition("\n")[0]
            # Not in the except block: the error holds on to the tensors that did not fit.
            if not any_process(reason is not None):
                break
            self._split_further(reason)
            checked = False
        self._add_up(loss)
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"the loss is {float(loss)} at step {self.state.step}; take a smaller learning_rate or more warmup"
            )
        self.optimiser.step()
        if self.state.step % LOG_EVERY == 0:
            self.state.losses.append({"step": self.state.step, "loss": float(loss)})
            self.report({"train/loss": float(loss)}, self.state.step)

    def _split_further(self, reason: str | None) -> None:
        """Twice as many parts, in all processes, where memory was short in one of them."""
        largest = -(-self.config.training.batch_size // self.accelerator.num_processes)
        if self.parts >= largest:
            raise TrainingError(
                f"a single example does not fit in memory ({reason or 'in another process'}); take a smaller model or "
                "shorter sequences"
            )
        self.parts *= 2
        logger.warning("a batch does not fit in memory; it is split into %d parts", self.parts)

    def _gradients(self, batch: Batch, checked: bool) -> Tensor:
        """This process's part of the batch's mean loss and its gradients.

        Where attention is looked at, the first process's is, and the pattern learns from that.
        """
        total = torch.zeros((), device=self.accelerator.device)
        checked = checked and self.accelerator.is_main_process
        size = max(1, -(-len(batch.labels) // self.parts))
        for number, part in enumerate(batch.split(size)):
            collector = self._looking() if checked and number == 0 else None
            logits = self.wrapped(part.input_ids, part.input_ids_2, collector=collector)
            losses = functional.cross_entropy(logits.float(), part.labels, reduction="sum")
            loss = losses / self.config.training.batch_size  # the examples of all processes
            self.accelerator.backward(loss)
            total += loss.detach()
        if checked:
            self._learn_pattern()
        return total

    def _add_up(self, loss: Tensor) -> None:
        """The loss and the gradients of all processes together, in place."""
        if self.accelerator.num_processes > 1:
            for weight in self.model.parameters():
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
            all_reduce_together([loss, *(weight.grad for weight in self.model.parameters() if weight.grad is not None)])

    def _looking(self) -> Callable[[int, Tensor, Tensor, Tensor], None]:
        return lambda layer, query, key, mask: self.seen.append(self.watch.observe(layer, query, key, mask))

    def _learn_pattern(self) -> None:
        if self.options.pattern == "learned":
            attention = torch.stack([layer.block_attention for layer in self.seen])
            self.learner.loss(attention, self.seen[0].real_blocks).backward()

    @torch.no_grad()
    def _look_first(self) -> None:
        """Sparse from the first step on, by the attention that the untrained model pays to the first batch."""
        if self.accelerator.is_main_process:
            batch = self._batch(0)
            self.model.eval()
            self.model(batch.input_ids, batch.input_ids_2, collector=self._looking())
        self._go_sparse("asked for from the start", by_learner=False)

    def _go_sparse(self, reason: str, by_learner: bool = True) -> None:
        """Fix the patterns, the first process's for all, and start the optimiser anew."""
        size, blocks = self.config.model.block_size, self.model.pattern_blocks.to(torch.uint8)
        if self.accelerator.is_main_process:
            chosen = self._chosen(by_learner and self.options.pattern == "learned")
            blocks = torch.stack([pattern.blocks for pattern in chosen]).to(torch.uint8)
        self.model.patterns = [BlockPattern(layer, size) for layer in broadcast(blocks).bool()]
        self.state.switched, self.state.reason = self.state.step, reason
        self.state.best, self.state.stale = -1.0, 0
        self.watch.layers.clear()
        self.optimiser = self._new_optimiser()
        logger.info("attention is sparse from step %d on: %s", self.state.step, reason)

    def _chosen(self, learned: bool) -> list[BlockPattern]:
        """Patterns of what has been learned, or else seen, of the attention."""
        sizes = self.config.model
        watched = [self.watch.layers[index] for index in range(sizes.num_layers)]
        scores = self.learner.gram() if learned else [layer.block_attention for layer in watched]
        real_blocks = watched[0].seen.view(sizes.num_blocks, sizes.block_size).any(1)
        return choose_patterns(scores, sizes.density, sizes.block_size, real_blocks)

    def _figures(self) -> list[LayerFigures]:
        """What the first process has seen of the attention in this step."""
        figures = layer_figures(self.seen) if self.seen else []
        if self.accelerator.num_processes == 1:
            return figures
        numbers = torch.zeros(self.config.model.num_layers, 4, dtype=torch.float64)
        for row, layer in zip(numbers, figures, strict=False):
            row[:] = torch.tensor([1.0, layer.skewness, layer.distance, layer.change_percent])
        return [LayerFigures(*row) for seen, *row in broadcast(numbers).tolist() if seen]

    def _evaluate(self) -> None:
        training, state = self.config.training, self.state
        found = accuracy_of(
            self.model,
            self.data.dev,
            training.batch_size,
            self.accelerator,
            examples=self.config.dataset.dev,
            batches=training.num_eval_steps,
        )
        state.evaluations.append({"step": state.step, "accuracy": found.accuracy, "loss": found.loss})
        self.report({"dev/accuracy": found.accuracy, "dev/loss": found.loss}, state.step)
        logger.info("step %6d  accuracy on dev %.2f %%  loss %.4f", state.step, 100 * found.accuracy, found.loss)
        state.stale += 1
        if found.accuracy > state.best:
            state.best, state.stale = found.accuracy, 0
            self._write(BEST, self.model.state_dict(), None)
        state.switch = self.switch.record()
        watched = watch_tensors(self.watch)
        parts = {"model": self.model.state_dict(), "learner": self.learner.state_dict(), "watch": watched}
        tensors = {f"{kind}.{name}": value for kind, values in parts.items() for name, value in values.items()}
        self._write(LAST, tensors | optimiser_tensors(self.optimiser), state)

    def _write(self, name: str, tensors: dict[str, Tensor], state: TrainState | None) -> None:
        if self.accelerator.is_main_process:
            write_checkpoint(self.directory / name, self.options.task, tensors, state)

    def _is_done(self) -> bool:
        training = self.config.training
        # Without a switch patience counts from where the latest would have been, so that both have as much time.
        late = self.state.switched is not None or self.state.step > max(training.num_dense_train_steps, training.warmup)
        return bool(training.patience) and late and not self.is_watching and self.state.stale >= training.patience

    def _batch(self, step: int) -> Batch:
        """This process's share of a step's examples."""
        split, wanted = self.data.train, self.config.dataset.train
        examples = min(len(split), wanted or len(split))
        indices = batch_of_step(examples, self.config.training.batch_size, step, self.options.seed)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        device = self.accelerator.device
        # One length on CUDA, where the sparse kernel is compiled for each.
        length = self.config.model.max_seq_len if device.type == "cuda" else None
        return split.batch(indices[rank::processes].tolist(), pad_to=length).to(device)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
