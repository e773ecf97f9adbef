"""`quantization_config` of a model with rounded weights, as compressed-tensors, Transformers and vLLM read it."""

import importlib.metadata
import re
from collections import defaultdict
from typing import Any, cast

from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    QuantizationStrategy,
)
from torch import nn
from transformers import PreTrainedModel

from secateur.models.rounded import Rounded, rounded_linears, rounded_of

FORMAT = "pack-quantized"
METHOD = "compressed-tensors"


def quantization_config(model: PreTrainedModel) -> dict[str, Any]:
    """What `config.json` says of a model's rounded weights: each grid with the modules on it, and those left out.

    Modules on a grid are named by regular expressions, one for all layers where they are on the same in each.
    """
    rounded = rounded_linears(model)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    by_grid: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name, linear in rounded.items():
        note = cast(Rounded, rounded_of(linear))
        by_grid[note.bits, note.group].append(name)
    groups = {
        f"group_{number}": QuantizationScheme(
            targets=["Linear"] if len(by_grid) == 1 else _targets(names, rounded),
            weights=QuantizationArgs(
                num_bits=bits,
                type="int",
                symmetric=True,
                strategy=QuantizationStrategy.GROUP,
                group_size=group,
                observer="mse",
            ),
            format=FORMAT,
        )
        for number, ((bits, group), names) in enumerate(sorted(by_grid.items()))
    }
    content = QuantizationConfig(
        config_groups=groups,
        format=FORMAT,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=[name for name in linears if name not in rounded],
    ).model_dump(mode="json")
    return {**content, "quant_method": METHOD, "version": importlib.metadata.version("compressed-tensors")}


def _targets(names: list[str], rounded: dict[str, nn.Linear]) -> list[str]:
    """Regular expressions that match these names and no other of the rounded ones'."""
    found: list[str] = []
    left = list(names)
    while left:
        every = re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(left[0]))
        pattern = every if all(name in names for name in rounded if re.fullmatch(every, name)) else re.escape(left[0])
        found.append(f"re:{pattern}$")
        left = [name for name in left if not re.fullmatch(pattern, name)]
    return found
