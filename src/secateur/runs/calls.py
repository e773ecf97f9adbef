"""Recipes from Python: `secateur.run` and `secateur.sweep`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from secateur.console import command_text
from secateur.errors import InputError
from secateur.files import expanded
from secateur.files.result_files import RECIPE, REPORT
from secateur.longrange.recipe import LongRangeRecipe, run_longrange
from secateur.report import comparison_rows, figure_of, stage_plot
from secateur.runs.recipe import checked_recipe, read_recipe, recipe_text
from secateur.runs.stages import run_recipe
from secateur.runs.sweep import SweepResult, sweep_recipe
from secateur.showing import Drawn, model_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class RunResult(Drawn):
    """What a recipe gave.

    Attributes:
        directory: of the run.
        metrics: the content of its `metrics.json`.
    """

    directory: Path
    metrics: dict[str, Any]

    @property
    def report(self) -> Path:
        """The page; a run of longrange has none."""
        return self.directory / REPORT

    def headline(self) -> str:
        return f"{', '.join(row['name'] for row in self._rows())}, in {self.directory}"

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [model_row(row) for row in self._rows()]

    def plot(self) -> "Figure":
        return figure_of(stage_plot, self._rows())

    def to_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        return self.metrics

    def _rows(self) -> list[dict[str, Any]]:
        if "models" not in self.metrics:
            raise InputError(f"a run of longrange has no table of models; see metrics and {self.directory}")
        return [dict(row) for row in comparison_rows(self.metrics)]


def run(
    recipe: str | Path | Mapping[str, Any], output: str | Path | None = None, *, overwrite: bool = False
) -> RunResult:
    """Run a recipe: measure, cut, measure, recover, measure, report. What is done and unchanged is not done again.

    Args:
        recipe: a YAML file, or its content: `{"model": "smollm2-135m", "prune": {"ratio": 0.2}}`.
        output: the run's directory; `runs/<name>` unless given.
        overwrite: start afresh.

    Raises:
        InputError: a key of the recipe is unknown, or a value is refused.
        OutputError: the directory holds something that is not a run.
        SecateurError: what the stages raise. What is done stays done.
    """
    if not isinstance(recipe, str | Path | Mapping):
        raise InputError(f"a {type(recipe).__name__} is no recipe; give a file, or its content as a mapping")
    if isinstance(recipe, Mapping):
        try:
            text, source = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True), "the recipe"
        except yaml.YAMLError as error:
            raise InputError(f"the recipe holds what YAML has no word for: {' '.join(str(error).split())}") from error
    else:
        text, source = recipe_text(expanded(recipe)), str(recipe)
    loaded = checked_recipe(*read_recipe(text, source), source)
    directory = expanded(output or loaded.directory)
    file = directory / RECIPE if isinstance(recipe, Mapping) else recipe
    command_line = command_text("secateur", "run", str(file), "-o", str(directory))
    if isinstance(loaded, LongRangeRecipe):
        return RunResult(
            directory, run_longrange(loaded, text, directory, command_line=command_line, overwrite=overwrite)
        )
    return RunResult(directory, run_recipe(loaded, text, directory, command_line=command_line, overwrite=overwrite))


def sweep(
    recipe: str | Path,
    settings: Mapping[str, Sequence[Any]],
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
) -> SweepResult:
    """Run a recipe once for each combination of values, and compare the results.

    Args:
        recipe: a YAML file.
        settings: values by the key's place in the recipe: `{"prune.ratio": [0.15, 0.25]}`.
        output: the sweep's directory; `runs/<name>-sweep` unless given.
        overwrite: start all cells afresh.

    Returns:
        The comparison, and the messages of cells that failed.

    Raises:
        InputError: the recipe or a value is refused, or two cells are the same.
        OutputError: the directory holds something that is not a sweep.
    """
    texts = [f"{key}={','.join(_value_text(value) for value in values)}" for key, values in settings.items()]
    words = ["secateur", "sweep", str(recipe), *(word for text in texts for word in ("--set", text))]
    place = expanded(output) if output is not None else None
    command_line = command_text(*words, *([] if place is None else ["-o", str(place)]))
    return sweep_recipe(expanded(recipe), texts, place, command_line=command_line, overwrite=overwrite)


def _value_text(value: Any) -> str:
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
