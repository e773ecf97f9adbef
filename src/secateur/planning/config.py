"""What `plan` can be told. Defaults are those of the commands that are planned."""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from secateur.console import flag
from secateur.costs.config import TARGETS, Targets
from secateur.costs.quantities import size_of
from secateur.evaluation import EvaluateConfig
from secateur.files.option_names import Renamed
from secateur.files.shares import Ratio
from secateur.pruning import PruneConfig
from secateur.recovery import RecoverConfig

LARGEST = 10**9
PRUNE = PruneConfig.model_validate({})
RECOVER = RecoverConfig.model_validate({})
EVALUATE = EvaluateConfig.model_validate({})


class PlanConfig(Renamed, Targets):
    """Devices, and how much the commands have to do."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)
    earlier_names: ClassVar[Mapping[str, str]] = {"samples": "windows", "recover_windows": "recover_samples"}

    devices: str | None = Field(
        None,
        description="How many of which device: 8xH100, 'A100 40GB', 2x4090, 'M4 Max 64GB', cpu, or a GPU by its "
        "memory, 24GB.",
    )
    fit: str | None = Field(
        None,
        description="A memory, 24GB: the smallest cuts that fit it, at 16, 8 and 4 bits, with the KV cache of "
        "--context tokens.",
    )
    memory_gb: float | None = Field(None, gt=0, le=1e6, description="Another memory of a device than its data sheet's.")
    tflops: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Another rate of dense bfloat16 products, in TFLOP/s. With --memory-gb the device may have any "
        "name.",
    )
    devices_per_machine: int = Field(8, ge=1, le=1024, description="Devices over which --device-map auto can spread.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of the weights. auto: the checkpoint's; bfloat16 on cpu."
    )
    ratio: Ratio = Field(PRUNE.ratio, gt=0, lt=1, description="Share of all parameters that prune removes.")
    windows: int = Field(PRUNE.windows, ge=1, le=LARGEST, description="Calibration windows of prune and sparsify.")
    seqlen: int = Field(PRUNE.seqlen, ge=2, le=10**7, description="Tokens in a window, of all commands.")
    own_text: Ratio = Field(
        PRUNE.own_text, ge=0, le=0.9, description="Share of prune's windows that the model writes itself."
    )
    batch_size: int = Field(
        PRUNE.batch_size, ge=1, le=LARGEST, description="Windows that go through the model at once while calibrating."
    )
    evaluate_windows: int = Field(64, ge=1, le=LARGEST, description="Windows that evaluate measures.")
    recover_samples: int = Field(20_000, ge=1, le=LARGEST, description="Windows that recover draws.")
    recover_epochs: float = Field(RECOVER.epochs, gt=0, le=1e4, description="Passes over them.")
    recover_batch_size: int = Field(
        RECOVER.batch_size,
        ge=1,
        le=LARGEST,
        description="Windows in an optimizer step of recover, of all processes together.",
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        le=LARGEST,
        description="Windows that go through recover's model at once; unless given, 2 on a CPU and a process's whole "
        "batch on a GPU.",
    )
    lora_r: int = Field(RECOVER.lora_r, ge=1, le=65_536, description="Rank of recover's adapter.")
    gradient_checkpointing: bool = Field(
        RECOVER.gradient_checkpointing, description="Whether recover computes activations anew."
    )

    @property
    def cuts_are_asked(self) -> bool:
        """Whether the plan is to say what has to leave."""
        return self.fit is not None or self.target_option is not None

    @field_validator("fit")
    @classmethod
    def _is_a_memory(cls, value: str | None) -> str | None:
        if value is not None:
            size_of(value)
        return value

    @model_validator(mode="after")
    def _is_for_something(self) -> Self:
        if self.fit is not None:
            given = [name for name in (*TARGETS, "bits") if getattr(self, name) is not None]
            if given:
                raise ValueError(f"--fit says what is to fit, at each number of bits; leave out {flag(given[0])}")
        elif self.devices is None and self.target_option is None:
            raise ValueError(
                "--devices is missing: how many of which device: 8xH100, 'A100 40GB', 2x4090, 'M4 Max 64GB', cpu, or a "
                "GPU by its memory, 24GB"
            )
        return self
