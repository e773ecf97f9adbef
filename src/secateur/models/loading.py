"""Loading a model and its tokenizer from the hub, a directory, a GGUF file, or the embedded default."""

import contextlib
import importlib.util
import logging
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from secateur.errors import InputError, ModelError
from secateur.models import embedded
from secateur.models.adapters import adapter_of
from secateur.models.checks import check_directory
from secateur.models.options import DType
from secateur.models.processes import local_number, process_count
from secateur.models.zeros_record import load_zeros

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# llama.cpp's architectures for models that Transformers reads from a directory only.
UNEVEN_GGUF = ("deci", "openelm")
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py"]


def load(
    name: str | Path,
    *,
    dtype: DType = "auto",
    device: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    load_in_8bit: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, in evaluation mode, and its tokenizer.

    Args:
        name: a hub id, a model directory, a `.gguf` file, or `smollm2-135m`, the embedded default.
        dtype: number format of the weights; `auto` is the checkpoint's on a GPU, and on a CPU bfloat16 where the
            processor multiplies it natively, else float32.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        device_map: `auto` spreads the model over all devices with Accelerate; `device` is then not used.
        trust_remote_code: run Python code that stands beside the weights.
        load_in_8bit: hold the projections in 8 bits (bitsandbytes), to train an adapter beside them on a GPU.

    Raises:
        ModelError: the model cannot be found, is damaged, holds only pickled weights, or is not supported.
        InputError: the device is not there, or cannot hold 8 bits, or `device_map` is given to several processes.
    """
    if device_map is not None and process_count() > 1:
        raise InputError(
            "device_map spreads a model over all devices for one process, and each of several has one of its own; "
            "leave it out, or start one process"
        )
    place = resolve_device(device)
    arguments: dict[str, Any] = {"dtype": resolve_dtype(dtype, place)}
    if load_in_8bit:
        device_map = device_map or str(place)
        arguments["quantization_config"] = eight_bits(place)
    if device_map is not None:
        arguments["device_map"] = device_map
    path = find_model(name)
    if path.is_file():
        model, tokenizer = read_gguf(path, **arguments)
    else:
        model = _read_model(path, trust_remote_code=trust_remote_code, **arguments)
        tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
        load_zeros(model, path)
    if device_map is None:
        cast(nn.Module, model).to(place)
    if dtype == "auto":
        remember_checkpoint_dtype(model, path if path.is_dir() else None)
    return model.eval(), tokenizer


def eight_bits(place: torch.device) -> transformers.BitsAndBytesConfig:
    """How weights are held in 8 bits. Raises `InputError` without an NVIDIA GPU or the package."""
    if place.type != "cuda":
        raise InputError("load_in_8bit needs an NVIDIA GPU; leave it out on this device")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("load_in_8bit needs a package; run: pip install bitsandbytes")
    return transformers.BitsAndBytesConfig(load_in_8bit=True)


def find_model(name: str | Path) -> Path:
    """A `.gguf` file, or the directory that `model_directory` gives.

    Raises:
        ModelError: there is no such model, or `checks.check_directory` refuses it.
    """
    path = Path(name).expanduser()
    if path.suffix != ".gguf":
        return model_directory(name)
    if not path.is_file():
        raise ModelError(f"{path} does not exist")
    return path


def model_directory(name: str | Path) -> Path:
    """The directory that holds a model's files, downloaded or converted first where needed, and checked.

    Raises:
        ModelError: there is no such model, or `checks.check_directory` refuses it.
    """
    path = Path(name).expanduser()
    if str(name) == embedded.NAME:
        directory = embedded.embedded_directory()
    elif path.is_dir():
        directory = path
    elif path.is_file():
        raise ModelError(
            f"{path} is a file; a model is a directory with config.json and *.safetensors, or a .gguf file"
        )
    else:
        directory = _from_hub(str(name))
    check_directory(directory)
    return directory


def remember_checkpoint_dtype(model: PreTrainedModel, directory: Path | None) -> None:
    """Note on the model the number format it is stored in, so that saving it does not double its size.

    Args:
        model: a model that computes in a format chosen for the machine.
        directory: where it came from; None for a GGUF file, whose weights are best kept in bfloat16.
    """
    config: Any = AutoConfig.from_pretrained(directory) if directory is not None else None
    stated = config.dtype if config is not None else torch.bfloat16
    cast(Any, model).checkpoint_dtype = stated or model.dtype


def _from_hub(name: str) -> Path:
    if not HUB_ID.fullmatch(name):
        raise ModelError(f"{name} does not exist; give a hub id, a model directory, a .gguf file or {embedded.NAME}")
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, etag_timeout=10))
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{name} is neither a directory here nor in the hub's cache, and the hub cannot be reached; "
            f"give a model directory, a .gguf file or {embedded.NAME}"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name} is no directory here and the hub does not give it: {reason}") from error


def _read_model(directory: Path, **arguments: Any) -> PreTrainedModel:
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                directory,
                output_loading_info=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # so that they can be named below
                **arguments,
            )
    except (SafetensorError, RuntimeError, ValueError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{directory} could not be loaded: {reason}") from error
    model, loading = loaded
    if loading["mismatched_keys"]:
        name, stored, expected = min(loading["mismatched_keys"])
        raise ModelError(
            f"{directory} holds {name} of shape {tuple(stored)} where its config.json asks for {tuple(expected)}; "
            "one of the two is of another model"
        )
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ModelError(
            f"{directory} lacks {len(missing)} weights of its architecture, {missing[0]} first; its files are not "
            "complete or its config.json is of another model"
        )
    adapter_of(model)
    return model


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
    return model, with_pad_token(tokenizer)


def _why(file: Path, error: Exception) -> str:
    """Why a GGUF file could not be loaded, in plain words where it is one that `secateur export` wrote."""
    reason = str(error).strip().splitlines()[0]
    if not any(name in reason for name in UNEVEN_GGUF):
        return reason
    return (
        "its layers have widths of their own, or its heads do not add up to the hidden size, which llama.cpp reads and "
        "Transformers does not; name the model directory that it was exported from"
    )


def load_settings(
    name: str | Path, *, trust_remote_code: bool = False
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """A model's config and tokenizer, without its weights. Arguments and errors as `load`."""
    path = find_model(name)
    if path.is_dir():
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        return config, load_tokenizer(path, trust_remote_code=trust_remote_code)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise ModelError(f"{path} could not be loaded: {_why(path, error)}") from error
    return config, with_pad_token(tokenizer)


def load_tokenizer(directory: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises `ModelError` where there is none."""
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{directory} has no tokenizer that can be loaded: {reason}") from error
    return with_pad_token(tokenizer)


def with_pad_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, padding with its end token where it names no pad token."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def resolve_device(device: str) -> torch.device:
    """`auto` becomes a GPU, the process's own of several processes, or the CPU where there is none.

    Raises:
        InputError: the device is not there, or would be shared by several processes.
    """
    if process_count() > 1 and device != "cpu" and torch.cuda.is_available():
        return _own_gpu(device)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InputError(f"the device '{device}' is unknown; use auto, cpu, cuda or cuda:N")
    place = torch.device(device)
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"the device '{device}' is not there: {torch.cuda.device_count()} GPUs found; use --device cpu"
        )
    return place


def _own_gpu(device: str) -> torch.device:
    if device not in ("auto", "cuda"):
        raise InputError(f"each process takes a GPU of its own; leave out --device {device}, or use --device cpu")
    if local_number() >= torch.cuda.device_count():
        raise InputError(
            f"there are more processes on this machine than its {torch.cuda.device_count()} GPUs; start as many, or "
            "use --device cpu"
        )
    return torch.device("cuda", local_number())


def resolve_dtype(dtype: DType, device: torch.device) -> torch.dtype | str:
    """The number format for a device: `auto` is the checkpoint's own (the string `auto`) except on a CPU."""
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.type != "cpu":
        return "auto"
    return torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32


def cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has matrix instructions for bfloat16; without them float32 is about four times as fast."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def model_label(name: str | Path) -> str:
    """A short name for tables: the last part of a path or hub id, without `.gguf`."""
    return Path(str(name).rstrip("/")).name.removesuffix(".gguf")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Transformers' loading bars and warnings."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
