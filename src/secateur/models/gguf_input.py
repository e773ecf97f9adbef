"""Reading a GGUF file as an ordinary model."""

import struct
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from secateur.errors import ModelError
from secateur.models.adapters import adapter_of
from secateur.models.quiet import quiet

# llama.cpp's architectures for models that Transformers reads from a directory only.
UNEVEN_GGUF = ("deci", "openelm")


def read_gguf(file: Path, **arguments: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a GGUF file as an ordinary model whose weights are no longer quantised.

    Args:
        file: the `.gguf` file.
        arguments: passed to `from_pretrained`; `dtype` is bfloat16 unless given.

    Raises:
        ModelError: the file is damaged or of an unsupported architecture.
    """
    # Newer versions of Transformers can leave the weights packed; a model to be cut needs plain ones.
    plain = (
        {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    )
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model: Any = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, **{"dtype": torch.bfloat16, **plain, **arguments}
            )
    except (ValueError, RuntimeError, OSError, KeyError, struct.error) as error:
        raise ModelError(f"{file} could not be loaded: {_why(file, error)}") from error
    model.hf_quantizer = None
    model.is_quantized = False
    model.config.__dict__.pop("quantization_config", None)
    adapter_of(model)
    return model, tokenizer


def read_gguf_settings(file: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """A GGUF file's config and tokenizer, without its weights. Errors as `read_gguf`."""
    try:
        with quiet():
            config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise ModelError(f"{file} could not be loaded: {_why(file, error)}") from error
    return config, tokenizer


def _why(file: Path, error: Exception) -> str:
    """Why a GGUF file could not be loaded, in plain words where it is one that `secateur export` wrote."""
    reason = str(error).strip().splitlines()[0]
    if not any(name in reason for name in UNEVEN_GGUF):
        return reason
    return (
        "its layers have widths of their own, or its heads do not add up to the hidden size, which llama.cpp reads and "
        "Transformers does not; name the model directory that it was exported from"
    )
