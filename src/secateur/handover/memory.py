"""The card of a model that Python functions have worked on: what was done waits at the model until it is saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from pydantic import BaseModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur import models
from secateur.errors import ModelError
from secateur.files import OfDirectory, expanded
from secateur.files.result_files import CARD, LINEAGE
from secateur.handover.base import lineage_of
from secateur.handover.card import card_text
from secateur.handover.lineage import Base, Kind, Lineage, Step
from secateur.handover.plain import name_of, without_places
from secateur.handover.steps import step_of_record
from secateur.models import embedded
from secateur.models.loading import model_label
from secateur.models.lora import underlying

DONE = "secateur_steps"  # an attribute of the model
UNNAMED = "a model in memory"
LONGEST_VALUE = 200  # characters of an option in a call


def note_done(
    model: PreTrainedModel | PeftModel,
    kind: Kind,
    record: Mapping[str, Any],
    config: BaseModel | None = None,
    **arguments: object,
) -> None:
    """Remember what was done to a model in memory, for the card that `save` writes.

    Args:
        model: it was changed in place.
        kind: what was done.
        record: what the command of that kind writes beside the weights.
        config: its options.
        arguments: what else it was given.
    """
    done = [*_done(model), step_of_record(kind, record, call_text(kind, config, **arguments))]
    setattr(underlying(model), DONE, done)


def call_text(kind: Kind, config: BaseModel | None = None, **arguments: object) -> str:
    """The call that did something, with the options that are not as they are by default; paths are names only."""
    given = dict(arguments)
    for name, field in type(config).model_fields.items() if config is not None else ():
        value = getattr(config, name)
        if value is not None and value != field.get_default(call_default_factory=True):
            given.setdefault(name, value)
    words = [f"{name}={without_places(_value(value))}" for name, value in given.items()]
    return f"secateur.{kind}({', '.join(['model', *([] if kind == 'merge' else ['tokenizer']), *words])})"


def _value(value: object) -> str:
    text = repr(name_of(str(value)) if isinstance(value, str | Path) else value)
    return text if len(text) <= LONGEST_VALUE else "…"


def _done(model: PreTrainedModel | PeftModel) -> list[Step]:
    return list(getattr(underlying(model), DONE, ()))


def lineage_in_memory(model: PreTrainedModel | PeftModel) -> Lineage:
    """Where a model was loaded from, and what was done to it since."""
    name = str(underlying(model).name_or_path or "")
    path = expanded(name)
    if name and not path.exists():
        lineage = lineage_of(name, path)
    elif name:
        lineage = lineage_of(embedded.NAME if _is_embedded(path) else name, path)
    else:
        lineage = Lineage(base=Base(name=UNNAMED))
    parent = model_label(path.resolve()) if lineage.steps else None
    for step in _done(model):
        lineage = lineage.with_step(step, parent)
        parent = None
    return lineage


def _is_embedded(path: Path) -> bool:
    try:
        return path.resolve() == embedded.embedded_directory().resolve()
    except ModelError:  # the package that it comes from is not there
        return False


def files_in_memory(lineage: Lineage, place: str, last: Kind | None = None, call: str = "") -> dict[str, object]:
    """The card and the lineage, as `files.write_extra` takes them; nothing where nothing was done.

    Args:
        lineage: of the model.
        place: what the directory will be called.
        last: what is done as it is written, whose record stands beside the weights.
        call: which does that.
    """
    if not lineage.steps and last is None:
        return {}

    def told(directory: Path) -> Lineage:
        if last is None:
            return lineage
        return lineage.with_step(step_of_record(last, directory, call), lineage.parent)

    return {
        LINEAGE: OfDirectory(lambda directory: told(directory).to_dict()),
        CARD: OfDirectory(lambda directory: card_text(directory, told(directory), place)),
    }


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    directory: str | Path,
    *,
    overwrite: bool = False,
    extras: Mapping[str, object] | None = None,
) -> Path:
    """Write a model directory: safetensors, config, tokenizer, and a model card where something was done to the model.

    The directory appears whole or not at all. With several processes only the first writes; the others go on at once.
    The card, `README.md`, tells what `prune`, `sparsify`, `recover` and `merge` have done to the model since it was
    loaded, and before that what `lineage.json` beside it told.

    A model whose zeros secateur has made gets their record, `sparsity.json`, by which they are known when it is loaded.

    A model with uneven layers gets its modelling files beside the weights, so that it also loads where secateur is
    not installed (`trust_remote_code=True`): one for Transformers and what builds on it, and for some families one for
    mlx-lm.

    Args:
        model: the model. Its weights are written in their number format; those of a model that was loaded with
            `dtype="auto"`, in the format of the checkpoint it came from.
        tokenizer: its tokenizer, or None to write none.
        directory: where it goes.
        overwrite: replace what is there, where secateur wrote it and nobody changed it.
        extras: more files by name: text and bytes as they are, what a function returns, everything else as JSON. A
            `README.md` among them is written in the place of the card.

    Raises:
        OutputError: the directory is in use or cannot be written.
        InputError: `lineage.json` beside the model is damaged.
    """
    card = files_in_memory(lineage_in_memory(model), expanded(directory).name)
    return models.save(model, tokenizer, directory, overwrite=overwrite, extras={**card, **(extras or {})})
