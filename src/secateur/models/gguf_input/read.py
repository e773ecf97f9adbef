"""From a file to a model and its tokenizer."""

from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from secateur.models.adapters import adapter_for
from secateur.models.gguf_input.config import config_of
from secateur.models.gguf_input.header import read_header
from secateur.models.gguf_input.tokenizer import read_tokenizer
from secateur.models.gguf_input.weights import read_weights, require_all_placed
from secateur.models.quiet import quiet

QUANT = gguf.GGMLQuantizationType


def read_gguf(file: Path, **arguments: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a GGUF file as an ordinary model whose weights are no longer quantised.

    Args:
        file: the `.gguf` file.
        arguments: passed to `from_pretrained`; `dtype` is bfloat16 unless given.

    Raises:
        ModelError: the file is damaged, of an unsupported architecture, or holds a key or tensor that bears on what
            the model computes and that cannot be carried.
    """
    header = read_header(file)
    config = config_of(header)
    require_all_placed(header, config)
    tokenizer = read_tokenizer(header)
    dtype = arguments.pop("dtype", torch.bfloat16)
    if dtype == "auto":
        dtype = torch.bfloat16
    state = read_weights(header, config, dtype)
    adapter = adapter_for(config.model_type)
    family: Any = adapter.uneven_model if isinstance(config, adapter.uneven_config) else adapter.stock_model
    with quiet():
        model = family.from_pretrained(None, config=config, state_dict=state, dtype=dtype, **arguments)
    model.config.name_or_path = model.name_or_path = str(file)
    return model, tokenizer


def stored_dtype(file: Path) -> torch.dtype:
    """The number format in which a GGUF file's weights are kept best: its own, or bfloat16 where they are quantised.

    Raises:
        ModelError: as `read_gguf`, by the header alone.
    """
    kinds = {tensor.kind for tensor in read_header(file).tensors.values()}
    if kinds == {QUANT.F32}:
        return torch.float32
    return torch.float16 if kinds == {QUANT.F16, QUANT.F32} else torch.bfloat16


def read_gguf_settings(file: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """A GGUF file's config and tokenizer, without its weights. Errors as `read_gguf`."""
    header = read_header(file)
    config = config_of(header)
    require_all_placed(header, config)
    return config, read_tokenizer(header)
