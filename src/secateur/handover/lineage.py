"""What a model comes from, and all that was done to it: `lineage.json` beside the weights.

Each command reads it beside the model that it is given and writes it, one step longer, beside what it makes. The model
card is made of it.
"""

import importlib.metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from secateur.errors import InputError
from secateur.files.input_text import shortened
from secateur.files.json_text import read_json
from secateur.files.result_files import LINEAGE

Kind = Literal["prune", "sparsify", "quantize", "recover", "merge", "export"]
Text = Annotated[str, Field(max_length=4000)]
Short = Annotated[str, Field(max_length=300)]
# What a card writes into links: nothing that ends one, or begins another.
HubId = Annotated[str, Field(max_length=300, pattern=r"^[\w.-]+(/[\w.-]+)?$")]
Link = Annotated[str, Field(max_length=4000, pattern=r"^https://[^\s()<>\[\]\"'`]+$")]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Base(_Part):
    """The model that the first step was done to.

    Attributes:
        name: its hub id, or the name of its directory or file.
        hub_id: where it is on the hub; None where that is not known.
        license: as its own card or file states it, as are the next three; None where they state none.
        license_name: of a licence that the hub has no word for.
        license_link: to it.
        language: of its text.
        made_from: hub ids of what it says it was made from itself.
    """

    name: Short
    hub_id: HubId | None = None
    license: Short | None = None
    license_name: Short | None = None
    license_link: Link | None = None
    language: list[Short] = Field(default=[], max_length=200)
    made_from: list[HubId] = Field(default=[], max_length=20)


class Figure(_Part):
    """A figure that was measured.

    Attributes:
        name: what it is: `perplexity`.
        value: of the model as it is after the step.
        before: the same before the step, or of the base; None where it was not measured.
        measured_on: on which text, and how much of it.
        metric: the hub's word for it, where it has one: `perplexity`, `accuracy`.
        text: the name of that text, by which the hub sorts; empty where the hub is not to be told.
        compared: what `before` is of.
    """

    name: Short
    value: Number
    before: Number | None = None
    measured_on: Text = ""
    metric: Short | None = None
    text: Short = ""
    compared: Short = "before"


class Step(_Part):
    """One command.

    Attributes:
        kind: which.
        command: that repeats it. Paths are names only.
        version: of secateur.
        what: what it did to the model, in a sentence.
        how: more of that: options that bear on the result, text it was fitted to.
        figures: that it measured.
    """

    kind: Kind
    command: Text
    version: Short = ""
    what: Text = ""
    how: list[Text] = Field(default=[], max_length=20)
    figures: list[Figure] = Field(default=[], max_length=200)


class Lineage(_Part):
    """A model's base and what was done to it, in order.

    Attributes:
        base: the model at the beginning.
        steps: what was done.
        parent: what the last step was done to, where that is no base: the name of its directory.
    """

    base: Base
    steps: list[Step] = Field(default=[], max_length=100)
    parent: Short | None = None

    def to_dict(self) -> dict[str, Any]:
        """The content of `lineage.json`."""
        return {"written by": f"secateur {version()}", **self.model_dump(exclude_defaults=True)}

    def with_step(self, step: Step, parent: str | None) -> "Lineage":
        """The lineage of what a step makes of this model.

        Args:
            step: what is done.
            parent: what this model is called.
        """
        return self.model_copy(update={"steps": [*self.steps, step], "parent": parent})

    @property
    def last(self) -> Step:
        """The step that made the model."""
        return self.steps[-1]


def version() -> str:
    """Of secateur."""
    return importlib.metadata.version("secateur")


def read_lineage(directory: Path) -> Lineage | None:
    """What `lineage.json` in a directory says; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    file = directory / LINEAGE
    if not file.is_file():
        return None
    advice = "; restore it, or delete it: the model card then begins with this model"
    content = read_json(file, "is damaged", InputError, advice)
    try:
        return Lineage.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        place = shortened(".".join(map(str, problem["loc"]))) or "its content"
        raise InputError(f"{file} is damaged: {place}: {problem['msg']}{advice}") from error
