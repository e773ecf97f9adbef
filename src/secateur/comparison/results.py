"""Reading what was measured earlier: `--json` files, run directories, sweeps."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from secateur.console import printable
from secateur.errors import InputError
from secateur.files import expanded
from secateur.files.input_text import shortened
from secateur.files.json_text import read_json
from secateur.files.result_files import COMPARED, METRICS, SWEEP

SPEEDS = ("prefill_tokens_per_second", "decode_tokens_per_second")

UNCUT = "original"
ADVICE = "; give a --json file of evaluate, a run or a sweep"
LARGEST = 2**53

Count = Annotated[int, Field(ge=0, le=LARGEST)]

Row = dict[str, Any]


def with_all_perplexities(figures: Any) -> Any:
    """A model's figures with perplexity by text: earlier versions had that in `perplexities`, beside a number."""
    if not isinstance(figures, dict) or "perplexities" not in figures:
        return figures
    others = {name: value for name, value in figures.items() if name != "perplexities"}
    return {**others, "perplexity": figures["perplexities"]}


class _Score(BaseModel):
    """A task's score, as `evaluation.tasks.TaskScore`."""

    model_config = ConfigDict(allow_inf_nan=False)

    metrics: dict[str, float | None]
    stderr: dict[str, float | None]
    n: Count
    n_shot: Count
    prompts: str


# What tables and pages show, on one line and without what would steer a terminal.
Shown = Annotated[str, AfterValidator(lambda text: " ".join(printable(text).split()))]


class _Row(BaseModel):
    """What a comparison keeps of a model's figures."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: Shown
    family: str = ""
    parameters: Count
    perplexity: dict[Shown, Annotated[float, Field(gt=0)] | None] = {}
    windows: dict[Shown, Count] = {}
    corpora: dict[Shown, str] = {}
    sources: dict[str, str] = {}
    seqlen: Count | None = None
    stride: Count | None = None
    dtype: str | None = None
    sparsity: float = 0.0
    size_bytes: Count | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    recovers: str | None = None
    tasks: dict[str, _Score] = {}
    values: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _all_perplexities(cls, values: Any) -> Any:
        return with_all_perplexities(values)

    @model_validator(mode="after")
    def _perplexities_say_on_what(self) -> Self:
        for text in self.perplexity | self.corpora:
            if text not in self.windows or text not in self.corpora:
                raise ValueError(f"windows or corpora say nothing about {text[:40]}")
        if self.corpora and not self.seqlen:
            raise ValueError("seqlen: it is missing")
        return self


@dataclass(frozen=True)
class Result:
    """The figures of one measurement, run or sweep.

    Attributes:
        label: what tables call it where its models' names alone are not clear.
        path: where it was read.
        rows: its models.
        recipe: of a sweep.
    """

    label: str
    path: Path
    rows: list[Row]
    recipe: str = ""


def read_result(path: Path) -> Result:
    """Read a `--json` file, a run directory, a sweep or a comparison.

    Raises:
        InputError: it is none of these, or is damaged.
    """
    place = expanded(path)
    if not place.exists():
        raise InputError(f"{path} does not exist; give a --json file of evaluate, a run or a sweep")
    if place.is_dir():
        known = [name for name in (SWEEP, METRICS, COMPARED) if (place / name).is_file()]
        if not known:
            raise InputError(f"{path} holds neither {METRICS} nor {SWEEP}: it is no finished run and no sweep")
        if known[0] == SWEEP:
            return read_sweep(place)
        place = place / known[0]
    content = read_json(place, advice=ADVICE)
    if not isinstance(content, dict) or not isinstance(content.get("models"), list) or not content["models"]:
        raise InputError(f"{place} holds no models; give a --json file of evaluate, a run or a sweep")
    named = place.parent.resolve().name if place.name in (METRICS, COMPARED) else place.stem
    return Result(str(content.get("name") or named), place, [row_of(row, place) for row in content["models"]])


def read_sweep(directory: Path, cells: Sequence[str] | None = None) -> Result:
    """The models of a sweep's finished cells, each with its `values`; what all cells measured alike stands once.

    Args:
        directory: the sweep's.
        cells: their directories' names; None: all that are finished.

    Raises:
        InputError: no cell is finished, or a file is damaged.
    """
    file = directory / SWEEP
    content = read_json(file, advice=ADVICE)
    try:
        going = [cell for cell in content["cells"] if cell.get("error") is None]
        listed = [(directory / cell["directory"], dict(cell["values"])) for cell in going]
        recipe, name = str(content["recipe"]), str(content["name"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file} is damaged; run the sweep again") from error
    finished = [(place, values) for place, values in listed if cells is None or place.name in cells]
    measured = [(read_result(place).rows, values) for place, values in finished if (place / METRICS).is_file()]
    if not measured:
        raise InputError(f"{directory} holds no finished cell; run the sweep again")
    common = [row for row in measured[0][0] if _is_common(row, [rows for rows, _ in measured])]
    alike = [_quality(row) for row in common]
    own = [{**row, "values": values} for rows, values in measured for row in rows if _quality(row) not in alike]
    return Result(name, directory, common + own, recipe)


def _is_common(row: Row, cells: Sequence[Sequence[Row]]) -> bool:
    """Whether every cell of a sweep holds a model of that name with the same figures."""
    if len(cells) == 1:
        return row["name"] == UNCUT
    return all(any(_quality(row) == _quality(other) for other in rows) for rows in cells)


def _quality(row: Row) -> Row:
    """All of a row but what a second measurement would give differently."""
    return {key: value for key, value in row.items() if key not in (*SPEEDS, "values")}


def row_of(values: Any, source: Path | str) -> Row:
    """A model's figures, checked. Raises `InputError`, which calls them `source`."""
    try:
        return _Row.model_validate(values).model_dump()
    except ValidationError as error:
        problem = error.errors()[0]
        place = shortened(".".join(map(str, problem["loc"])))
        message = re.sub(r"^Value error, ", "", problem["msg"])
        raise InputError(
            f"{source} is not what evaluate or run writes: {f'{place}: ' if place else ''}{message}"
        ) from error
