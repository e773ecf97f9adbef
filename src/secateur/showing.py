"""How results show themselves in Python: one line, a table in a notebook, a data frame, a figure."""

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secateur.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

MOST_ROWS = 40
MISSING = "–"


class Shown:
    """A result with a headline and rows of figures. A dataclass of this kind is made with `repr=False`."""

    def headline(self) -> str:
        """The figures that say most, on one line."""
        raise NotImplementedError

    def rows_of_figures(self) -> list[dict[str, Any]]:
        """The figures, a row for each layer, step, phase or model."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.headline()})"

    def to_pandas(self) -> "DataFrame":
        """The figures as a data frame, a row for each layer, step, phase or model.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise InputError("to_pandas needs the package pandas; run: pip install pandas") from error
        return pandas.DataFrame(self.rows_of_figures())

    def _repr_html_(self) -> str:
        heading = f"<p><b>{html.escape(type(self).__name__)}</b>: {html.escape(self.headline())}</p>"
        return heading + html_table(self.rows_of_figures())


class Drawn(Shown):
    """A result with a picture as well."""

    def plot(self) -> "Figure":
        """The figures drawn, as a matplotlib figure; `figure.savefig("plot.pdf")` writes it."""
        raise NotImplementedError


def html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of figures as HTML; of many rows the first."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(figure_text(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>{len(rows) - MOST_ROWS:,} more rows: to_pandas()</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def figure_text(value: Any) -> str:
    """A figure for a table: counts with commas, other numbers in four digits."""
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    """A row without mappings in it: `{"perplexity": {"pydocs": 8.1}}` becomes `{"perplexity pydocs": 8.1}`."""
    row: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            row |= {f"{name} {key}": one for key, one in value.items()}
        else:
            row[name] = value
    return row


MODEL_FIGURES = (
    *("name", "parameters", "sparsity", "perplexity", "tasks", "size_bytes", "prefill_tokens_per_second"),
    *("decode_tokens_per_second", "peak_memory_bytes"),
)


def model_row(figures: Mapping[str, Any]) -> dict[str, Any]:
    """A model's figures, as `Evaluation.to_dict` gives them, in one flat row: what was measured."""
    chosen = {name: figures[name] for name in MODEL_FIGURES if figures.get(name) is not None}
    scores = chosen.pop("tasks", {})
    accuracies = {
        f"{task} {metric}": value for task, score in scores.items() for metric, value in score["metrics"].items()
    }
    return {**flat(chosen), **dict(figures.get("values") or {}), **accuracies}
