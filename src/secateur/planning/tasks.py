"""The commands that are planned: the phases of each, and how it can be told to need less memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

from secateur.console import flag
from secateur.planning.calibration import admm, magnitude, prune_phases, search, sparsegpt, wanda
from secateur.planning.phase import Phase, Setting
from secateur.planning.running import evaluate, full, load, lora, thrifty

FEWEST_WINDOWS = 8
SPARSIFIED = {key: key for key in ("windows", "seqlen", "batch_size", "dtype")}
CALIBRATED = {"ratio": "ratio", "own_text": "own_text", **SPARSIFIED}
EVALUATED = {"evaluate_windows": "windows", "seqlen": "seqlen", "batch_size": "batch_size", "dtype": "dtype"}
RECOVERED = {
    "recover_samples": "samples",
    "recover_epochs": "epochs",
    "recover_batch_size": "batch_size",
    "seqlen": "seqlen",
    "lora_r": "lora_r",
    "dtype": "dtype",
}


@dataclass(frozen=True, eq=False)
class Task:
    """One command.

    Attributes:
        command: its name; empty for what is none.
        phases: what it does, one after another, all of it in one layout.
        output: where the command that is proposed writes.
        method: options that say which of its methods; MODEL stands for the model's name.
        options: fields of the plan's config that it takes, and the names that it has for them.
        smaller: those of them that may be made smaller where the command does not fit.
        trains: whether it can compute activations anew, and take one window at a time.
        streams: whether it has `--stream`, which is not planned with.
    """

    command: str
    phases: Callable[[Setting], Sequence[Phase]]
    output: str = ""
    method: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    smaller: Sequence[str] = ()
    trains: bool = False
    streams: bool = False

    @property
    def title(self) -> str:
        """The command and its method: `recover --method lora`."""
        return f"{self.command} {self.method}".strip()

    def settings(self, asked: Setting) -> Iterator[list[Setting]]:
        """The setting as asked and with smaller batches; then the same with fewer and fewer windows."""
        if self.trains:
            yield thrifty(asked)
            return
        counts, most = [asked.config.windows], asked.config.batch_size
        batches = [most >> power for power in range(most.bit_length())] if "batch_size" in self.smaller else [most]
        while "windows" in self.smaller and counts[-1] >= 2 * FEWEST_WINDOWS:
            counts.append(counts[-1] // 2)
        for count in counts:
            changes = [{"windows": count, "batch_size": batch} for batch in batches]
            yield [replace(asked, config=asked.config.model_copy(update=change)) for change in changes]

    def reductions(self, asked: Setting, used: Setting) -> str:
        """The options that make the setting smaller: `--batch-size 1 --windows 16`."""
        changed = [key for key in self.smaller if getattr(used.config, key) != getattr(asked.config, key)]
        return " ".join(f"{flag(self.options[key])} {getattr(used.config, key)}" for key in changed)

    def line(self, model: str, asked: Setting) -> str:
        """The command with what the plan was told: `prune MODEL -o out/pruned --ratio 0.3`."""
        told = [
            f"{flag(option)} {_shown(getattr(asked.config, key))}"
            for key, option in self.options.items()
            if key in asked.config.model_fields_set
        ]
        output = f"-o {self.output}" if self.output else ""
        return " ".join(filter(None, (self.command, model, output, self.method.replace("MODEL", model), *told)))


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _one(phase: Callable[..., Phase], **options: Any) -> Callable[[Setting], Sequence[Phase]]:
    return lambda setting: [phase(setting, **options)]


_calibrated = partial(Task, options=CALIBRATED, smaller=("batch_size", "windows"))
TASKS = (
    Task("", _one(load)),
    Task("evaluate", _one(evaluate), options=EVALUATED, smaller=("batch_size",), streams=True),
    _calibrated("prune", prune_phases, "out/pruned", streams=True),
    _calibrated("search", _one(search), "out/search"),
    *(
        _calibrated("sparsify", _one(phase), f"out/{name}", f"--method {name}", options=SPARSIFIED, streams=True)
        for name, phase in (("magnitude", magnitude), ("wanda", wanda), ("sparsegpt", sparsegpt), ("admm", admm))
    ),
    *(
        Task(
            "recover",
            _one(phase, teacher=teacher),
            "out/recovered",
            f"--method {name}" + " --teacher MODEL" * teacher,
            RECOVERED,
            trains=True,
        )
        for name, phase in (("lora", lora), ("full", full))
        for teacher in (False, True)
    ),
)


# Every task is asked for in every layout, and for advice with every number of devices.
@lru_cache(maxsize=256)
def phases_of(task: Task, setting: Setting) -> Sequence[Phase]:
    """The phases of a task in a setting."""
    return task.phases(setting)
