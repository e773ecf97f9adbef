"""Tables of figures, for the terminal and in Markdown. Rows are what `Evaluation.to_dict()` gives."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.console import counted
from secateur.report.layout import Column, TextTable

Row = Mapping[str, Any]

MISSING = "–"
BASELINE = "baseline"
UNCUT = "original"
TRANSFORMERS = "Transformers"  # the engine of a row that names none
SEVERITY_STYLES = {"error": "bold red", "warning": "yellow"}


def comparison_columns(rows: Sequence[Row], baseline: int | None = None) -> list[Column]:
    """The comparison of models as columns of text, for any renderer.

    Args:
        rows: one mapping per model: `name`, `parameters`, `perplexity` (by the text's name, or one number),
            where measured `prefill_tokens_per_second` and `decode_tokens_per_second`. A model fine-tuned
            after a cut says in `recovers` the name of the cut model's row: its change is then the share of
            the rise of log-perplexity, from the baseline to the cut model, that is gone; or by how much it is worse
            than the cut model.
        baseline: which row those of its family are compared with; by default as in `baselines`.

            `values` are those of the recipe's keys that a sweep gave the row. `tasks` are scores by the task's name.
            `family` says which models are of one family; without it all are.

    Returns:
        Model; swept values; perplexity and change for each text; accuracy for each task; share of zeros; parameters
        and change; speeds. What no row has is left out.
    """
    return [*_label_columns(rows), *_text_columns(rows, baseline), *_accuracy_columns(rows), *_rest(rows, baseline)]


def comparison_table(rows: Sequence[Row], *, baseline: int | None = None, title: str | None = None) -> TextTable:
    """The comparison of models for the terminal, but for tasks. Arguments as `comparison_columns`."""
    labels = _label_columns(rows)
    figures = [*_text_columns(rows, baseline), *_rest(rows, baseline, last=True)]
    return TextTable([*labels, *figures], title, len(labels))


def comparison_markdown(rows: Sequence[Row], *, baseline: int | None = None) -> str:
    """The comparison of models as a Markdown table. Arguments as `comparison_columns`."""
    return markdown(comparison_columns(rows, baseline))


def baselines(rows: Sequence[Row], baseline: int | None = None) -> list[int | None]:
    """For each row the one that its figures are compared with: the uncut model of its family.

    Args:
        rows: as for `comparison_columns`. Uncut is the first called `original`; where there is none, the first with
            the fewest zeros and among those the most parameters.
        baseline: the row that those of its family are compared with instead.
    """
    families: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        families.setdefault(row.get("family") or "", []).append(index)
    found: list[int | None] = [None] * len(rows)
    for members in families.values():
        if baseline in members:
            first = baseline
        else:
            named = [index for index in members if _is_called_original(rows[index])]
            least_cut = min(members, key=lambda index: (rows[index].get("sparsity") or 0.0, -_size(rows[index])))
            first = named[0] if named else least_cut
        for index in members:
            found[index] = first
    return found


def _is_called_original(row: Row) -> bool:
    """Whether a run calls it so, or a comparison of several runs: `run/original`, `original (2)`."""
    return re.fullmatch(rf"(.*/)?{UNCUT}( \(\d+\))?", str(row["name"]), re.DOTALL) is not None


def _size(row: Row) -> int:
    """Its parameters, of which an adapter beside a cut model has some to spare."""
    return -1 if row.get("recovers") else row.get("parameters") or 0


def memory_table(rows: Sequence[Row], *, baseline: int | None = None, title: str | None = None) -> TextTable:
    """Size on disk and peak memory of models (`size_bytes`, `peak_memory_bytes`) where any was measured."""
    columns = [Column("model", [str(row["name"]) for row in rows], "left")]
    for header, key in (("size on disk", "size_bytes"), ("peak memory", "peak_memory_bytes")):
        values = [row.get(key) for row in rows]
        if all(value is None for value in values):
            continue
        columns.append(Column(header, [_bytes(value) for value in values]))
        columns.append(Column("change", _changes(values, baselines(rows, baseline)), "left", joined=True))
    return TextTable(columns, title)


def attention_table(figures: Mapping[str, Any]) -> TextTable:
    """Dense against sparse attention.

    Args:
        figures: of `Comparison.to_dict`.
    """
    measured = [next(iter(figures[name].values())) for name in ("perplexity", "sparse_perplexity")]
    values = ("not finite" if value is None else f"{value:.3f}" for value in measured)
    rows = [
        ("perplexity", *values),
        ("seconds to the first token", f"{figures['seconds']:.2f}", f"{figures['sparse_seconds']:.2f}"),
        ("blocks computed", "100.0%", f"{figures['density']:.1%}"),
        ("left out in sparse layers", "", f"{figures['sparsity']:.1%}"),
        ("cosine of logits", "", f"{figures['logits_cosine']:.4f}"),
        ("same greedy token", "", f"{figures['greedy_agreement']:.1%}"),
    ]
    names, dense, sparse = (list(column) for column in zip(*rows, strict=True))
    return TextTable([Column("", names, "left"), Column("dense", dense), Column("sparse", sparse)])


def health_table(report: Mapping[str, Any], *, title: str | None = None) -> TextTable:
    """The problems of a model (`HealthReport.to_dict()`), errors first, for the terminal."""
    problems = sorted(report["problems"], key=lambda problem: problem["severity"] != "error")
    severities, places, faults = ([problem[key] for problem in problems] for key in ("severity", "where", "what"))
    columns = [
        Column("severity", severities, "left", styles=SEVERITY_STYLES),
        Column("where", places, "left"),
        Column("what", faults, "left"),
    ]
    return TextTable(columns, title, labels=2)


def weights_table(report: Mapping[str, Any], *, title: str | None = None) -> TextTable:
    """What the weights of a model hold (`HealthReport.to_dict()`), one row per kind for all layers."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for tensor in report["tensors"]:
        kind = re.sub(r"\.\d+\.", ".*.", tensor["name"])
        kinds.setdefault(kind.removesuffix(".weight"), []).append(tensor)
    columns = [
        Column("weight", list(kinds), "left"),
        Column("tensors", [str(len(tensors)) for tensors in kinds.values()]),
        Column("zeros", [_zero_range(tensors) for tensors in kinds.values()]),
        Column("largest", [f"{max(t['largest'] for t in tensors):.3g}" for tensors in kinds.values()]),
    ]
    return TextTable(columns, title)


def text_notes(rows: Sequence[Row]) -> list[str]:
    """One line per text that says what it is and how perplexity was measured on it; one per row of another engine."""
    notes: dict[str, str] = {}
    for row in rows:
        for text, description in row.get("corpora", {}).items():
            stride = row.get("stride")
            step = f", one every {stride:,}" if stride else ""
            how = f"{counted(row['windows'][text], 'window')} of {row['seqlen']:,} tokens{step}"
            notes.setdefault(text, f"perplexity on {description}; {how}")
    elsewhere = [
        f"{row['name']}: {row['dtype']}, measured in {row['engine']}"
        for row in rows
        if row.get("engine", TRANSFORMERS) != TRANSFORMERS
    ]
    return [*notes.values(), *elsewhere]


def share_of_rise(baseline: float, cut: float, recovered: float) -> float | None:
    """The share of the rise of log-perplexity that is gone: 1 where `recovered` is back at `baseline`.

    Args:
        baseline: perplexity before the cut.
        cut: perplexity after it.
        recovered: perplexity after fine-tuning.

    Returns:
        The share, None where the cut did not raise the perplexity.
    """
    rise = math.log(cut) - math.log(baseline)
    return (math.log(cut) - math.log(recovered)) / rise if rise > 0 else None


def text_names(rows: Sequence[Row]) -> list[str]:
    """The names of all texts that perplexity was measured on, in order; an empty name for plain numbers."""
    return list(dict.fromkeys(text for row in rows for text in perplexities(row)))


def perplexities(row: Row) -> Mapping[str, float | None]:
    """A row's perplexity by the text's name; a plain number goes by the empty name."""
    value = row.get("perplexity")
    return value if isinstance(value, Mapping) else {"": value}


def short_text_name(text: str) -> str:
    """The last part of a path."""
    return Path(text).name or text


def _label_columns(rows: Sequence[Row]) -> list[Column]:
    return [Column("model", [str(row["name"]) for row in rows], "left"), *_value_columns(rows)]


def _text_columns(rows: Sequence[Row], baseline: int | None) -> list[Column]:
    """Perplexity and change for each text."""
    texts, compared = text_names(rows), baselines(rows, baseline)
    return [
        column
        for text in texts
        for column in _perplexity_columns(rows, compared, text, f" ({short_text_name(text)})" if len(texts) > 1 else "")
    ]


def _rest(rows: Sequence[Row], baseline: int | None, last: bool = False) -> list[Column]:
    """Zeros, sizes and speeds; the zeros at the end if so wanted."""
    zeros, others = _zeros_column(rows), _size_and_speed_columns(rows, baselines(rows, baseline))
    return [*others, *zeros] if last else [*zeros, *others]


def _perplexity_columns(rows: Sequence[Row], compared: Sequence[int | None], text: str, suffix: str) -> list[Column]:
    values = [perplexities(row).get(text) for row in rows]
    changes = _changes(values, compared)
    by_name = {(row["name"], _values(row)): value for row, value in zip(rows, values, strict=True)}
    for index, row in enumerate(rows):
        name, value, baseline = row.get("recovers"), values[index], compared[index]
        first = None if baseline is None else values[baseline]
        cut = by_name.get((name, _values(row)), by_name.get((name, _values({}))))
        if index != baseline and first and cut and value:
            share = share_of_rise(first, cut, value)
            if share is not None and share < 0:
                changes[index] = f"{value / cut - 1:.1%} worse than cut"
            elif share is not None and share <= 1:
                changes[index] = f"{_signed(-share, 0)} of the rise"
    return [
        Column(f"perplexity{suffix}", [_perplexity(row, text) for row in rows]),
        Column("change", changes, "left", joined=True),
    ]


def _value_columns(rows: Sequence[Row]) -> list[Column]:
    """What a sweep gave each row, a column for each key, under the end of the key where that tells it apart."""
    keys = list(dict.fromkeys(key for row in rows for key in row.get("values") or {}))
    ends = [key.rpartition(".")[2] for key in keys]
    return [
        Column(
            end if ends.count(end) == 1 else key,
            [value_text(row["values"][key]) if key in (row.get("values") or {}) else MISSING for row in rows],
        )
        for key, end in zip(keys, ends, strict=True)
    ]


def _values(row: Row) -> str:
    return repr(row.get("values") or {})


def value_text(value: Any) -> str:
    """A swept value: lists with commas, nothing as `none`, true and false as in YAML."""
    if isinstance(value, list):
        return ",".join(value_text(item) for item in value)
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _accuracy_columns(rows: Sequence[Row]) -> list[Column]:
    """A column for each task, and their mean where every row that has one has them all."""
    tasks = task_names(rows)
    columns = [
        Column(task, [percent(accuracy(row.get("tasks", {}).get(task))) for row in rows])
        for task in tasks
        if any(accuracy(row.get("tasks", {}).get(task)) is not None for row in rows)
    ]
    means = [percent(mean_accuracy(row, tasks)) for row in rows]
    if len(columns) > 1 and any(mean != MISSING for mean in means):
        columns.append(Column("mean accuracy", means))
    return columns


def task_names(rows: Sequence[Row]) -> list[str]:
    """The names of all tasks that rows have scores of, in order."""
    return list(dict.fromkeys(task for row in rows for task in row.get("tasks") or {}))


def accuracy(score: Mapping[str, Any] | None) -> float | None:
    """The share of right answers in a score: of the choices, or of what was written."""
    metrics = score["metrics"] if score else {}
    return metrics.get("acc", metrics.get("exact_match"))


def mean_accuracy(row: Row, tasks: Sequence[str]) -> float | None:
    """The mean accuracy of a row over tasks, None where it lacks one of them."""
    values = [value for task in tasks if (value := accuracy((row.get("tasks") or {}).get(task))) is not None]
    return math.fsum(values) / len(values) if values and len(values) == len(tasks) else None


def percent(share: float | None) -> str:
    """`66.7%`."""
    return MISSING if share is None else f"{share:.1%}"


def _zeros_column(rows: Sequence[Row]) -> list[Column]:
    """The share of zeros in each model's projections, where any has some."""
    shares = [row.get("sparsity") or 0.0 for row in rows]
    return [Column("zeros", [f"{share:.1%}" if share else MISSING for share in shares])] if any(shares) else []


def _size_and_speed_columns(rows: Sequence[Row], compared: Sequence[int | None]) -> list[Column]:
    parameters = [row.get("parameters") for row in rows]
    columns = [
        Column("parameters", [_formatted(value, ",") for value in parameters]),
        Column("change", _changes(parameters, compared), "left", joined=True),
    ]
    for header, key, pattern in (
        ("prefill tok/s", "prefill_tokens_per_second", ",.0f"),
        ("decode tok/s", "decode_tokens_per_second", ",.1f"),
    ):
        if any(row.get(key) is not None for row in rows):
            columns.append(Column(header, [_formatted(row.get(key), pattern) for row in rows]))
    return columns


def _changes(values: Sequence[float | None], compared: Sequence[int | None]) -> list[str]:
    """Changes in percent, each against the value of the row that it is compared with."""
    changes = []
    for index, (value, baseline) in enumerate(zip(values, compared, strict=True)):
        first = None if baseline is None else values[baseline]
        change = _signed(value / first - 1) if value and first else MISSING
        changes.append(BASELINE if baseline == index else change)
    return changes


def _signed(share: float, decimals: int | None = None) -> str:
    """A share in percent, with its sign: +12.3%, −4.0%, 0.0%."""
    percent = 100 * share
    digits = decimals if decimals is not None else (0 if abs(percent) >= 100 else 1)
    text = f"{abs(percent):,.{digits}f}"
    sign = "" if not text.strip("0.") else "+" if percent > 0 else "−"
    return f"{sign}{text}%"


def _perplexity(row: Row, text: str) -> str:
    measured = perplexities(row)
    if text not in measured:
        return MISSING
    value = measured[text]
    if value is None or not math.isfinite(value):
        return "not finite" if "perplexity" in row else MISSING
    return f"{value:.3g}" if value >= 1e6 else f"{value:,.0f}" if value >= 1e4 else f"{value:,.2f}"


def _formatted(value: float | None, pattern: str) -> str:
    return MISSING if value is None else format(value, pattern)


def _bytes(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def _zero_range(tensors: Sequence[Mapping[str, Any]]) -> str:
    low, high = (f"{100 * choose(tensor['zeros'] for tensor in tensors):.2f}%" for choose in (min, max))
    return low if low == high else f"{low} to {high}"


def markdown(columns: Sequence[Column]) -> str:
    """Columns as a Markdown table; what would be markup in a cell is shown as it is."""
    ruler = ["---:" if column.justify == "right" else "---" for column in columns]
    lines = [[column.header for column in columns], ruler]
    lines += [list(cells) for cells in zip(*(column.cells for column in columns), strict=True)]
    return "\n".join("| " + " | ".join(map(markdown_text, line)) + " |" for line in lines) + "\n"


def markdown_text(text: str) -> str:
    """Text on one line in which Markdown and HTML see no markup."""
    return re.sub(r"([\\`*\[\]<>|~&#!]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
