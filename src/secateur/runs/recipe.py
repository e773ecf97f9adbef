"""A whole run written in one YAML file, checked before any work begins."""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from secateur.data import DataOptions, inputs_of
from secateur.errors import InputError, OptionError
from secateur.evaluation import EvaluateConfig
from secateur.exporting import ExportConfig
from secateur.exporting.nemotron_nas import MULTIPLE as NAS_MULTIPLE
from secateur.files.input_text import read_input_text, shortened
from secateur.files.option_kinds import booleans_for_numbers, model_of
from secateur.files.option_names import by_present_names, by_present_places
from secateur.files.shares import hint
from secateur.files.yaml_text import Place, dotted, read_yaml
from secateur.longrange.config import LongRangeConfig
from secateur.longrange.options import TrainConfig
from secateur.longrange.recipe import LongRangeRecipe
from secateur.models.options import LARGEST_SEED, LoadOptions
from secateur.pruning import PruneConfig
from secateur.pruning.config import MULTIPLES, PLANNED
from secateur.pruning.search import SearchConfig
from secateur.quantization import QuantizeConfig
from secateur.recovery import RecoverConfig
from secateur.sparsity import SparsifyConfig

FITTED = ("data", "windows", "own_text", "seqlen", "batch_size", "damping", "zeros", *DataOptions.model_fields)
SHARED = ("seed", *LoadOptions.model_fields, *DataOptions.model_fields)
ORIGINAL = "original"
MOST_COMPLAINTS = 5


class SampleConfig(BaseModel, extra="forbid"):
    """What each stage's model answers, through its chat template, or without one continues, for the report."""

    prompts: list[str] = Field(
        default=[
            "The for statement is used to iterate over",
            "The capital of France is",
            "Water boils at a temperature of",
        ],
        description="Prompts, or beginnings of texts.",
    )
    max_new_tokens: int = Field(default=48, ge=1, description="Tokens that the model adds to each.")


class Recipe(DataOptions, LoadOptions):
    """A run: which model, what is cut, how it recovers, what is measured.

    `seed` and the options of `LoadOptions` and `DataOptions` are given once, here; a section takes them over unless it
    says otherwise.
    A stage is left out by leaving out its section; in YAML a section without content has the defaults.
    `recover.teacher: original` is the model of the recipe.
    """

    name: str = Field(
        default="run", pattern=r"^\w[\w.-]*$", description="Name of the run and of its directory below runs/."
    )
    model: str = Field(description="A hub id, a model directory, a .gguf file, or smollm2-135m.")
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Seed of every stage.")
    output: str | None = Field(default=None, description="The run's directory; default: runs/<name>.")
    search: SearchConfig | None = Field(
        default=None, description="Options of secateur search, whose plan the cut then follows."
    )
    prune: PruneConfig | None = Field(default=None, description="Options of secateur prune; without it nothing is cut.")
    sparsify: SparsifyConfig | None = Field(
        default=None, description="Options of secateur sparsify; without it no weight becomes zero."
    )
    recover: RecoverConfig | None = Field(
        default=None, description="Options of secateur recover; without it there is no training."
    )
    quantize: QuantizeConfig | None = Field(
        default=None, description="Options of secateur quantize, for the last model; without it none is rounded."
    )
    export: ExportConfig | None = Field(
        default=None,
        description="Options of secateur export, for the last model; without it none is written for another engine.",
    )
    evaluate: EvaluateConfig = Field(
        default_factory=EvaluateConfig, description="Options of secateur evaluate, for every stage."
    )
    samples: SampleConfig = Field(default_factory=SampleConfig, description="Samples of text in the report.")

    @model_validator(mode="before")
    @classmethod
    def _hand_down(cls, values: Any) -> Any:
        """Give the sections what stands once at the top."""
        if not isinstance(values, dict):
            return values
        shared = {name: values[name] for name in SHARED if name in values}
        handed = dict(values)
        if isinstance(values.get("search"), dict | SearchConfig) and isinstance(values.get("prune", {}), dict):
            # The cut that a search has found is made on the search's text.
            search = values["search"]
            given = search.model_dump(exclude_unset=True) if isinstance(search, SearchConfig) else search
            given = by_present_names(SearchConfig, given)
            fitted = {name: given[name] for name in FITTED if name in given}
            values = {**values, "prune": fitted | by_present_names(PruneConfig, values.get("prune", {}))}
        for name, section in {"evaluate": {}, **values}.items():
            kind = model_of(cls.model_fields[name].annotation) if name in cls.model_fields else None
            if kind is not None and isinstance(section, dict):
                handed[name] = {key: shared[key] for key in shared if _same_option(cls, kind, key)} | section
        return handed

    @model_validator(mode="after")
    def _measures_its_own_models(self) -> Self:
        for name in ("adapter", "semi_structured"):
            if getattr(self.evaluate, name):
                raise ValueError(f"evaluate.{name} is for the command; a run measures the models of its own stages")
        if not self.evaluate.perplexity:
            raise ValueError("evaluate.perplexity is for the command; the report of a run needs it")
        return self

    @model_validator(mode="after")
    def _search_decides(self) -> Self:
        if self.search is None or self.prune is None:
            return self
        given = [name for name in (*PLANNED, *MULTIPLES, "plan") if name in self.prune.model_fields_set]
        if given:
            raise ValueError(f"the search decides prune.{given[0]}; leave it out, or write it below search")
        if not self.prune.compensate:
            raise ValueError("a search is for a cut that is re-fitted; leave out prune.compensate")
        return self

    @model_validator(mode="after")
    def _rounds_once(self) -> Self:
        if self.quantize is not None and self.recover is not None:
            trained = self.recover.settled(sparse=self.sparsify is not None)
            if trained.writes_adapter:
                raise ValueError(
                    "quantize rounds whole weights, and recover leaves an adapter; write merge: true there"
                )
        if self.prune is not None and self.prune.quantize is not None:
            if self.sparsify is not None:
                raise ValueError("sparsify comes after prune.quantize; write quantize below sparsify instead")
            rounded = "prune"
        elif self.sparsify is not None and self.sparsify.quantize is not None:
            rounded = "sparsify"
        else:
            return self
        if self.quantize is not None:
            raise ValueError(f"{rounded}.quantize rounds the weights already; leave it out, or the section quantize")
        if self.recover is not None and (self.recover.method not in ("auto", "lora") or self.recover.merge):
            raise ValueError(
                f"{rounded}.quantize leaves rounded weights, beside which recover.method lora alone trains"
            )
        return self

    @model_validator(mode="after")
    def _exports_its_last_model(self) -> Self:
        if self.export is None:
            return self
        if self.export.adapter is not None:
            raise ValueError("export.adapter is for the command; a run exports the last model of its own stages")
        if self.sparsify is not None and self.recover is not None and self.recover.writes_adapter:
            raise ValueError(
                "export needs whole weights, and recover.method lora leaves an adapter beside the zeros of sparsify; "
                "use recover.method masked-lora"
            )
        return self

    @model_validator(mode="after")
    def _cuts_what_its_export_holds(self) -> Self:
        cut = self.search or self.prune
        by_file = self.prune is not None and self.prune.plan is not None
        if self.export is None or self.export.format != "nemotron-nas" or cut is None or by_file:
            return self
        if cut.cuts("attention") or (cut.channel_multiple or 1) % NAS_MULTIPLE:
            section = "search" if self.search is not None else "prune"
            raise ValueError(
                f"export.format nemotron-nas holds cuts of the MLP to multiples of {NAS_MULTIPLE}; write target: mlp "
                f"and channel_multiple: {NAS_MULTIPLE} below {section}"
            )
        return self

    @model_validator(mode="after")
    def _name_teacher(self) -> Self:
        if self.recover is not None and self.recover.teacher == ORIGINAL:
            self.recover.teacher = self.model
        if self.recover is not None and self.sparsify is not None:
            self.recover.settled(sparse=True).require_fit(sparse=True)
        return self

    @property
    def texts(self) -> list[tuple[str, DataOptions]]:
        """Every text that the recipe names, and how it is read."""
        fitted = [section for section in (self.search, self.prune, self.sparsify, self.quantize) if section is not None]
        found: list[tuple[str, DataOptions]] = [(name, self.evaluate) for name in self.evaluate.data]
        found += [(section.data, section) for section in fitted]
        if self.export is not None and self.export.data is not None:
            found.append((self.export.data, self.export))
        if self.recover is not None:
            found += [(name, self.recover) for name in (self.recover.data, *self.recover.extra_eval)]
        return [(name, options.data_options()) for name, options in found]

    @property
    def inputs(self) -> list[str]:
        """The model, and every text, teacher and file that the recipe names."""
        others = [
            self.prune and self.prune.layer_importance_file,
            self.prune and self.prune.plan,
            self.prune and self.prune.times_file,
            self.search and self.search.times_file,
            self.recover and self.recover.teacher,
            self.evaluate.include_path,
        ]
        texts = [source for name, options in self.texts for source in inputs_of(name, options=options)]
        return [self.model, *dict.fromkeys(texts), *(name for name in others if name)]

    @property
    def directory(self) -> Path:
        """Where the run goes unless the command line says otherwise."""
        return Path(self.output) if self.output else Path("runs") / self.name


def load_recipe(path: str | Path) -> "Recipe | LongRangeRecipe":
    """Read and check a recipe.

    Raises:
        InputError: there is no such file.
        OptionError: it is no YAML, a key is unknown or given twice, or a value is refused.
    """
    return parse_recipe(recipe_text(path), str(Path(path)))


def recipe_text(path: str | Path) -> str:
    """The text of a recipe's file. Raises `InputError` where there is none, or it is no text."""
    file = Path(path)
    if not file.exists():
        raise InputError(f"the recipe {file} does not exist")
    return read_input_text(file)


def parse_recipe(text: str, source: str = "recipe") -> "Recipe | LongRangeRecipe":
    """Check the text of a recipe. `source` is what messages call it. Raises as `load_recipe`.

    One with a section `longrange` trains a classifier of long sequences, any other cuts a language model.
    """
    return checked_recipe(*read_recipe(text, source), source)


def read_recipe(text: str, source: str) -> tuple[dict[str, Any], dict[Place, int]]:
    """The values of a recipe that is not checked yet, and the lines of its keys. Raises `OptionError`."""
    try:
        values, lines = read_yaml(text, source, "a recipe: it must hold keys such as model, prune and evaluate")
    except InputError as error:
        raise OptionError(str(error)) from error
    try:
        return by_present_places(kind_of(values), values, lines)
    except ValueError as error:
        raise OptionError(f"{source}: {error}") from error


def kind_of(values: Mapping[str, Any]) -> "type[Recipe] | type[LongRangeRecipe]":
    """What a recipe with these values trains or cuts."""
    return LongRangeRecipe if "longrange" in values else Recipe


def checked_recipe(values: Mapping[str, Any], lines: Mapping[Place, int], source: str) -> "Recipe | LongRangeRecipe":
    """A recipe out of its values.

    Args:
        values: as `read_recipe` gives them.
        lines: of the keys that messages may name; 0 for a key that stands in no file.
        source: what messages call the recipe.

    Raises:
        OptionError: a key is unknown, or a value is refused.
    """
    kind = kind_of(values)
    for place, known in _unknown_keys(values, kind):
        raise OptionError(f"{_at(source, place, lines)}: unknown key{_suggestion(str(place[-1]), known)}")
    for place, given in _booleans_for_numbers(values, kind):
        raise OptionError(f"{_at(source, place, lines)}: Input should be a number, not {given}")
    sections = {key for key, field in kind.model_fields.items() if model_of(field.annotation)}
    filled = {key: {} if value is None and key in sections else value for key, value in values.items()}
    try:
        return kind(**filled)
    except ValidationError as error:
        handed = kind is Recipe
        problems = [problem for problem in error.errors() if not (handed and _inherited(problem["loc"], lines))]
        complaints = [_complaint(dict(problem), source, lines) for problem in problems[:MOST_COMPLAINTS]]
        more = [f"and {len(problems) - MOST_COMPLAINTS} more"] if len(problems) > MOST_COMPLAINTS else []
        raise OptionError("; ".join([*complaints, *more])) from error


def _unknown_keys(
    values: Mapping[str, Any], kind: type[BaseModel], place: Place = ()
) -> Iterator[tuple[Place, list[str]]]:
    for key, value in values.items():
        here = (*place, key)
        if key not in kind.model_fields:
            yield here, list(kind.model_fields)
            continue
        section = model_of(kind.model_fields[key].annotation)
        if section is not None and isinstance(value, dict):
            yield from _unknown_keys(value, section, here)


def _booleans_for_numbers(values: Mapping[str, Any], kind: type[BaseModel]) -> Iterator[tuple[Place, bool]]:
    yield from booleans_for_numbers(values, kind)
    section = values.get("longrange")
    if isinstance(section, dict):  # these become the models only later, over the task's own values
        yield from booleans_for_numbers(section.get("options"), LongRangeConfig, ("longrange", "options"))
        yield from booleans_for_numbers(section.get("train"), TrainConfig, ("longrange", "train"))


def _suggestion(key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else f"; known are {', '.join(known)}"


def _same_option(recipe: type[BaseModel], section: type[BaseModel], key: str) -> bool:
    """Whether a section has a shared option, and not another one of the same name, as `export` with its `dtype`."""
    field = section.model_fields.get(key)
    return field is not None and field.annotation == recipe.model_fields[key].annotation


def _complaint(problem: Mapping[str, Any], source: str, lines: Mapping[Place, int]) -> str:
    place = tuple(problem["loc"])
    message = re.sub(r"^(Value error|Assertion failed), ", "", str(problem["msg"]))
    given = problem["input"]
    if problem["type"] != "missing" and not isinstance(given, dict | list | BaseModel):
        message = f"{message}, not {shortened(repr(given))}"
    return f"{_at(source, place, lines)}: {message}{hint(problem)}"


def _inherited(place: Place, lines: Mapping[Place, int]) -> bool:
    """Whether a value was not written there but at the top, where the complaint about it stands as well."""
    return len(place) > 1 and place not in lines and place[-1] in SHARED


def _at(source: str, place: Place, lines: Mapping[Place, int]) -> str:
    """`demo.yaml, line 7: prune.ratio`; the line of the nearest key above where the key itself is not there."""
    ends = (place[:length] for length in range(len(place), 0, -1))
    line = next((f", line {lines[end]}" if lines[end] else "" for end in ends if end in lines), "")
    return f"{source}{line}: {shortened(dotted(place))}" if place else source
