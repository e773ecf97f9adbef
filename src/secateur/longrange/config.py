"""The options of learned sparse attention, one YAML file per task of the Long Range Arena."""

import difflib
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secateur.errors import OptionError
from secateur.files.input_text import read_input_text, shortened
from secateur.files.option_kinds import booleans_for_numbers
from secateur.files.shares import Ratio, hint
from secateur.files.yaml_text import dotted, read_yaml

TASK_NAMES = ("listops", "text", "retrieval", "image", "pathfinder")

LARGEST_WIDTH = 2**16
MOST_COMPLAINTS = 5

Pooling = Literal["MEAN", "CLS"]
Decay = Literal["linear", "cosine", "none"]


class Options(BaseModel):
    """A block of the YAML file."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class DatasetOptions(Options):
    """How many examples of each split are used."""

    train: int | None = Field(default=None, ge=1, description="Examples to train on at most; all unless given.")
    dev: int | None = Field(default=None, ge=1, description="Examples to evaluate on while training, at most.")
    test: int | None = Field(default=None, ge=1, description="Examples to evaluate on at the end, at most.")


class ModelOptions(Options):
    """The encoder, and the blocks of its attention."""

    learn_pos_emb: bool = Field(default=True, description="Position embeddings are learned; else sinusoidal.")
    tied_weights: bool = Field(default=False, description="All layers share the weights of one.")
    embedding_dim: int = Field(default=64, ge=1, le=LARGEST_WIDTH, description="Width of the token embeddings.")
    transformer_dim: int = Field(default=64, ge=1, le=LARGEST_WIDTH, description="Width of the layers.")
    transformer_hidden_dim: int = Field(
        default=128, ge=1, le=LARGEST_WIDTH, description="Width of the MLPs and of the head."
    )
    head_dim: int = Field(default=32, ge=1, le=LARGEST_WIDTH, description="Width of an attention head.")
    num_head: int = Field(default=2, ge=1, le=1024, description="Attention heads.")
    num_layers: int = Field(default=2, ge=1, le=1024, description="Layers.")
    vocab_size: int = Field(ge=2, le=2**24, description="Token ids, 0 among them, which is padding.")
    max_seq_len: int = Field(ge=1, le=2**20, description="Longest input, in tokens.")
    dropout_prob: Ratio = Field(default=0.1, ge=0, lt=1, description="Dropout of embeddings and sublayers.")
    attention_dropout: Ratio = Field(default=0.1, ge=0, lt=1, description="Dropout of attention weights.")
    pooling_mode: Pooling = Field(
        default="MEAN", description="What the head reads: the mean over tokens (MEAN), or a learned first token (CLS)."
    )
    num_classes: int = Field(ge=2, le=LARGEST_WIDTH, description="Classes.")
    block_size: int = Field(ge=8, le=LARGEST_WIDTH, description="Queries and keys in a block; the last one is padded.")
    density: float = Field(gt=0, le=1, description="Share of the blocks that sparse attention computes.")

    @property
    def positions(self) -> int:
        """Places in the longest sequence, the CLS token's among them."""
        return self.max_seq_len + (self.pooling_mode == "CLS")

    @property
    def num_blocks(self) -> int:
        """Blocks in a row of the attention matrix of the longest sequence."""
        return -(-self.positions // self.block_size)


class TrainingOptions(Options):
    """Training, and when it becomes sparse."""

    batch_size: int = Field(ge=1, le=2**20, description="Examples in a step.")
    learning_rate: float = Field(gt=0, le=1e6, description="Peak learning rate; half of it after the switch.")
    warmup: int = Field(default=0, ge=0, description="Steps in which the learning rate rises from 0.")
    lr_decay: Decay = Field(default="linear", description="How the learning rate falls to 0 after that.")
    weight_decay: float = Field(default=0.0, ge=0, description="Weight decay of AdamW.")
    eval_frequency: int = Field(default=500, ge=1, description="Steps between evaluations on dev.")
    num_train_steps: int = Field(ge=1, le=10**9, description="Steps in all.")
    num_init_steps: int = Field(default=0, ge=0, description="Steps before which there is no switch.")
    num_eval_steps: int | None = Field(default=None, ge=1, description="Batches in an evaluation; all unless given.")
    num_dense_train_steps: int = Field(
        default=0, ge=0, description="Step at which the switch comes in any case; 0: only when attention has settled."
    )
    attn_loss_scale: float = Field(
        default=0.01,
        gt=0,
        description="Weight of the learned pattern's loss. Adam does not see the scale of a loss, so the pattern's "
        "vectors learn at this rate.",
    )
    skewness: float = Field(default=1.7, description="A layer is ready when its attention's skewness is at least this.")
    distance: float = Field(
        default=1.3,
        gt=0,
        description="It is ready when the distance to the attention before changes by less than so many percent.",
    )
    patience: int = Field(
        default=10, ge=0, description="Evaluations in a row without a better accuracy that end training; 0: none do."
    )

    @model_validator(mode="after")
    def _steps_in_order(self) -> Self:
        dense = self.num_dense_train_steps or self.num_train_steps
        if self.num_init_steps > dense:
            name = "num_dense_train_steps" if self.num_dense_train_steps else "num_train_steps"
            raise ValueError(
                f"num_init_steps is {self.num_init_steps} and {name} {dense}: it must be no larger, or there is no "
                "switch"
            )
        if dense > self.num_train_steps:
            raise ValueError(
                f"num_dense_train_steps is {dense} and num_train_steps {self.num_train_steps}: it must be no larger; "
                "0 sets no limit"
            )
        return self


class LongRangeConfig(Options):
    """Everything that defines a training run."""

    dataset: DatasetOptions = Field(default_factory=DatasetOptions, description="Examples of each split.")
    model: ModelOptions = Field(description="The encoder.")
    training: TrainingOptions = Field(description="Training and the switch.")

    @classmethod
    def load(cls, path: str | Path, over: "LongRangeConfig | None" = None) -> "LongRangeConfig":
        """Read and check a YAML file.

        Args:
            path: the file.
            over: where what the file leaves out comes from; otherwise it must have all that has no default.

        Raises:
            OptionError: there is no such file, it is no YAML, a key is unknown, or a value is refused.
        """
        text = read_input_text(path, advice="; give a YAML file")
        return _checked(_laid_over(over, _parsed(text, str(path)), str(path)), str(path))

    @classmethod
    def of_task(cls, task: str) -> "LongRangeConfig":
        """The packaged configuration of a task. Raises `OptionError` for an unknown one."""
        if task not in TASK_NAMES:
            raise OptionError(f"there is no task {task}{_suggestion(task, TASK_NAMES)}")
        file = files("secateur.longrange").joinpath("tasks", f"{task}.yaml")
        return _checked(_parsed(file.read_text(encoding="utf-8"), file.name), file.name)

    def overlaid(self, values: Mapping[str, Mapping[str, Any]], source: str = "options") -> "LongRangeConfig":
        """This configuration with other values here and there.

        Args:
            values: options by block, such as `{"training": {"batch_size": 8}}`.
            source: what messages call them.

        Raises:
            OptionError: a key is unknown or a value is refused.
        """
        return _checked(_laid_over(self, values, source), source)


def towers(task: str) -> int:
    """How many inputs an example of a task has: retrieval compares two documents."""
    return 2 if task == "retrieval" else 1


def _parsed(text: str, source: str) -> dict[str, Any]:
    what = f"a configuration: it must hold keys such as {', '.join(LongRangeConfig.model_fields)}"
    values, _ = read_yaml(text, source, what)
    if not values:
        raise OptionError(f"{source} is not {what}")
    return values


def _laid_over(base: LongRangeConfig | None, values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The values, completed from `base`. What is no block stays as it is, for the check to refuse."""
    _refuse_unknown_keys(values, source)
    given = {name: {} if block is None else block for name, block in values.items()}
    below = base.model_dump() if base is not None else {}
    return below | {
        name: below.get(name, {}) | block if isinstance(block, Mapping) else block for name, block in given.items()
    }


def _checked(values: Mapping[str, Any], source: str) -> LongRangeConfig:
    for place, given in booleans_for_numbers(values, LongRangeConfig):
        raise OptionError(f"{source}: {dotted(place)}: Input should be a number, not {given}")
    try:
        return LongRangeConfig.model_validate(values)
    except ValidationError as error:
        raise OptionError("; ".join(_complaints(error, source))) from error


def _refuse_unknown_keys(values: Mapping[str, Any], source: str) -> None:
    blocks: dict[str, type[Options]] = {"dataset": DatasetOptions, "model": ModelOptions, "training": TrainingOptions}
    for name, block in values.items():
        if name not in blocks:
            raise OptionError(f"{source}: {shortened(name)}: unknown key{_suggestion(str(name), tuple(blocks))}")
        for key in block if isinstance(block, Mapping) else ():
            known = tuple(blocks[name].model_fields)
            if key not in known:
                raise OptionError(f"{source}: {name}.{shortened(key)}: unknown key{_suggestion(str(key), known)}")


def _suggestion(key: str, known: tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else f"; known are {', '.join(known)}"


def _complaints(error: ValidationError, source: str) -> Iterator[str]:
    for problem in error.errors()[:MOST_COMPLAINTS]:
        message = re.sub(r"^(Value error|Assertion failed), ", "", problem["msg"])
        given = problem["input"]
        if problem["type"] != "missing" and not isinstance(given, Mapping | list | BaseModel):
            message = f"{message}, not {shortened(repr(given))}"
        yield f"{source}: {shortened('.'.join(map(str, problem['loc'])))}: {message}{hint(problem)}"
