"""What a training gave, and the record of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel
from transformers import PreTrainedModel

from secateur.console import counted
from secateur.data import Corpus
from secateur.models.masks import sparsity_of
from secateur.recovery.config import RecoverConfig
from secateur.recovery.datasets import Amount
from secateur.recovery.trainer import RecoveryTrainer
from secateur.showing import Drawn, flat

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(repr=False)
class RecoverResult(Drawn):
    """What a training gave.

    Attributes:
        model: the trained model, in evaluation mode; with the adapter unmerged beside its weights unless merged.
        output: the directory written: an adapter (method lora, not merged) or a model; None where none was.
        history: by step: `step`; `loss`, what is trained on, and what it is made of, `cross_entropy` and, with a
            teacher, `kl_divergence` from it, all as means over the steps since the entry before, in nats per token;
            `learning_rate`, `grad_norm`; of the validation windows `eval_cross_entropy` and, with a teacher,
            `eval_kl_divergence`; `perplexity` by text. Step 0 is before training.
        steps: optimizer steps done.
        tokens: tokens trained on, each epoch counted.
        sequences: different windows or examples that the steps have seen.
        sequences_given: how many the data has, those for validation included; None where that is not known.
        seconds: training and evaluation, all runs of a resumed training together.
        tokens_per_second: of the optimizer steps, evaluation not counted.
        best_step: the step whose weights these are, where there is a validation cross entropy.
        micro_batch_size: windows that went through the model at once in the end.
        method: how, as it was settled.
        sparsity: share of zeros in the matrices that have them, before and after; None for a dense model.
        corpus: what was trained on, in words: how much of which data.
        source: its identity, `Corpus.source`.
    """

    model: PreTrainedModel | PeftModel
    output: Path | None
    history: list[dict[str, Any]]
    steps: int
    tokens: int
    sequences: int
    sequences_given: int | None
    seconds: float
    tokens_per_second: float
    best_step: int | None
    micro_batch_size: int
    method: str
    sparsity: float | None
    corpus: str
    source: str

    def headline(self) -> str:
        names = ("eval_cross_entropy", "eval_loss")
        losses = [step[name] for step in self.history for name in names if name in step]
        found = f", validation cross entropy {losses[0]:.3f} → {min(losses):.3f}" if losses else ""
        where = f", in {self.output}" if self.output else ""
        steps = counted(self.steps, "step")
        return f"{self.method}, {steps} on {self.tokens:,} tokens, {self.seconds:.1f} s{found}{where}"

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [flat(step) for step in self.history]

    def plot(self) -> "Figure":
        from secateur.report import figure_of, loss_curve

        return figure_of(loss_curve, self.history)

    def to_dict(self) -> dict[str, Any]:
        """All but the model, as `recovery.json` holds it."""
        return {name: value for name, value in vars(self).items() if name not in ("model", "output")}


def result_of(
    trainer: RecoveryTrainer, model: PreTrainedModel | PeftModel, output: Path, corpus: Corpus, amount: Amount
) -> RecoverResult:
    progress = trainer.progress
    # An epoch takes each sequence once, so the first steps see as many as they take.
    seen = min(len(trainer.data.train), trainer.state.global_step * trainer.config.batch_size)
    return RecoverResult(
        model=model,
        output=output,
        history=history_of(trainer.state.log_history),
        steps=trainer.state.global_step,
        tokens=progress.tokens,
        sequences=seen,
        sequences_given=amount.given,
        seconds=progress.seconds,
        tokens_per_second=progress.tokens / max(progress.training_seconds, 1e-9),
        best_step=progress.best_step,
        micro_batch_size=progress.micro_batch_size,
        method=trainer.config.method,
        sparsity=sparsity_of(trainer.masks) if trainer.masks else None,
        corpus=f"{amount.told(seen)} of {corpus.title}",
        source=corpus.source,
    )


def history_of(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The Trainer's log, one entry per step."""
    entries: dict[int, dict[str, Any]] = {}
    for record in log:
        if "train_runtime" in record:
            continue
        entry = entries.setdefault(record["step"], {"step": record["step"]})
        for name, value in record.items():
            if name.startswith("eval_perplexity "):
                entry.setdefault("perplexity", {})[name.removeprefix("eval_perplexity ")] = value
            else:
                entry[name] = value
    return [entries[step] for step in sorted(entries)]


def record_of(result: RecoverResult, config: RecoverConfig) -> dict[str, Any]:
    settings = {**config.model_dump(), "lr": config.learning_rate}
    return {**result.to_dict(), "settings": settings}
