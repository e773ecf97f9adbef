"""The figures of a finished run, in the cards of the models that its stages have made."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secateur.console import counted
from secateur.files import replace_own
from secateur.files.result_files import CARD, LINEAGE
from secateur.handover import Figure, card_text, read_lineage
from secateur.handover.plain import without_places
from secateur.runs.figures import CUT, ROUNDED, SPARSE, TRAINED

STAGES = {
    "pruned": CUT,
    "sparse": SPARSE,
    "recovered": TRAINED,
    "quantised": ROUNDED,
}  # of the models that metrics name
BASELINE = "the model that the run began with"


def add_figures(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write what a run has measured into the cards of its models. A card that was changed is left as it is.

    Args:
        path: the run's directory.
        metrics: the content of `metrics.json`.
    """
    first, *others = metrics["models"]
    for model in (other for other in others if other["name"] in STAGES):
        directory = path / STAGES[model["name"]]
        lineage = read_lineage(directory)
        if lineage is None or not lineage.steps:
            continue
        # A stage that was done before has the figures of an earlier go.
        trained_on = (metrics.get("training") or {}).get("source") if model["name"] == "recovered" else None
        own = [figure for figure in lineage.last.figures if figure.compared != BASELINE]
        step = lineage.last.model_copy(update={"figures": [*own, *_figures(first, model, trained_on)]})
        lineage = lineage.model_copy(update={"steps": [*lineage.steps[:-1], step]})
        text = json.dumps(lineage.to_dict(), indent=2, ensure_ascii=False) + "\n"
        replace_own(directory, {LINEAGE: text, CARD: card_text(directory, lineage, directory.name)})


def _figures(first: Mapping[str, Any], model: Mapping[str, Any], trained_on: str | None) -> Iterator[Figure]:
    """Perplexities and scores of a model, beside those of the first."""
    for text, value in model["perplexity"].items():
        if value is None:
            continue
        windows = counted(model["windows"][text], "window")
        favoured = " (it was trained on text of the same source)" if model["sources"].get(text) == trained_on else ""
        yield Figure(
            name="perplexity",
            value=value,
            before=first["perplexity"].get(text),
            measured_on=without_places(f"{model['corpora'][text]}: {windows} of {model['seqlen']:,} tokens{favoured}"),
            metric="perplexity",
            text=without_places(text),
            compared=BASELINE,
        )
    for task, score in model["tasks"].items():
        before = (first["tasks"].get(task) or {}).get("metrics", {})
        for metric, value in score["metrics"].items():
            if value is None:
                continue
            examples = f"{counted(score['n'], 'question')}, {score['n_shot']} solved examples before each"
            yield Figure(
                name=metric,
                value=value,
                before=before.get(metric),
                measured_on=f"the task {task}: {examples}",
                metric="accuracy" if metric.startswith("acc") else metric,
                text=task,
                compared=BASELINE,
            )
