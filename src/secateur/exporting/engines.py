"""Where a model directory opens as it stands."""

from collections.abc import Callable, Iterable

from transformers import PreTrainedConfig

from secateur.errors import ModelError
from secateur.exporting.layout import require_carried
from secateur.exporting.nemotron_nas import require_held, require_held_widths
from secateur.models.adapters import adapter_for, is_uneven_type
from secateur.models.saving import MLX_FAMILIES
from secateur.models.widths import heads_make_up_hidden_size

EVERYWHERE = "Opens in Transformers, vLLM, SGLang, mlx-lm and llama.cpp's converter"
UNEVEN = "Opens in Transformers, vLLM, mlx-lm (remote code)"
# What was run of other families.
OTHER_UNEVEN = "Opens in Transformers (remote code)"
OTHER_EVEN = "Opens wherever the family does: it is the family's own class"
# Their own Qwen2 takes the hidden size by the number of heads for the size of a head: vLLM wants --model-impl
# transformers, mlx-lm --trust-remote-code.
OWN_HEAD_SIZE = "Opens in Transformers and, by an option, vLLM and mlx-lm"


def opens_in(config: PreTrainedConfig) -> str:
    """One line that says which engines open a model's directory, and which an export of it.

    Args:
        config: the model's.
    """
    tried = adapter_for(config.model_type).model_type in MLX_FAMILIES
    if is_uneven_type(config.model_type):
        return _with_exports(UNEVEN if tried else OTHER_UNEVEN, config)
    if not tried:
        return _with_exports(OTHER_EVEN, config)
    if config.model_type == "qwen2" and not heads_make_up_hidden_size(config):
        return _with_exports(OWN_HEAD_SIZE, config)
    return EVERYWHERE


def _with_exports(line: str, config: PreTrainedConfig) -> str:
    checks = {"llama.cpp": (require_carried,), "SGLang": (require_held, require_held_widths)}
    exports = [name for name, required in checks.items() if _passes(config, required)]
    return f"{line}; by export: {', '.join(exports)}" if exports else line


def _passes(config: PreTrainedConfig, required: Iterable[Callable[[PreTrainedConfig], None]]) -> bool:
    try:
        for check in required:
            check(config)
    except ModelError:
        return False
    return True
