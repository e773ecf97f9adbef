"""Where a plan's `config.json` comes from. Weights are neither looked for nor fetched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import build_hf_headers, get_session

from secateur.data.hub import TIMEOUT_SECONDS, in_time
from secateur.errors import ModelError
from secateur.files import expanded
from secateur.models import embedded
from secateur.models.json_file import read_object
from secateur.models.loading import HUB_ID
from secateur.planning.shape import ModelShape, shape_of

CONFIG = "config.json"


def model_shape(name: str | Path) -> ModelShape:
    """The widths of a model from its `config.json` alone. Arguments and errors as `config_of` and `shape_of`."""
    return shape_of(*config_of(name))


def config_of(name: str | Path) -> tuple[Mapping[str, Any], str]:
    """The content of a model's `config.json`, and what messages call it.

    Args:
        name: a directory with a `config.json`, that file itself, a hub id, or `smollm2-135m`.

    Raises:
        ModelError: there is none, or the hub does not give it.
    """
    path = expanded(name)
    if str(name) == embedded.NAME:
        path = embedded.embedded_directory()
    if path.suffix == ".gguf":
        raise ModelError(f"{path} is a .gguf file; a plan reads the config.json of a model directory or hub id")
    if path.is_file():
        return read_object(path), str(path)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise ModelError(f"{path} is not a model directory: it has no {CONFIG}")
        return read_object(path / CONFIG), str(path / CONFIG)
    return _from_hub(str(name))


def _from_hub(name: str) -> tuple[Mapping[str, Any], str]:
    if not HUB_ID.fullmatch(name):
        raise ModelError(f"{name} does not exist; give a hub id, a model directory or {embedded.NAME}")
    cached = try_to_load_from_cache(name, CONFIG)
    if isinstance(cached, str):
        return read_object(Path(cached)), cached
    try:
        # One request: the hub's own functions try again for half a minute where there is no network.
        answer = in_time(
            lambda: get_session().get(
                hf_hub_url(name, CONFIG), headers=build_hf_headers(), timeout=TIMEOUT_SECONDS, follow_redirects=True
            )
        )
    except (HTTPError, OSError) as error:
        raise ModelError(
            f"{name} is neither a directory here nor in the hub's cache, and the hub cannot be reached; give a "
            f"directory that holds its {CONFIG}"
        ) from error
    if answer.status_code != 200:
        reason = {401: "it is gated or does not exist; log in with hf auth login", 404: "there is no such model"}
        raise ModelError(
            f"{name} is no directory here and the hub does not give its {CONFIG}: "
            f"{reason.get(answer.status_code, f'status {answer.status_code}')}"
        )
    try:
        content = answer.json()
    except ValueError as error:
        raise ModelError(f"the hub's {CONFIG} of {name} is not valid JSON") from error
    if not isinstance(content, dict):
        raise ModelError(f"the hub's {CONFIG} of {name} is not a JSON object")
    return content, f"the hub's {CONFIG} of {name}"
