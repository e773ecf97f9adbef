"""Loading a model and its tokenizer from the hub, a directory, a GGUF file, or the embedded default."""

import importlib.util
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from secateur.data.hub import hub_answers
from secateur.data.reading import first_line
from secateur.distributed import local_number, process_count
from secateur.errors import InputError, ModelError, OptionError
from secateur.files import expanded
from secateur.models import embedded
from secateur.models.checkpoint import checkpoint_dtype, read_model
from secateur.models.checks import check_directory, warn_of_what_is_left_out
from secateur.models.config_file import load_config
from secateur.models.gguf_input import read_gguf, read_gguf_settings, stored_dtype
from secateur.models.options import DType
from secateur.models.streamed import fits_in_memory, stream_layers
from secateur.models.text_half import model_files, stored_bytes
from secateur.models.tokenizers import guard_embeddings, load_tokenizer, require_fit
from secateur.models.zeros_record import load_zeros
from secateur.progress import announced
from secateur.wording import worded

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py", "README.md"]
# The same weights under other programs' names, and adapters, which are named apart.
NOT_OF_THE_HUB = ["consolidated*", "*/*.safetensors", "adapter_model*"]


@announced("loading")
def load(
    name: str | Path,
    *,
    dtype: DType = "auto",
    device: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    load_in_8bit: bool = False,
    stream: bool | None = False,
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

        stream: leave the weights in their files, of which one layer at a time is in memory while the model is cut or
            its perplexity measured; None: where they would take more than 60 % of memory.

    Raises:
        ModelError: the model cannot be found, is damaged, holds only pickled weights, or is not supported.
        InputError: the device is not there, or cannot hold 8 bits, or `device_map` is given to several processes, or
            the model cannot be streamed.
    """
    if device_map is not None and process_count() > 1:
        raise InputError(
            "device_map spreads a model over all devices for one process, and each of several has one of its own; "
            "leave it out, or start one process"
        )
    place = resolve_device(device)
    if stream:
        _require_streamable(place, device_map)
    arguments: dict[str, Any] = {"dtype": resolve_dtype(dtype, place)}
    if load_in_8bit:
        device_map = device_map or str(place)
        arguments["quantization_config"] = eight_bits(place)
    if device_map is not None:
        arguments["device_map"] = device_map
    path = find_model(name)
    if stream is None:
        alone = place.type == "cpu" and device_map is None and process_count() == 1
        stream = alone and path.is_dir() and not fits_in_memory(stored_bytes(path)) and _may_stream(path, arguments)
    elif stream and path.is_dir() and not _as_stored(path, arguments):
        raise InputError(
            f"weights that are converted cannot be streamed: pass --dtype {_name(checkpoint_dtype(path))}, as they are "
            "stored, or leave out --stream"
        )
    if path.is_file():
        if stream:
            raise InputError("a .gguf file cannot be streamed: give a directory with *.safetensors, or no --stream")
        model, tokenizer = read_gguf(path, **arguments)
    else:
        warn_of_what_is_left_out(path)
        model = read_model(path, trust_remote_code=trust_remote_code, **arguments)
        tokenizer = load_tokenizer(path, model.config, trust_remote_code=trust_remote_code)
        load_zeros(model, path)
    guard_embeddings(model, tokenizer, path)
    if stream:
        stream_layers(model, model_files(path))
    if device_map is None:
        cast(nn.Module, model).to(place)
    if dtype == "auto":
        remember_checkpoint_dtype(model, path)
    return model.eval(), tokenizer


def _may_stream(path: Path, arguments: Mapping[str, Any]) -> bool:
    """Whether a model larger than most of memory is streamed, which nobody has asked for; said either way."""
    if sys.platform.startswith("linux") and _as_stored(path, arguments):
        logger.info(worded("%s takes more than 60 %% of memory: its layers are read one at a time (--stream)"), path)
        return True
    stored = _name(checkpoint_dtype(path))
    logger.warning(
        worded("%s takes more than 60 %% of memory; on Linux with --dtype %s --stream needs less"), path, stored
    )
    return False


def _as_stored(path: Path, arguments: Mapping[str, Any]) -> bool:
    """Whether a model works in the number format that its weights are stored in."""
    return arguments["dtype"] in ("auto", checkpoint_dtype(path))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _require_streamable(place: torch.device, device_map: str | None) -> None:
    if not sys.platform.startswith("linux"):
        raise InputError("--stream needs Linux, which tells a process what it has mapped; leave it out")
    if place.type != "cpu" or device_map is not None:
        raise OptionError(
            "--stream reads layers into the memory of the host: use it with --device cpu, no --device-map"
        )
    if process_count() > 1:
        raise InputError("--stream is for one process; start one, or leave it out")


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
    path = expanded(name)
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
    path = expanded(name)
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


def remember_checkpoint_dtype(model: PreTrainedModel, source: Path) -> None:
    """Note on the model the number format it is stored in, so that saving it does not double its size.

    Args:
        model: a model that computes in a format chosen for the machine.
        source: the directory or the GGUF file that it came from.
    """
    cast(Any, model).checkpoint_dtype = checkpoint_dtype(source) if source.is_dir() else stored_dtype(source)


def _from_hub(name: str) -> Path:
    if not HUB_ID.fullmatch(name):
        raise ModelError(f"{name} does not exist; give a hub id, a model directory, a .gguf file or {embedded.NAME}")
    reachable = hub_answers()
    try:
        found = snapshot_download(
            name,
            allow_patterns=HUB_FILES,
            ignore_patterns=NOT_OF_THE_HUB,
            etag_timeout=10,
            local_files_only=not reachable,
        )
        return Path(found)
    except LocalEntryNotFoundError as error:
        refused = f"does not give it ({first_line(error.__cause__ or error)})" if reachable else "cannot be reached"
        raise ModelError(
            f"{name} is neither a directory here nor in the hub's cache, and the hub {refused}; "
            f"give a model directory, a .gguf file or {embedded.NAME}"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name} is no directory here and the hub does not give it: {reason}") from error


def load_settings(
    name: str | Path, *, trust_remote_code: bool = False
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """A model's config and tokenizer, without its weights. Arguments and errors as `load`."""
    path = find_model(name)
    if path.is_dir():
        warn_of_what_is_left_out(path)
        config = load_config(path, trust_remote_code=trust_remote_code)
        tokenizer = load_tokenizer(path, config, trust_remote_code=trust_remote_code)
        require_fit(tokenizer, config.vocab_size, path)
        return config, tokenizer
    return read_gguf_settings(path)


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
        raise OptionError(f"the device '{device}' is unknown; use auto, cpu, cuda or cuda:N")
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
