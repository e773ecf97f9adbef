"""Results of several measurements in one table, one page and one plot."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.comparison.results import SPEEDS, Result, Row, read_result
from secateur.console import counted
from secateur.errors import OutputError
from secateur.files import (
    add_to_mark,
    claimed,
    expanded,
    is_empty,
    is_marked,
    require_directory,
    require_own_files,
    write_extra,
)
from secateur.files.result_files import COMPARED
from secateur.report import (
    comparison_markdown,
    comparison_page,
    markdown_text,
    render,
    size_plot,
    sweep_plot,
    text_notes,
)
from secateur.report.comparison import size_figure, sweep_figure
from secateur.report.html import Draw
from secateur.showing import Drawn, model_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKDOWN, PAGE, PLOT = "comparison.md", "comparison.html", "comparison.png"
SWEEP_PLOT = "sweep.png"
OWN_FILES = (MARKDOWN, COMPARED, PAGE, PLOT, SWEEP_PLOT)


@dataclass(frozen=True, repr=False)
class Comparison(Drawn):
    """Models side by side.

    Attributes:
        rows: the models, the first the baseline; `values` are those of a sweep.
        warnings: what is not alike.
        results: where the rows come from: (label, path).
        settings: the recipe, of a sweep.
        keys: of the recipe, that were swept.
    """

    rows: list[Row]
    warnings: list[str]
    results: list[tuple[str, str]]
    settings: str = ""
    keys: list[str] = field(default_factory=list)

    def headline(self) -> str:
        return f"{counted(len(self.rows), 'model')}: {', '.join(row['name'] for row in self.rows)}"

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [model_row(row) for row in self.rows]

    def plot(self) -> "Figure":
        from secateur.report import figure_of, size_plot

        return figure_of(size_plot, self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, which `compare` reads as well."""
        return {"models": self.rows, "warnings": self.warnings, "results": dict(self.results), "swept": self.keys}


def compare_results(paths: Sequence[Path]) -> Comparison:
    """Read results and put them side by side.

    Args:
        paths: of `--json` files, run directories, sweeps and earlier comparisons.

    Raises:
        InputError: a path is none of these, or its figures are damaged.
    """
    return compared([read_result(path) for path in paths])


def compared(results: Sequence[Result]) -> Comparison:
    """Results side by side; what was not measured alike stands in columns of its own."""
    rows = _told_apart(results)
    warnings = [*_split_texts(rows), *_split_tasks(rows), *_mixed_formats(rows)]
    timed = {result.path for result in results if any(row[speed] for row in result.rows for speed in SPEEDS)}
    if len(timed) > 1 or any(row["values"] and row[speed] for row in rows for speed in SPEEDS):
        warnings.append("Tokens per second were not measured side by side: the load and the machine may have differed.")
    keys = list(dict.fromkeys(key for row in rows for key in row["values"]))
    recipes = "\n".join(result.recipe for result in results if result.recipe)
    return Comparison(rows, warnings, [(result.label, str(result.path)) for result in results], recipes, keys)


def require_place(directory: Path, overwrite: bool, inputs: Sequence[Path] = ()) -> Path:
    """Check, before any work, where a comparison goes.

    Args:
        directory: new, empty, or with `overwrite` any: only the comparison's own files are replaced.
        overwrite: whether those may be.
        inputs: the results it is made of.

    Raises:
        OutputError: it holds something and `overwrite` is off, or a file of the comparison's names that is not
            secateur's, or one of the inputs would be replaced.
    """
    target = require_directory(directory)
    if not is_empty(target) and not overwrite:
        raise OutputError(f"{target} already holds something; name another directory or pass --overwrite")
    for path in inputs:
        if expanded(path).resolve() in {(target / name).resolve() for name in OWN_FILES}:
            raise OutputError(f"{path} is read by this very command and would be replaced; name another directory")
    require_own_files(target, OWN_FILES)
    return target


def write_comparison(comparison: Comparison, directory: Path, *, title: str, command_line: str) -> Path:
    """Write `comparison.md`, `.json`, `.html` and `.png`, of a sweep `sweep.png` as well. Nothing else is touched.

    Returns:
        The path of the page.

    Raises:
        OutputError: a file cannot be written.
    """
    rows = comparison.rows
    contents: dict[str, object] = {}
    pictures: dict[str, Draw] = {"Size and quality": partial(size_figure, rows)}
    contents[PLOT] = size_plot(rows)
    if comparison.keys:
        key = comparison.keys[0]
        pictures = {f"Quality by {key}": partial(sweep_figure, rows, key), **pictures}
        contents[SWEEP_PLOT] = sweep_plot(rows, key)
    notes = [f"{note[0].upper()}{note[1:]}." for note in text_notes(rows)] + comparison.warnings
    listed = "".join(f"* {markdown_text(note)}\n" for note in notes)
    heading = f"# {markdown_text(title)}\n\n"
    contents[MARKDOWN] = heading + comparison_markdown(rows) + (f"\n{listed}" if listed else "")
    page = comparison_page(
        rows,
        title=title,
        warnings=comparison.warnings,
        pictures=pictures,
        commands=[("All of it", command_line)],
        sources=comparison.results,
        settings=comparison.settings,
    )
    contents |= {PAGE: render(page), COMPARED: comparison.to_dict()}
    with claimed(directory):
        for name in OWN_FILES:
            if name not in contents and is_marked(directory, name):
                (directory / name).unlink(missing_ok=True)
        add_to_mark(directory, contents)
        for name, content in contents.items():
            write_extra(directory / name, content)
    return directory / PAGE


def _told_apart(results: Sequence[Result]) -> list[Row]:
    """All rows; those of the same name and values get the label of their result, then a number where that is alike."""
    everything = [(result, row) for result in results for row in result.rows]
    taken = [_identity(row["name"], row) for _, row in everything]
    labels = [
        row["name"] if result.label == row["name"] else f"{result.label}/{row['name']}" for result, row in everything
    ]
    names = [
        label if taken.count(identity) > 1 else row["name"]
        for identity, label, (_, row) in zip(taken, labels, everything, strict=True)
    ]
    seen: dict[str, int] = {}
    told: list[Row] = []
    renamed: dict[tuple[int, str], str] = {}
    for name, (result, row) in zip(names, everything, strict=True):
        key = _identity(name, row)
        seen[key] = seen.get(key, 0) + 1
        final = name if seen[key] == 1 else f"{name} ({seen[key]})"
        renamed[id(result), _identity(row["name"], row)] = final
        told.append({**row, "name": final})
    for row, (result, before) in zip(told, everything, strict=True):
        if row["recovers"] is not None:
            row["recovers"] = renamed.get((id(result), _identity(before["recovers"], before)), before["recovers"])
    return told


def _identity(name: str, row: Row) -> str:
    return repr((name, sorted(row["values"].items())))


def _split_texts(rows: Sequence[Row]) -> Iterator[str]:
    """Give a text a column for each way it was measured."""

    def way(row: Row, text: str) -> tuple[Any, ...]:
        return row["sources"].get(text), row["corpora"][text], row["windows"][text], row["seqlen"], row["stride"]

    def named(row: Row, text: str) -> str:
        step = f", one every {row['stride']}" if row["stride"] else ""
        return f"{text}, {row['windows'][text]} × {row['seqlen']}{step}"

    for text in _split(rows, "perplexity", way, named, also=("windows", "corpora", "sources")):
        yield f"Perplexity on {text} was not measured alike: each way has a column of its own."


def _split_tasks(rows: Sequence[Row]) -> Iterator[str]:
    """Give a task a column for each set of questions."""

    def way(row: Row, task: str) -> tuple[Any, ...]:
        score = row["tasks"][task]
        return score["prompts"], score["n"], score["n_shot"]

    def named(row: Row, task: str) -> str:
        return f"{task}, n={row['tasks'][task]['n']}, {row['tasks'][task]['n_shot']} shots"

    for task in _split(rows, "tasks", way, named):
        yield f"The task {task} did not ask the same questions: each set has a column of its own."


def _split(
    rows: Sequence[Row],
    column: str,
    way: Callable[[Row, str], tuple[Any, ...]],
    named: Callable[[Row, str], str],
    also: Sequence[str] = (),
) -> list[str]:
    """Rename the entries of a column that were not measured the same way. Returns the names that stood for several."""
    ways: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        for name in row[column]:
            if way(row, name) not in ways.setdefault(name, []):
                ways[name].append(way(row, name))
    several = [name for name, found in ways.items() if len(found) > 1]
    names: dict[tuple[str, tuple[Any, ...]], str] = {}
    for row in rows:
        for name in several:
            if name in row[column] and (name, way(row, name)) not in names:
                wanted = named(row, name)
                alike = sum(given == wanted or given.startswith(f"{wanted} (") for given in names.values())
                names[name, way(row, name)] = wanted if not alike else f"{wanted} ({alike + 1})"
    for row in rows:
        changed = {name: names.get((name, way(row, name)), name) for name in row[column]}
        for part in (column, *also):
            row[part] = {changed.get(name, name): value for name, value in row[part].items()}
    return several


def _mixed_formats(rows: Sequence[Row]) -> Iterator[str]:
    formats: dict[str, list[str]] = {}
    for row in rows:
        if row["dtype"]:
            formats.setdefault(row["dtype"], []).append(row["name"])
    if len(formats) > 1:
        listed = "; ".join(f"{dtype}: {', '.join(dict.fromkeys(names))}" for dtype, names in formats.items())
        yield f"Models were measured in different number formats: {listed}."
