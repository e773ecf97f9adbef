"""Where things stand: packages import only what is below them, and nothing lies loose beside them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "secateur"
CUTS = ("pruning", "sparsity", "quantization", "attention", "longrange")
ORDER = (
    *("cli", "runs", "planning", *CUTS, "costs", "chat", "recovery", "evaluation", "handover", "exporting"),
    *("comparison", "report", "rounding", "calibration", "kernels", "models", "data"),
)
BOTTOM = ("console", "distributed", "environment", "errors", "files", "progress", "showing", "wording")


def imported(file: Path) -> Iterator[str]:
    """The packages of secateur that a module imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "secateur" else [f"secateur.{alias.name}" for alias in node.names]
            yield from (name.split(".")[1] for name in names if name.startswith("secateur."))


def test_nothing_lies_loose() -> None:
    found = {path.stem for path in SOURCE.iterdir() if not path.name.startswith("_")}
    assert found - {"py"} == {*ORDER, *BOTTOM}


@pytest.mark.parametrize("package", [*ORDER, *BOTTOM])
def test_imports_point_down(package: str) -> None:
    files = [*(SOURCE / package).rglob("*.py")] or [SOURCE / f"{package}.py"]
    below = {*ORDER[ORDER.index(package) :], *BOTTOM} if package in ORDER else {*BOTTOM}
    allowed = {package, *(below - {*CUTS} if package in CUTS else below)}
    for file in files:
        assert {*imported(file)} <= allowed, file
