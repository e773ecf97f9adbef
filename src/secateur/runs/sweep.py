"""A recipe over values: one run for each combination, their results in one table."""

import copy
import glob
import hashlib
import itertools
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from secateur.comparison.comparison import OWN_FILES, Comparison, compared, require_place, write_comparison
from secateur.comparison.results import read_sweep
from secateur.console import command_text
from secateur.errors import InputError, OptionError, SecateurError
from secateur.files import require_only_own, working_directory, write_json
from secateur.files.json_text import read_json
from secateur.files.option_names import present_place
from secateur.files.result_files import RECIPE, SWEEP
from secateur.files.yaml_text import Place, dotted, yaml_value
from secateur.longrange.recipe import LongRangeRecipe
from secateur.report import figure_of, sweep_plot
from secateur.runs.recipe import Recipe, checked_recipe, kind_of, read_recipe, recipe_text
from secateur.runs.stages import run_recipe
from secateur.showing import Drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

MOST_CELLS = 1000
LONGEST_NAME = 80
NOT_SWEPT = ("name", "output")
BRACKETS = {"[": "]", "{": "}"}

Values = dict[str, Any]  # by the key's place in the recipe, such as prune.ratio


@dataclass(frozen=True)
class Cell:
    """One combination of values.

    Attributes:
        values: of the swept keys.
        recipe: with them in it.
        text: the same as YAML.
        directory: name of its run directory below the sweep's.
    """

    values: Values
    recipe: Recipe
    text: str
    directory: str


@dataclass(frozen=True, repr=False)
class SweepResult(Drawn):
    """What a sweep gave.

    Attributes:
        comparison: of the finished cells; None where none is finished.
        page: the comparison's page.
        failed: messages by the cell's directory.
        cells: how many there are.
    """

    comparison: Comparison | None
    page: Path | None
    failed: dict[str, str]
    cells: int

    def headline(self) -> str:
        return f"{self.cells - len(self.failed)} of {self.cells} cells done" + (f", {self.page}" if self.page else "")

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return self.comparison.rows_of_figures() if self.comparison else []

    def plot(self) -> "Figure":
        if self.comparison is None:
            raise InputError("no cell of the sweep is finished, so there is nothing to draw; see failed")
        return figure_of(sweep_plot, self.comparison.rows, self.comparison.keys[0])


def sweep_recipe(
    file: Path, settings: Sequence[str], directory: Path | None, *, command_line: str, overwrite: bool = False
) -> SweepResult:
    """Run a recipe once for each combination of values, and compare the results.

    Cells are ordinary run directories: done stages are not done again, and one that was stopped goes on. A stage that
    is the same in two cells, such as measuring the uncut model, is copied. A cell that fails does not stop the others.

    Args:
        file: the recipe.
        settings: texts such as `prune.ratio=0.15,0.25`; the values are YAML, with `[a,b]` for a list.
        directory: where the cells go; None: `runs/<name>-sweep`.
        command_line: the command that repeats the sweep.
        overwrite: start all cells afresh.

    Raises:
        OptionError: the recipe or a value is refused, or two cells are the same.
        OutputError: the directory holds something that is not a sweep.
    """
    source = recipe_text(file)
    cells = list(_cells(source, str(file), parse_settings(settings)))
    first = cells[0].recipe
    place = directory or first.directory.with_name(f"{first.directory.name}-sweep")
    own = [SWEEP, *OWN_FILES, *(f"{cell.directory}{rest}/" for cell in cells for rest in ("", ".partial"))]
    # Not overwritten as a whole: each cell stays until its new run is finished.
    with working_directory(place, [*map(glob.escape, own)], "a sweep") as target:
        if overwrite:
            for cell in cells:
                require_only_own(target / cell.directory)
        return _run_cells(cells, source, target, command_line, overwrite)


def _run_cells(cells: Sequence[Cell], source: str, target: Path, command_line: str, overwrite: bool) -> SweepResult:
    first = cells[0].recipe
    failed: dict[str, str] = {}
    earlier = _cells_before(target, source, cells)
    _write_state(target, first.name, source, earlier, cells, failed)
    finished: list[Path] = []
    for number, cell in enumerate(cells, start=1):
        place = target / cell.directory
        logger.info("Cell %d of %d: %s", number, len(cells), cell.directory)
        again = command_text("secateur", "run", str(place / RECIPE), "-o", str(place))
        try:
            run_recipe(cell.recipe, cell.text, place, command_line=again, overwrite=overwrite, shared=finished)
            finished.append(place)
        except Exception as error:
            failed[cell.directory] = _one_line(error)
            logger.error("Cell %s failed: %s", cell.directory, failed[cell.directory])
            logger.debug("The traceback:", exc_info=True)
        _write_state(target, first.name, source, earlier, cells, failed)
    if not finished:
        return SweepResult(None, None, failed, len(cells))
    comparison = compared([read_sweep(target, [place.name for place in finished])])
    title = f"{first.name} over {', '.join(comparison.keys)}"
    page = write_comparison(comparison, require_place(target, True), title=title, command_line=command_line)
    return SweepResult(comparison, page, failed, len(cells))


def parse_settings(settings: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each key out of texts such as `prune.ratio=0.15,0.25` or `evaluate.data=[a.txt,b.txt],[c.txt]`.

    Raises:
        OptionError: a text is not like that, or gives a key or a value twice, or there are more than `MOST_CELLS`
            combinations.
    """
    swept: dict[str, list[Any]] = {}
    for text in settings:
        key, equals, listed = text.partition("=")
        key = key.strip()
        if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
            raise OptionError(f"--set {text} is not like prune.ratio=0.15,0.25")
        if key in swept:
            raise OptionError(f"--set {key} is given twice; put all its values behind one")
        if key in NOT_SWEPT:
            raise OptionError(f"--set {key}: a cell is named by its values; name the sweep's directory with -o")
        parts = list(itertools.islice(_parts(listed), MOST_CELLS + 1))
        if len(parts) > MOST_CELLS:
            raise OptionError(f"--set {key} has more than {MOST_CELLS:,} values, the most that a sweep may have")
        swept[key] = [_value(key, part) for part in parts]
        written = list(map(_written, swept[key]))
        twice = next((value for value in written if written.count(value) > 1), None)
        if twice is not None:
            raise OptionError(f"--set {key}: the value {twice} is given twice")
    if not swept:
        raise OptionError("nothing to sweep over; give values with --set, such as --set prune.ratio=0.15,0.25")
    cells = math.prod(map(len, swept.values()))
    if cells > MOST_CELLS:
        raise OptionError(f"the values have {cells:,} combinations and a sweep may have {MOST_CELLS:,}; give fewer")
    return swept


def _parts(listed: str) -> Iterator[str]:
    """The parts between commas that stand in no brackets and no quotes."""
    part, closing, quote = "", [], ""
    for character in listed:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not part.strip(" [{,:").strip():
            quote = character
        elif character in BRACKETS:
            closing.append(BRACKETS[character])
        elif closing and character == closing[-1]:
            closing.pop()
        elif character == "," and not closing:
            yield part
            part = ""
            continue
        part += character
    yield part


def _value(key: str, text: str) -> Any:
    if not text.strip():
        raise OptionError(f"--set {key} has an empty value; write null for none")
    shown = text.strip() if len(text) < LONGEST_NAME else f"{text.strip()[:LONGEST_NAME]}…"
    try:
        value = yaml_value(text, f"--set {key}")
        json.dumps(value, allow_nan=False)
    except (InputError, TypeError, ValueError) as error:
        raise OptionError(f"--set {key}: {shown} is not a YAML value") from error
    return value


def _cells(text: str, source: str, swept: Mapping[str, list[Any]]) -> Iterator[Cell]:
    values, lines = read_recipe(text, source)
    keys = [dotted(present_place(kind_of(values), tuple(key.split(".")))) for key in swept]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise OptionError(f"--set {twice} is given twice, once by its earlier name; put all its values behind one")
    seen: dict[str, str] = {}
    taken: set[str] = set()
    for combination in itertools.product(*swept.values()):
        given = dict(zip(keys, combination, strict=True))
        named = ", ".join(f"{key}={_written(value)}" for key, value in given.items())
        changed: dict[str, Any] = copy.deepcopy(values)
        known: dict[Place, int] = dict(lines)
        for key, value in given.items():
            place = tuple(key.split("."))
            _put(changed, place, value, f"{source} with {named}")
            for length in range(1, len(place)):
                known.setdefault(place[:length], 0)
            known[place] = 0
        recipe = checked_recipe(changed, known, f"{source} with {named}")
        if isinstance(recipe, LongRangeRecipe):
            raise OptionError(
                f"{source}: a recipe with the section longrange cannot be swept; its runs are of another kind"
            )
        content = json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
        if content in seen:
            raise OptionError(f"the cells {seen[content]} and {named} are the same; leave one out")
        seen[content] = named
        written = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
        directory = _directory_name(given, taken)
        taken.add(directory.lower())
        yield Cell(given, recipe, f"# {source} with {named}\n{written}".replace("\r", " "), directory)


def _put(values: dict[str, Any], place: Sequence[str], value: Any, source: str) -> None:
    section = values
    for name in place[:-1]:
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise OptionError(f"{source}: {'.'.join(place)} is below {name}, which is a value and no section")
    section[place[-1]] = value


def _directory_name(given: Mapping[str, Any], taken: set[str]) -> str:
    """`prune.ratio=0.25`; with a part of a hash where the values do not make a name of their own."""
    plain = ",".join(f"{key}={_written(value)}" for key, value in given.items())
    name = re.sub(r"[^\w.=,+-]+", "_", plain)
    if name != plain or len(name) > LONGEST_NAME or name.lower() in taken:
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
    return name


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write_state(
    target: Path,
    name: str,
    source: str,
    earlier: Sequence[Mapping[str, Any]],
    cells: Sequence[Cell],
    failed: Mapping[str, str],
) -> None:
    """Note which cells the sweep has: their figures are in their own directories."""
    listed = [
        {"directory": cell.directory, "values": cell.values, "error": failed.get(cell.directory)} for cell in cells
    ]
    write_json(target / SWEEP, {"name": name, "recipe": source, "cells": [*earlier, *listed]})


def _cells_before(target: Path, source: str, cells: Sequence[Cell]) -> list[Any]:
    """The cells of the same recipe and keys that earlier commands have finished there, but for those of this one."""
    file = target / SWEEP
    try:
        state = read_json(file) if file.is_file() else {}
    except InputError:
        return []
    if not isinstance(state, dict) or state.get("recipe") != source or not isinstance(state.get("cells"), list):
        return []
    own, keys = {cell.directory for cell in cells}, set(cells[0].values)
    return [
        cell
        for cell in state["cells"]
        if isinstance(cell, dict)
        and cell.get("directory") not in own
        and isinstance(cell.get("values"), dict)
        and set(cell["values"]) == keys
        and cell.get("error") is None
    ]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, SecateurError) else f"unexpected {type(error).__name__}: {text}"
