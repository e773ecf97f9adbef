"""What a model says of itself before anything is done to it: its name, its licence, its languages."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id

from secateur.errors import ModelError, SecateurError
from secateur.files import expanded
from secateur.files.input_text import read_input_text
from secateur.files.result_files import CARD
from secateur.files.yaml_text import yaml_value
from secateur.handover.lineage import Base, Lineage, read_lineage
from secateur.models import embedded
from secateur.models.gguf_input.header import read_header
from secateur.models.loading import HUB_ID, model_label

logger = logging.getLogger(__name__)

CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")  # the hub's cache calls a repository so
ON_THE_HUB = re.compile(r"https://(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)/?")
WORD = re.compile(r"[\w.+ /()-]{1,200}")
LANGUAGE = re.compile(r"[A-Za-z][\w-]{1,30}")
LARGEST_CARD = 4 * 2**20


def lineage_of(name: str | Path, path: Path) -> Lineage:
    """What a model comes from: what `lineage.json` beside it says, or the model itself as a base.

    Args:
        name: as the user names it: a hub id, a directory, a `.gguf` file or `smollm2-135m`.
        path: where it is.

    Raises:
        InputError: `lineage.json` is damaged.
    """
    found = read_lineage(path) if path.is_dir() else None
    return found or Lineage(base=_base_of(str(name), path))


def _base_of(name: str, path: Path) -> Base:
    if name == embedded.NAME:
        stated = _card_metadata(path) or _file_metadata(_package())
        return _base(embedded.HUB_ID, embedded.HUB_ID, stated)
    if path.suffix == ".gguf" and path.is_file():
        stated = _file_metadata(path)
        return _base(path.name, stated.get("hub_id"), stated)
    hub_id = name if not expanded(name).exists() and _is_hub_id(name) else _cached_id(path)
    return _base(hub_id or model_label(path.resolve()), hub_id, _card_metadata(path))


def _base(name: str, hub_id: str | None, stated: Mapping[str, Any]) -> Base:
    return Base(
        name=name,
        hub_id=hub_id,
        license=_text(stated.get("license")),
        license_name=_text(stated.get("license_name")),
        license_link=_link(stated.get("license_link")),
        language=_texts(stated.get("language"), LANGUAGE),
        made_from=[text for text in _texts(stated.get("base_model"), HUB_ID) if _is_hub_id(text)],
    )


def _cached_id(path: Path) -> str | None:
    """The hub id of a directory in the hub's cache."""
    for parent in path.resolve().parents:
        found = CACHED.fullmatch(parent.name)
        if found:
            return f"{found[1]}/{found[2]}"
    return None


def _card_metadata(directory: Path) -> dict[str, Any]:
    """The metadata of the card beside a model; empty where it has none that can be read."""
    file = directory / CARD
    if not file.is_file():
        return {}
    try:
        block = REGEX_YAML_BLOCK.search(read_input_text(file, ModelError, LARGEST_CARD))
        content = yaml_value(block[2], str(file)) if block else {}
    except SecateurError as error:
        logger.warning("%s says nothing of licence and language: %s", file, error)
        return {}
    return content if isinstance(content, dict) else {}


def _file_metadata(file: Path | None) -> dict[str, Any]:
    """The same of a GGUF file, in the card's words."""
    if file is None:
        return {}
    keys = read_header(file).keys
    places = (keys.get(f"general.{name}") for name in ("repo_url", "source.repo_url", "source.huggingface.repository"))
    sources = (keys.get(f"general.base_model.{number}.repo_url") for number in range(8))
    return {
        "hub_id": next(filter(None, map(_id_in, places)), None),
        "license": keys.get("general.license"),
        "license_name": keys.get("general.license.name"),
        "license_link": keys.get("general.license.link"),
        "language": keys.get("general.languages"),
        "base_model": [found for found in map(_id_in, sources) if found],
    }


def _id_in(link: object) -> str | None:
    if not isinstance(link, str):
        return None
    found = ON_THE_HUB.fullmatch(link)
    return found[1] if found else link if "/" in link and _is_hub_id(link) else None


def _is_hub_id(text: str) -> bool:
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def _package() -> Path | None:
    try:
        return embedded.package_file()
    except ModelError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and WORD.fullmatch(value) else None


def _link(value: object) -> str | None:
    # A file beside the base's weights (`LICENSE`) is not beside these.
    return value if isinstance(value, str) and re.fullmatch(r"https://[\w./%#?=&~+:-]{1,500}", value) else None


def _texts(value: object, kind: re.Pattern[str]) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and kind.fullmatch(text)][:20]
