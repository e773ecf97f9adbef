"""Where a model directory opens as it stands."""

from transformers import PreTrainedConfig

from secateur.errors import ModelError
from secateur.exporting import nemotron_nas
from secateur.exporting.layout import require_carried
from secateur.models.adapters import adapter_for
from secateur.models.config_file import is_uneven_type
from secateur.models.widths import widths_in

EVERYWHERE = "Opens in Transformers, vLLM, SGLang, mlx-lm and llama.cpp's converter"
UNEVEN = "Opens in Transformers, vLLM, mlx-lm (remote code)"
# Their own Qwen2 takes the hidden size by the number of heads for the size of a head: vLLM wants --model-impl
# transformers, mlx-lm --trust-remote-code.
OWN_HEAD_SIZE = "Opens in Transformers and, by an option, vLLM and mlx-lm"


def opens_in(config: PreTrainedConfig) -> str:
    """One line that says which engines open a model's directory, and which an export of it.

    Args:
        config: the model's.
    """
    adapter = adapter_for(config.model_type)
    if is_uneven_type(adapter, config.model_type):
        return _with_exports(UNEVEN, config)
    heads = widths_in(config)[0].num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    if adapter.model_type == "qwen2" and heads * head_dim != config.hidden_size:
        return _with_exports(OWN_HEAD_SIZE, config)
    return EVERYWHERE


def _with_exports(line: str, config: PreTrainedConfig) -> str:
    exports = [name for name, holds in (("llama.cpp", _gguf_holds), ("SGLang", _nas_holds)) if holds(config)]
    return f"{line}; by export: {', '.join(exports)}" if exports else line


def _gguf_holds(config: PreTrainedConfig) -> bool:
    try:
        require_carried(config)
    except ModelError:
        return False
    return True


def _nas_holds(config: PreTrainedConfig) -> bool:
    try:
        nemotron_nas.require_held(config)
        nemotron_nas.require_held_widths(config)
    except ModelError:
        return False
    return True
