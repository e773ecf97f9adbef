"""Where a model directory opens as it stands."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedConfig

from secateur.errors import ModelError
from secateur.exporting.layout import require_carried
from secateur.exporting.nemotron_nas import require_held, require_held_widths
from secateur.models.adapters import adapter_for, is_uneven_type
from secateur.models.config_file import load_config, read_config
from secateur.models.packed_config import METHOD
from secateur.models.quantised import quantisation_method
from secateur.models.saving import MLX_FAMILIES
from secateur.models.widths import heads_make_up_hidden_size, widths_in

EVERYWHERE = "Opens in Transformers, vLLM, SGLang, mlx-lm and llama.cpp's converter"
UNEVEN = "Opens in Transformers, vLLM, mlx-lm (remote code)"
# vLLM ends at a layer whose attention it does not find.
WITHOUT_ATTENTION = "Opens in Transformers, mlx-lm (remote code)"
# Other families whose uneven models were run in vLLM.
VLLM_FAMILIES = ("gemma3_text", "olmo2", "phi3")
IN_VLLM = "Opens in Transformers, vLLM (remote code)"
# What was run of the others.
OTHER_UNEVEN = "Opens in Transformers (remote code)"
OTHER_EVEN = "Opens wherever the family does: it is the family's own class"
# Of packed weights Llamas were run in vLLM, nothing in mlx-lm or SGLang.
PACKED_LLAMA = "Opens in Transformers, vLLM"
PACKED = "Opens in Transformers"
# Their own Qwen2 takes the hidden size by the number of heads for the size of a head: vLLM wants --model-impl
# transformers, mlx-lm --trust-remote-code.
OWN_HEAD_SIZE = "Opens in Transformers and, by an option, vLLM and mlx-lm"


@dataclass(frozen=True)
class Opening:
    """Where a model opens.

    Attributes:
        line: the same in a line.
        engines: that open the directory as it stands.
        remote_code: whether they run the code beside the weights.
        by_option: engines that need another option.
        exports: what an export of it is read by.
    """

    line: str
    engines: tuple[str, ...]
    remote_code: bool = False
    by_option: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()


def opening_in(directory: Path) -> Opening:
    """Which engines open a directory, and which an export of it. Raises `ModelError` where its config is wrong.

    Args:
        directory: of a model.
    """
    config = load_config(directory)
    content, _ = read_config(directory)
    if quantisation_method(content, str(directory)) != METHOD:
        return opening_of(config)
    if is_uneven_type(config.model_type):
        in_vllm = adapter_for(config.model_type).model_type == "llama" and _attends_everywhere(config)
        line, engines = (IN_VLLM, ("Transformers", "vLLM")) if in_vllm else (OTHER_UNEVEN, ("Transformers",))
        return _with_exports(Opening(line, engines, remote_code=True), config)
    if config.model_type == "llama":
        return _with_exports(Opening(PACKED_LLAMA, ("Transformers", "vLLM")), config)
    return _with_exports(Opening(PACKED, ("Transformers",)), config)


def opening_of(config: PreTrainedConfig) -> Opening:
    """Which engines open a model's directory, and which an export of it.

    Args:
        config: the model's.
    """
    family = adapter_for(config.model_type).model_type
    tried = family in MLX_FAMILIES
    whole = _attends_everywhere(config)
    if tried and not whole:
        return _with_exports(Opening(WITHOUT_ATTENTION, ("Transformers", "mlx-lm"), remote_code=True), config)
    if is_uneven_type(config.model_type) and not tried and whole and family in VLLM_FAMILIES:
        return _with_exports(Opening(IN_VLLM, ("Transformers", "vLLM"), remote_code=True), config)
    if is_uneven_type(config.model_type):
        engines = ("Transformers", "vLLM", "mlx-lm") if tried else ("Transformers",)
        return _with_exports(Opening(UNEVEN if tried else OTHER_UNEVEN, engines, remote_code=True), config)
    if not tried:
        return _with_exports(Opening(OTHER_EVEN, ("Transformers",)), config)
    if config.model_type == "qwen2" and not heads_make_up_hidden_size(config):
        return _with_exports(Opening(OWN_HEAD_SIZE, ("Transformers",), by_option=("vLLM", "mlx-lm")), config)
    return Opening(EVERYWHERE, ("Transformers", "vLLM", "SGLang", "mlx-lm"), exports=_exports(config))


def _attends_everywhere(config: PreTrainedConfig) -> bool:
    return all(bool(width.num_attention_heads) for width in widths_in(config))


def _with_exports(opening: Opening, config: PreTrainedConfig) -> Opening:
    exports = _exports(config)
    line = f"{opening.line}; by export: {', '.join(exports)}" if exports else opening.line
    return replace(opening, line=line, exports=exports)


def _exports(config: PreTrainedConfig) -> tuple[str, ...]:
    checks = {"llama.cpp": (require_carried,), "SGLang": (require_held, require_held_widths)}
    return tuple(name for name, required in checks.items() if _passes(config, required))


def _passes(config: PreTrainedConfig, required: Iterable[Callable[[PreTrainedConfig], None]]) -> bool:
    try:
        for check in required:
            check(config)
    except ModelError:
        return False
    return True
