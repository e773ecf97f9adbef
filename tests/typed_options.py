"""Options of public functions for type checkers: `make options` writes a `TypedDict` for each config, none by hand.

A checker does not run the code, so the options of the pydantic configs have to stand in a file. What stands there is
compared with the configs in `test_signatures.py`.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

SOURCE = Path(__file__).parents[1] / "src"
WIDTH = 120
# By module: the TypedDicts in it, each with the function that takes the options.
FILES: dict[str, dict[str, str]] = {
    "secateur.attention.options": {
        "TuneOptions": "secateur.attention.tuning:tune",
        "ApplyOptions": "secateur.attention.hook:apply",
        "GenerateOptions": "secateur.attention.generate:generate",
        "CompareOptions": "secateur.attention.against_dense:compare_with_dense",
    },
    "secateur.costs.options": {"MeasureWidthsOptions": "secateur.costs.measuring:measure_widths"},
    "secateur.evaluation.options": {
        "EvaluateOptions": "secateur.evaluation.evaluate:evaluate",
        "DiagnoseOptions": "secateur.evaluation.health:diagnose",
    },
    "secateur.exporting.options": {"ExportOptions": "secateur.exporting.export:export"},
    "secateur.planning.options": {"PlanOptions": "secateur.planning.estimates:estimate"},
    "secateur.pruning.options": {"PruneOptions": "secateur.pruning.prune:prune"},
    "secateur.pruning.search.options": {"SearchOptions": "secateur.pruning.search.rounds:search"},
    "secateur.quantization.options": {"QuantizeOptions": "secateur.quantization.quantize:quantize"},
    "secateur.recovery.options": {"RecoverOptions": "secateur.recovery.recover:recover"},
    "secateur.sparsity.options": {"SparsifyOptions": "secateur.sparsity.sparsify:sparsify"},
}
# What a validator takes beside what the field holds.
ALSO_TAKEN = {
    ("EvaluateConfig", "data"): "Data | list[Data]",
    ("EvaluateConfig", "tasks"): "str | list[str]",
    ("PruneConfig", "freeze"): "str | list[int]",
    ("PruneConfig", "importance"): "UnitImportance | UnitScore",
    ("SearchConfig", "freeze"): "str | list[int]",
    ("SparsifyConfig", "skip"): "str | list[str]",
    ("RecoverConfig", "extra_eval"): "Data | list[Data]",
    ("CompareConfig", "profile"): "str | Path | None",
    ("GenerateConfig", "profile"): "str | Path | None",
    ("GenerateConfig", "prompt_file"): "str | Path | None",
}
# Of what no config's module names.
HOMES = {"UnitScore": "secateur.pruning.importance", "Path": "pathlib", "Data": "secateur.data"}
BUILTINS = {"str", "int", "float", "bool", "list", "dict", "tuple", "None"}


def file_of(module: str) -> Path:
    """Where a module's source stands."""
    return SOURCE / Path(*module.split(".")).with_suffix(".py")


def source_of(module: str) -> str:
    """The source of a module of `TypedDict`s, as it has to be."""
    imports: dict[str, set[str]] = {"typing": {"TypedDict"}}
    classes = []
    for name, place in FILES[module].items():
        function = located(place)
        config = config_of(function).__name__
        lines = [
            f"class {name}(TypedDict, total=False):",
            f'    """Options of `secateur.{public_name(place)}`, the fields of `{config}`."""',
        ]
        for field in function.options_shown:
            annotation = annotation_of(config_of(function), field, imports)
            lines += ["", f"    {field}: {annotation}", *docstring(config_of(function), field)]
        classes.append("\n".join(lines))
    heading = '"""Options by name, for type checkers: `make options` writes this file from the configs."""'
    unread = "from __future__ import annotations"  # `Data` is a text, of which no union can be made
    return "\n\n\n".join(["\n\n".join([heading, unread, *import_lines(imports)]), *classes]) + "\n"


def located(place: str) -> Any:
    """A function by `module:name`."""
    module, _, name = place.partition(":")
    __import__(module)
    return getattr(sys.modules[module], name)


def public_name(place: str) -> str:
    """What users call a function."""
    name = place.rpartition(":")[2]
    renamed = {"estimate": "plan", "compare_with_dense": "compare"}.get(name, name)
    return f"attention.{renamed}" if place.startswith("secateur.attention") else renamed


def config_of(function: Any) -> type[BaseModel]:
    return function.options_config


def annotation_of(config: type[BaseModel], field: str, imports: dict[str, set[str]]) -> str:
    """A field's annotation as its class writes it. Adds what it names to the imports."""
    declaring = next(base for base in config.__mro__ if field in vars(base).get("__annotations__", {}))
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(declaring))).body
    assert isinstance(tree, ast.ClassDef)
    written = next(
        ast.unparse(line.annotation)
        for line in tree.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id == field
    )
    # A config holds the name by which data is found again, and of a share the number.
    written = (
        ALSO_TAKEN.get((config.__name__, field), written)
        .replace("'", '"')
        .replace("DataName", "Data")
        .replace("Ratio", "float | str")
    )
    for node in ast.walk(ast.parse(written)):
        if isinstance(node, ast.Name) and node.id not in BUILTINS:
            home = HOMES.get(node.id) or origin(node.id, declaring.__module__)
            imports.setdefault(home, set()).add(node.id)
    return written


def origin(name: str, module: str) -> str:
    """The module that a name comes from which another module uses."""
    for line in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(line, ast.ImportFrom) and any(alias.name == name for alias in line.names):
            return str(line.module)
    return module


def docstring(config: type[BaseModel], field: str) -> Iterator[str]:
    """What editors show for a key."""
    from secateur.wording import asked_by, described

    with asked_by("python"):
        text = described(config.model_fields[field]).replace("\\", "\\\\")
    first, *rest = textwrap.wrap(f'"""{text}', WIDTH - 4, break_on_hyphens=False) or ['"""']
    if rest or len(first) > WIDTH - 7:
        yield from (f"    {line}" for line in [first, *rest, '"""'])
    else:
        yield f'    {first}"""'


def import_lines(imports: dict[str, set[str]]) -> Iterator[str]:
    """Imports as ruff sorts them: the standard library, then our own."""
    own = sorted(module for module in imports if module.startswith("secateur"))
    for modules in (sorted(set(imports) - set(own)), own):
        if modules:
            yield "\n".join(f"from {module} import {', '.join(sorted(imports[module]))}" for module in modules)


if __name__ == "__main__":
    for each in FILES:
        file_of(each).write_text(source_of(each), encoding="utf-8")
