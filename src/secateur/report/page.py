"""The HTML page of a run, out of the figures in `metrics.json` and the run's other artefacts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from secateur.console import counted
from secateur.report.html import Page, Picture, Sample, Table
from secateur.report.layout import Column
from secateur.report.maps import sparsity_figure
from secateur.report.plots import loss_figure, stage_figure
from secateur.report.strategy import scores_used, strategy_figure
from secateur.report.tables import (
    Row,
    comparison_columns,
    memory_table,
    perplexities,
    share_of_rise,
    task_names,
    text_notes,
)
from secateur.report.task_tables import task_page_table

ORIGINAL, PRUNED, SPARSE, RECOVERED = "original", "pruned", "sparse", "recovered"
ADAPTED = {
    "calibration": (PRUNED, "calibrated"),
    "zeros": (SPARSE, "calibrated"),
    "rounding": ("quantised", "calibrated"),
    "training": (RECOVERED, "trained"),
}


def run_page(
    metrics: Mapping[str, Any],
    *,
    plan: Mapping[str, Any] | None = None,
    importance: Mapping[str, Any] | None = None,
    zeros: Mapping[str, Any] | None = None,
    settings: str = "",
) -> Page:
    """The page of a run.

    Args:
        metrics: the content of `metrics.json`.
        plan: the content of `pruning_plan.json`, where something was cut.
        importance: the content of `layer_importance.json`, where layers were scored.
        zeros: the content of `sparsity.json`, where weights became zero.
        settings: the recipe.
    """
    rows = comparison_rows(metrics)
    return Page(
        title=f"{metrics['name']}: {metrics['model']}",
        summary=list(_summary(rows)),
        table=_table(rows),
        warnings=source_warnings(metrics["texts"]),
        tables=list(_tables(rows)),
        texts=[
            (text["figure"], f"{text['amount']} of {text['description']}")
            for text in metrics["texts"]
            if text["role"] != "importance" or (plan is not None and scores_used(plan, importance))
        ],
        pictures=list(_pictures(metrics, rows, plan, importance, zeros)),
        samples=_samples(metrics["models"]),
        sample_note=_sample_note(metrics["models"], metrics["sample_tokens"]),
        commands=[(command["purpose"], command["command"]) for command in metrics["commands"]],
        settings=settings,
        facts=list(_facts(metrics)),
    )


def comparison_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """The models of `metrics.json` as rows for `tables.comparison_columns`."""
    return [dict(model) for model in metrics["models"]]


def _overlap(one: str, other: str) -> bool:
    """Whether two texts have a source in common: `a+b` consists of two."""
    return bool({*one.split("+")} & {*other.split("+")})


def source_warnings(texts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say where a model was calibrated or trained on the source that it is measured on.

    Args:
        texts: `role` (evaluation, calibration or training), `name`, `source` and `description` of each text.
    """
    warnings = []
    for measured in (text for text in texts if text["role"] == "evaluation"):
        for used in (
            text for text in texts if text["role"] in ADAPTED and _overlap(text["source"], measured["source"])
        ):
            who, verb = ADAPTED[used["role"]]
            what = (
                "this very text"
                if used["description"] == measured["description"]
                else f"the same source ({used['description']})"
            )
            warnings.append(
                f"Perplexity on {measured['name']}: the {who} model was {verb} on {what}, which favours it."
            )
    return warnings


def _summary(rows: Sequence[Row]) -> Iterator[str]:
    by_name = {row["name"]: row for row in rows}
    original, pruned, sparse, recovered = (by_name.get(name) for name in (ORIGINAL, PRUNED, SPARSE, RECOVERED))
    if original is None:
        return
    if pruned is not None:
        before, after = original["parameters"], pruned["parameters"]
        yield f"{before:,} parameters became {after:,}: {1 - after / before:.1%} were removed."
    if sparse is not None:
        yield f"{sparse['sparsity']:.1%} of the weights of its projections are zero."
    for text, first in perplexities(original).items():
        yield from _perplexity_sentence(text, first, sparse or pruned, recovered)
    last = recovered or sparse or pruned
    if last is not None:
        yield from _speed_sentence(original, last)


def _perplexity_sentence(text: str, first: float | None, pruned: Row | None, recovered: Row | None) -> Iterator[str]:
    cut = perplexities(pruned).get(text) if pruned else None
    end = perplexities(recovered).get(text) if recovered else None
    if first is None:
        return
    if cut is not None and end is not None:
        share = share_of_rise(first, cut, end)
        gone = "" if share is None else f": {share:.0%} of the rise of log-perplexity is gone"
        gone = ", below where it began" if share is not None and share > 1 else gone
        gone = f": training made it worse by {end / cut - 1:.1%}" if end > cut else gone
        yield f"Perplexity on {text} went from {first:.2f} to {cut:.2f} by the cut, and to {end:.2f} by training{gone}."
    elif cut is not None:
        yield f"Perplexity on {text} went from {first:.2f} to {cut:.2f} by the cut."
    elif end is not None:
        yield f"Perplexity on {text} went from {first:.2f} to {end:.2f} by training."


def _speed_sentence(original: Row, last: Row) -> Iterator[str]:
    kinds = (("prefill", "reading a prompt"), ("decode", "writing an answer"))
    parts = []
    for kind, what in kinds:
        before, after = (row.get(f"{kind}_tokens_per_second") for row in (original, last))
        if before and after:
            parts.append(f"{what} went from {_rate(before)} to {_rate(after)} tokens per second")
    if parts:
        sentence = " and ".join(parts)
        yield f"{sentence[0].upper()}{sentence[1:]}, one text at a time."


def _table(rows: Sequence[Row]) -> Table:
    return page_table(comparison_columns(rows), text_notes(rows))


def _tables(rows: Sequence[Row]) -> Iterator[tuple[str, Table]]:
    if any(row.get("size_bytes") is not None or row.get("peak_memory_bytes") is not None for row in rows):
        yield "Size and memory", page_table(memory_table(rows).columns, [])
    if task_names(rows):
        yield "Tasks", task_page_table(rows)


def page_table(columns: Sequence[Column], notes: Sequence[str]) -> Table:
    """Columns as a table of the page, with notes as sentences below."""
    joined = frozenset(index for index, column in enumerate(columns) if column.joined)
    return Table(
        joined=joined,
        header=[column.header for column in columns],
        rows=[list(row) for row in zip(*(column.cells for column in columns), strict=True)],
        caption="".join(f"{note[0].upper()}{note[1:]}. " for note in notes).strip(),
    )


def _pictures(
    metrics: Mapping[str, Any],
    rows: Sequence[Row],
    plan: Mapping[str, Any] | None,
    importance: Mapping[str, Any] | None,
    zeros: Mapping[str, Any] | None,
) -> Iterator[Picture]:
    if len(rows) > 1:
        yield Picture.drawn("Perplexity by stage", partial(stage_figure, rows), "; ".join(text_notes(rows)))
    if plan is not None:
        caption = f"Units chosen on {plan['calibration']}." if plan.get("calibration") else ""
        if importance is not None and importance.get("corpus") and scores_used(plan, importance):
            caption += f" Layers scored on {counted(importance.get('windows', 0), 'window')} of {importance['corpus']}."
        yield Picture.drawn("What was cut, layer by layer", partial(strategy_figure, plan, importance), caption.strip())
    if zeros is not None:
        caption = f"Chosen on {zeros['calibration']}." if zeros["calibration"] else "Chosen without a text."
        yield Picture.drawn("Where the zeros are", partial(sparsity_figure, zeros), caption)
    training = metrics.get("training")
    if training and training["history"]:
        caption = f"Trained on {training['corpus']}; evaluated on windows of it that were set apart."
        if training["settings"]["teacher"] is not None:
            caption += " KL is the divergence of the model's next-token distributions from the teacher's."
        yield Picture.drawn("Loss while training", partial(loss_figure, training["history"]), caption)


def _samples(models: Sequence[Mapping[str, Any]]) -> list[Sample]:
    prompts = list(dict.fromkeys(sample["prompt"] for model in models for sample in model.get("samples", [])))
    return [
        Sample(
            prompt,
            {
                model["name"]: sample["continuation"]
                for model in models
                for sample in model.get("samples", [])
                if sample["prompt"] == prompt
            },
        )
        for prompt in prompts
    ]


def _sample_note(models: Sequence[Mapping[str, Any]], tokens: int) -> str:
    through = {sample.get("chat", False) for model in models for sample in model.get("samples", [])}
    what = {True: "answers through the chat template", False: "continuations"}
    kinds = " and ".join(what[chat] for chat in (True, False) if chat in through).capitalize()
    return f"{kinds}, greedy, {tokens} tokens at most. No figure is measured on them."


def _facts(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((name, str(version)) for name, version in metrics["versions"].items())
    yield from ((name, str(value)) for name, value in metrics["machine"].items())
    yield "seed", str(metrics["seed"])
    for stage, seconds in metrics["seconds"].items():
        yield f"{stage}, seconds", f"{seconds:,.1f}"
    yield "all stages", _duration(sum(metrics["seconds"].values()))


def _rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second:,.{0 if tokens_per_second >= 100 else 1}f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
