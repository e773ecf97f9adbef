"""`measure-widths`: how long a token takes by the widths of a model's layers, on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, Unpack, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.costs.config import TIMED_CONTEXT, Engine, Targets
from secateur.costs.latency import times_here
from secateur.costs.options import MeasureWidthsOptions
from secateur.costs.quantities import shown_time
from secateur.costs.times import WidthTimes
from secateur.costs.widths import bare_model
from secateur.exporting.config import NumberFormat
from secateur.models.loading import load_settings, resolve_device, resolve_dtype
from secateur.models.options import configured, takes_options
from secateur.showing import Shown

FORMATS: Mapping[Engine, tuple[str, ...]] = {
    "transformers": ("float32", "bfloat16", "float16"),
    "llama.cpp": get_args(NumberFormat),
}


class MeasureWidthsConfig(BaseModel):
    """What is timed."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    engine: Engine = Field(default="transformers", description="What decodes.")
    context: int | None = Field(
        default=None,
        ge=1,
        le=2**31,
        description=f"Tokens before the one that is timed; {TIMED_CONTEXT} unless given, or the model's most where "
        "that is less.",
    )
    dtype: str | None = Field(
        default=None,
        description="Number format. Of Transformers float32, bfloat16 or float16, unless given as secateur loads a "
        "model here; of llama.cpp one of secateur export, f16 unless given.",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N; of Transformers.")
    again: bool = Field(default=False, description="Measure even where this machine's times are kept.")

    @model_validator(mode="after")
    def _format_of_the_engine(self) -> Self:
        known = FORMATS[self.engine]
        if self.dtype is not None and self.dtype not in known:
            raise ValueError(f"--engine {self.engine} has no --dtype {self.dtype}; it has {', '.join(known)}")
        return self


@dataclass(frozen=True, repr=False)
class MeasuredWidths(Shown):
    """What `measure-widths` found.

    Attributes:
        model: its name.
        times: by width; `prune` takes their file as `--target-device`.
        milliseconds: of a token of the uncut model.
    """

    model: str
    times: WidthTimes
    milliseconds: float

    def headline(self) -> str:
        return f"{self.times.place.named}: uncut {shown_time(self.milliseconds)}"

    def rows_of_figures(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {"half": part, "units": units, "ms": time}
            for part, curve in (("attention", self.times.attention), ("mlp", self.times.mlp))
            for units, time in reversed(curve)
        ]
        return [*rows, {"half": "the rest", "units": None, "ms": self.times.fixed}]


@takes_options(MeasureWidthsConfig, hidden=())
def measure_widths(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    config: MeasureWidthsConfig | None = None,
    **options: Unpack[MeasureWidthsOptions],
) -> MeasuredWidths:
    """Time decoding with layers of several widths, on models of this one's shape whose weights mean nothing.

    What is found is kept in the cache by machine, engine and shape, and `prune(target_latency=…)` uses it.

    Args:
        model: a hub id, directory, `.gguf` file, `smollm2-135m`, or a loaded model. No weights are read.
        tokenizer: of a loaded model, for llama.cpp.
        config: what is timed.
        options: fields of `MeasureWidthsConfig`, instead of `config` or over it.

    Raises:
        InputError: the engine is not installed or cannot run such models.
        ModelError: there is no such model, or its family is not supported.
    """
    config = configured(MeasureWidthsConfig, config, options)
    name = str(model if isinstance(model, str | Path) else model.name_or_path)
    device = torch.device("cpu")
    if isinstance(model, str | Path):
        settings, tokenizer = load_settings(model)
        device = resolve_device(config.device) if config.engine == "transformers" else device
        found = resolve_dtype("auto", device)
        shaped = bare_model(settings)
        own: Any = settings.dtype or torch.float32
        nn.Module.to(shaped, dtype=own if isinstance(found, str) else found)
    else:
        shaped = model
        device = next(model.parameters()).device if config.engine == "transformers" else device
    targets = Targets(engine=config.engine, context=config.context)
    times = times_here(shaped, tokenizer, targets, dtype=config.dtype, again=config.again, device=device)
    return MeasuredWidths(name, times, times.measure(shaped, 0.0, "").whole)
