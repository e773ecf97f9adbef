"""What `recover` and `merge` can be told, for the command line, recipes and Python alike."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from secateur.data import DataName, DataOptions, texts_of
from secateur.errors import InputError
from secateur.files.shares import Ratio
from secateur.models.masks import ZEROS_HELP, Zeros
from secateur.models.options import LARGEST_SEED, LoadOptions

Method = Literal["auto", "lora", "masked-lora", "masked", "full"]
Reporter = Literal["none", "tensorboard", "wandb", "trackio"]

LEARNING_RATES: dict[Method, float] = {"auto": 1e-3, "lora": 1e-3, "masked-lora": 1e-3, "masked": 1e-4, "full": 1e-4}
# Of method lora beside sparse weights, which it cannot be merged into: the usual recipe of the papers on sparsity.
BESIDE_ZEROS: dict[str, Any] = {"lr": 1e-4, "lora_target": "q_proj,v_proj", "seqlen": 1024}

# A training that was stopped goes on although these have changed: they are about where and how long it runs.
FREE_TO_CHANGE = frozenset(
    {
        "checkpoint_steps",
        "device",
        "device_map",
        "extra_eval",
        "extra_eval_windows",
        "fsdp",
        "gradient_checkpointing",
        "max_minutes",
        "merge",
        "micro_batch_size",
        "report_to",
        "teacher",
        "trust_remote_code",
    }
)


class RecoverConfig(DataOptions, LoadOptions):
    """Fine-tuning that wins back the quality a cut has cost."""

    method: Method = Field(
        "auto",
        description="Train a low-rank adapter (lora) or all weights (full); in a model with zeros what leaves them "
        "zero, a masked low-rank update (masked-lora) or the other weights (masked). auto: lora, or masked-lora where "
        "there are zeros.",
    )
    zeros: Zeros = Field("auto", description=f"{ZEROS_HELP}. fill: train as in a dense model; keep: all of them stay.")
    data: DataName = Field(
        "pydocs",
        description="Text, conversations or instruction data to train on: a named corpus (train part), a file, or "
        "several with shares of the windows and examples, a.jsonl:0.7,b.txt:0.3.",
    )
    samples: int | None = Field(
        None,
        ge=1,
        description="Windows or examples to draw from the data, those for validation included; all unless given.",
    )
    seqlen: int = Field(
        512, ge=2, description="Tokens in a window; examples are cut there. 1024 for lora beside zeros unless given."
    )
    epochs: float = Field(1.0, gt=0, description="Passes over the training data.")
    lr: float | None = Field(
        None,
        gt=0,
        description="Highest learning rate; unless given 1e-3 for lora and masked-lora, 1e-4 for full, masked, and "
        "lora beside zeros.",
    )
    batch_size: int = Field(8, ge=1, description="Windows in an optimizer step, of all processes together.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Windows that go through the model at once, halved where memory is short; unless given, 2 on a "
        "CPU and the process's whole batch on a GPU.",
    )
    warmup_steps: int | None = Field(
        None, ge=0, description="Steps in which the learning rate rises; a twentieth of all unless given."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    max_minutes: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="Stop by so many minutes of steps, validation and checkpoints; the learning rate falls to zero by "
        "then. How many steps fit is said after a few.",
    )
    lora_r: int = Field(8, ge=1, description="Rank of the adapter.")
    lora_alpha: float = Field(16, gt=0, description="The adapter's output is scaled by alpha / r.")
    lora_dropout: Ratio = Field(0.0, ge=0, lt=1, description="Dropout before the adapter.")
    lora_target: str = Field(
        "attention,mlp",
        description="What gets an adapter: attention, mlp, or projections by name. q_proj,v_proj for lora beside zeros "
        "unless given.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations anew in the backward pass: less memory, a third more time."
    )
    teacher: str | None = Field(
        None, description="Distil this model as well, the uncut one say: a hub id, directory or .gguf file."
    )
    distill_weight: Ratio = Field(
        0.5, gt=0, le=1, description="Share of the teacher's part in the loss; the rest is cross entropy."
    )
    distill_temperature: float = Field(1.0, gt=0, description="Softens both distributions before they are compared.")
    val_size: Ratio = Field(
        0.05, ge=0, description="Windows set apart for validation: a share below 1, a number from 1 on, 0 for none."
    )
    eval_steps: int | None = Field(None, ge=1, description="Steps between evaluations; a fifth of all unless given.")
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Stop after so many evaluations in a row without a lower validation loss."
    )
    extra_eval: Annotated[list[DataName], BeforeValidator(texts_of)] = Field(
        default_factory=list, description="Texts whose perplexity is measured at each evaluation."
    )
    extra_eval_windows: int = Field(16, ge=1, description="How many windows of each such text, from its beginning.")
    checkpoint_steps: int | None = Field(
        None,
        ge=1,
        description="Steps between checkpoints; unless given, so that they take less than a twentieth of the time.",
    )
    report_to: Reporter = Field("none", description="Also send the curves there.")
    fsdp: bool = Field(
        False, description="Under torchrun, spread the model over the processes (FSDP2) for less memory on each."
    )
    load_in_8bit: bool = Field(
        False, description="Hold the frozen weights in 8 bits (bitsandbytes; method lora on an NVIDIA GPU)."
    )
    merge: bool = Field(False, description="Add the adapter to the weights and write a whole model.")
    seed: int = Field(
        default=0,
        ge=0,
        le=LARGEST_SEED,
        description="Seed of the choice and order of windows, the adapter and dropout.",
    )

    @model_validator(mode="after")
    def _whole_number_of_windows(self) -> Self:
        if self.val_size > 1 and self.val_size != int(self.val_size):
            raise ValueError(f"val_size {self.val_size} is neither a share below 1 nor a whole number of windows")
        return self

    @model_validator(mode="after")
    def _masks_keep_zeros(self) -> Self:
        if self.method.startswith("masked") and self.zeros == "fill":
            raise ValueError(f"method {self.method} keeps zeros; leave out zeros fill")
        return self

    @model_validator(mode="after")
    def _options_fit_the_method(self) -> Self:
        clash = self._clash() if self.method != "auto" else None
        if clash:
            raise ValueError(clash)
        if self.fsdp and self.load_in_8bit:
            raise ValueError("fsdp cannot spread weights in 8 bits; leave out one of the two")
        return self

    def _clash(self) -> str | None:
        """What does not go with the method, whatever the model."""
        if self.merge and not self.method.endswith("lora"):
            return f"merge is for method lora; method {self.method} writes a whole model in any case"
        if self.method == "masked-lora" and self.lora_dropout:
            return "lora_dropout is for method lora: a masked update is part of the weights"
        if self.load_in_8bit and not self.writes_adapter:
            return "load_in_8bit is for method lora without merge: weights in 8 bits cannot be changed"
        return None

    @property
    def learning_rate(self) -> float:
        return LEARNING_RATES[self.method] if self.lr is None else self.lr

    @property
    def writes_adapter(self) -> bool:
        """Whether the result is an adapter, not a whole model."""
        return self.method == "lora" and not self.merge

    def settled(self, sparse: bool) -> "RecoverConfig":
        """These settings with the method, and what depends on it, settled.

        Args:
            sparse: whether the model has zeros that training should keep.
        """
        method: Method = ("masked-lora" if sparse else "lora") if self.method == "auto" else self.method
        other = BESIDE_ZEROS if sparse and method == "lora" else {}
        left_open = {name: value for name, value in other.items() if name not in self.model_fields_set}
        return self.model_copy(update={"method": method, **left_open})

    def require_fit(self, sparse: bool) -> None:
        """Raise `InputError` where these settings, once settled, do not go together, or not with a model's zeros.

        Args:
            sparse: whether the model has zeros.
        """
        clash = self._clash()
        if clash:
            raise InputError(clash)
        if self.method.startswith("masked") and not sparse:
            raise InputError(
                f"method {self.method} is for a model with zeros, and this one has none that count; run sparsify "
                "first, or pass --zeros keep"
            )
        if self.method == "full" and sparse:
            raise InputError(
                "method full would fill the model's zeros; use method masked, which trains the other weights, or "
                "--zeros fill"
            )
        if self.method == "lora" and self.merge and sparse:
            raise InputError(
                "merging a plain adapter would fill the model's zeros; use method masked-lora, or leave out merge and "
                "see secateur merge --help, or pass --zeros fill"
            )


class MergeConfig(DataOptions, LoadOptions):
    """Which adapter is added to the weights, and what becomes of zeros there."""

    adapter: str = Field(description="Directory of the LoRA adapter.")
    zeros: Zeros = Field(
        "auto",
        description=f"{ZEROS_HELP}; choose one of the others there. keep: add the adapter only where weights are not "
        "zero, and tell what that costs; fill: let it fill them.",
    )
    keep_zeros: bool = Field(False, description="The same as --zeros keep.")
    allow_dense: bool = Field(False, description="The same as --zeros fill.")
    dequantize: bool = Field(
        False, description="Make ordinary weights of those that were rounded to a few bits, which merge else refuses."
    )
    data: DataName = Field(
        "pydocs", description="Text for the cost of --keep-zeros: a named corpus (test part) or a file."
    )
    windows: int = Field(16, ge=1, description="How many windows of 512 tokens of it.")

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        said_zeros(self.zeros, self.keep_zeros, self.allow_dense)
        return self

    @property
    def said_zeros(self) -> Zeros:
        """What becomes of zeros, said by either option."""
        return said_zeros(self.zeros, self.keep_zeros, self.allow_dense)


def said_zeros(zeros: Zeros, keep_zeros: bool, allow_dense: bool) -> Zeros:
    """`zeros`, which the two others are short for. Raises `ValueError` where they contradict each other."""
    if keep_zeros and allow_dense:
        raise ValueError("keep_zeros and allow_dense exclude each other")
    short: Zeros = "keep" if keep_zeros else "fill" if allow_dense else zeros
    if zeros not in ("auto", short):
        raise ValueError(f"zeros {zeros} and {'keep_zeros' if keep_zeros else 'allow_dense'} exclude each other")
    return short
