"""The notebook, run cell by cell on a tiny model."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from secateur import save

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tour.ipynb"


def run(cell: str, names: dict[str, Any]) -> Any:
    """Run a cell. Returns the value of its last line, as a notebook shows it."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


@pytest.mark.slow
def test_every_cell_runs_and_shows_its_result(
    tiny_model: Any, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tiny_model("llama"), tiny_tokenizer, tmp_path / "model")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 300)
    monkeypatch.setenv("SECATEUR_TOUR_MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("SECATEUR_TOUR_TEXT", str(tmp_path / "text.txt"))
    monkeypatch.setenv("SECATEUR_TOUR_SMALL", "1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"), "clear the outputs"
    names: dict[str, Any] = {}
    shown = [run(cell, names) for cell in code]
    assert sum(hasattr(value, "_repr_html_") or hasattr(value, "_repr_png_") for value in shown) >= 10
    assert names["trained"].output is None and len(names["watch"].losses) == names["trained"].steps
    assert [row["name"] for row in names["result"].metrics["models"]] == ["original", "pruned"]
