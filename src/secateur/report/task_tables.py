"""What models reached on tasks, task by task."""

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.report.html import Table
from secateur.report.layout import NO_BREAK, Column, TextTable
from secateur.report.tables import MISSING, Row, accuracy, baselines, task_names, value_text


def task_columns(rows: Sequence[Row], baseline: int | None = None) -> list[Column]:
    """A line for each task and model.

    Args:
        rows: as for `tables.comparison_columns`, with `tasks`.
        baseline: which row those of its family are compared with, where it was asked the same questions.

    Returns:
        Task; model; accuracy with its standard error; change in points; acc_norm; other metrics where a task has no
        accuracy; examples; solved examples before each question. What no line has is left out.
    """
    compared = baselines(rows, baseline)
    lines = [
        (task, row, {} if first is None else rows[first].get("tasks") or {})
        for task in task_names(rows)
        for row, first in zip(rows, compared, strict=True)
        if task in (row.get("tasks") or {})
    ]
    scores = [row["tasks"][task] for task, row, _ in lines]
    columns = [
        Column("task", [task for task, _, _ in lines], "left"),
        Column("model", [row_label(row) for _, row, _ in lines], "left"),
        Column("accuracy", [_with_error(score, "acc", "exact_match") for score in scores]),
        Column("points", [_points(row["tasks"][task], first.get(task)) for task, row, first in lines]),
        Column("acc_norm", [_with_error(score, "acc_norm") for score in scores]),
        Column("other", [_others(score) for score in scores], "left"),
        Column("n", [f"{score['n']:,}" for score in scores]),
        Column("shots", [str(score["n_shot"]) for score in scores]),
    ]
    return [column for column in columns if any(cell != MISSING for cell in column.cells)]


def task_table(rows: Sequence[Row], *, baseline: int | None = None) -> TextTable:
    """The same for the terminal. Arguments as `task_columns`."""
    columns = task_columns(rows, baseline)
    if not columns:
        return TextTable([])
    tasks, *others = columns
    return TextTable([Column("task", _once(tasks), "left"), *others], labels=2)


def task_page_table(rows: Sequence[Row], *, baseline: int | None = None) -> Table:
    """The same for the HTML page. Arguments as `task_columns`."""
    columns = task_columns(rows, baseline)
    cells = [list(line) for line in zip(*(column.cells for column in columns), strict=True)]
    return Table([column.header for column in columns], cells, TASK_NOTE, numbers_from=2)


TASK_NOTE = (
    "Accuracy: the share of questions whose right answer has the highest log-probability; acc_norm: the same with each "
    "answer's log-probability divided by its length in characters; ± one standard error. Points: change of the "
    "accuracy. Shots: solved examples before each question."
)


def row_label(row: Row) -> str:
    """The row's name, and what a sweep gave it: `pruned, ratio=0.25`."""
    values = row.get("values") or {}
    return ", ".join([str(row["name"]), *(f"{key.rpartition('.')[2]}={value_text(v)}" for key, v in values.items())])


def _with_error(score: Mapping[str, Any], *metrics: str) -> str:
    name = next((metric for metric in metrics if score["metrics"].get(metric) is not None), None)
    if name is None:
        return MISSING
    error = score["stderr"].get(name)
    return f"{score['metrics'][name]:.1%}" + (f" ±{100 * error:.1f}" if error is not None else "")


def _points(score: Mapping[str, Any], first: Mapping[str, Any] | None) -> str:
    now, before = accuracy(score), accuracy(first)
    if now is None or before is None or first is None or score["prompts"] != first["prompts"] or score is first:
        return MISSING
    points = 100 * (now - before)
    text = f"{abs(points):.1f}"
    return text if text == "0.0" else f"{'+' if points > 0 else '−'}{text}"


def _others(score: Mapping[str, Any]) -> str:
    if accuracy(score) is not None:
        return MISSING
    shown = [f"{name}{NO_BREAK}{value:.4g}" for name, value in score["metrics"].items() if value is not None]
    return " ".join(shown) or MISSING


def _once(column: Column) -> list[str]:
    """A column's cells, each only where it is another than the one above."""
    before = ["", *column.cells[:-1]]
    return [cell if cell != above else "" for cell, above in zip(column.cells, before, strict=True)]
