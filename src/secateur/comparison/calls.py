"""Results side by side from Python: `secateur.compare`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from secateur.comparison.comparison import Comparison, compared, require_place, write_comparison
from secateur.comparison.results import Result, read_result, row_of
from secateur.console import command_text
from secateur.errors import InputError


@runtime_checkable
class Figures(Protocol):
    """A result of `evaluate`, `run` or `compare`."""

    def to_dict(self) -> dict[str, Any]: ...


Measured = Figures | str | Path


def compare(
    results: Mapping[str, Measured] | Sequence[Measured],
    output: str | Path | None = None,
    *,
    title: str = "Comparison",
    overwrite: bool = False,
) -> Comparison:
    """Put results side by side; the first model is the baseline.

    Args:
        results: what `evaluate`, `run` and `compare` return, or paths of `--json` files, run directories and sweeps;
            with names, `{"uncut": before, "pruned": after}`, an evaluation goes by its name here.
        output: a directory for comparison.md, comparison.json, comparison.html and comparison.png; nothing is written
            unless it is given.
        title: of the page.
        overwrite: replace the files of an earlier comparison there.

    Raises:
        InputError: a result is none of these, or its figures are damaged.
        OutputError: the directory cannot be written to.
    """
    named = dict(results) if isinstance(results, Mapping) else None
    if not isinstance(results, Mapping | list | tuple):
        raise InputError(
            f"a {type(results).__name__} is no list of results; give several, or a mapping of names to them"
        )
    listed = list(named.values()) if named is not None else [*results]
    if not listed:
        raise InputError("there is nothing to compare; give results of evaluate or run, or paths")
    names: list[str | None] = list(named) if named is not None else [None] * len(listed)
    read = [_read(result, name) for result, name in zip(listed, names, strict=True)]
    paths = [Path(result) for result in listed if isinstance(result, str | Path)]
    place = require_place(Path(output), overwrite, paths) if output is not None else None
    comparison = compared(read)
    if place is not None:
        given = [str(path) for path in paths] if len(paths) == len(listed) else ["…"]
        command_line = command_text("secateur", "compare", *given, "-o", str(output))
        write_comparison(comparison, place, title=title, command_line=command_line)
    return comparison


def _read(result: Measured, name: str | None) -> Result:
    if isinstance(result, str | Path):
        return read_result(Path(result))
    if not isinstance(result, Figures):
        raise InputError(f"{type(result).__name__} is nothing to compare; give a result of evaluate or run, or a path")
    figures = result.to_dict()
    several = isinstance(figures.get("models"), list)
    rows = figures["models"] if several else [{**figures, "name": name or figures.get("name", "model")}]
    label = name or str(figures.get("name", "results"))
    return Result(label, Path(label), [row_of(row, type(result).__name__) for row in rows])
