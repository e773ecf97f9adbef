"""The model card: `README.md` beside the weights, made of the lineage and of what else stands in the directory."""

import json
import logging
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from secateur.exporting.engines import Opening
from secateur.files import OfDirectory, expanded
from secateur.files.result_files import CARD, LINEAGE
from secateur.handover.base import lineage_of
from secateur.handover.lineage import Figure, Kind, Lineage, Step
from secateur.handover.loading import ADAPTER, opening_at, ways
from secateur.handover.plain import code, markdown
from secateur.handover.steps import bits_and_groups, step_of
from secateur.models.json_file import CONFIG, read_object
from secateur.models.loading import model_label
from secateur.models.packed_files import packed_modules, parameters_in
from secateur.models.weight_files import StoredTensor, stored_dtype, stored_tensors

logger = logging.getLogger(__name__)

DONE: dict[Kind, str] = {
    "prune": "pruned",
    "sparsify": "sparse",
    "quantize": "quantised",
    "recover": "recovered",
    "merge": "merged",
    "export": "exported",
}
TASK = "text-generation"
LICENCE_UNKNOWN = (
    "What was read of the base model states no licence. Look where it comes from before you pass this model on."
)
LICENCE_KNOWN = "The base model's licence, as it states it, is {license}. It holds for what is made of it as well."


def card_files(
    kind: Kind,
    name: str | Path,
    model: PreTrainedModel,
    output: Path,
    command: str,
    *,
    adapter: str | Path | None = None,
    figures: list[Figure] | None = None,
) -> dict[str, object]:
    """The files that hand a model over, as `files.write_extra` takes them: `lineage.json` and the card.

    Args:
        kind: what is done to the model.
        name: of the model, as the user gives it.
        model: the same, loaded, before anything is done to it.
        output: where the result goes.
        command: that repeats it.
        adapter: the directory of an adapter that becomes part of the model.
        figures: that were measured and stand in no file; filled until the card is written.

    Raises:
        InputError: a lineage beside the model is damaged.
    """
    path = expanded(name) if expanded(name).exists() else Path(str(model.name_or_path))
    lineage = lineage_of(name, path)
    if adapter is not None:
        lineage = with_adapter(lineage, lineage_of(adapter, Path(adapter)))
    parent = model_label(path.resolve()) if lineage.steps else None

    def told(directory: Path) -> Lineage:
        return lineage.with_step(step_of(kind, directory, command, figures), parent)

    return {
        LINEAGE: OfDirectory(lambda directory: told(directory).to_dict()),
        CARD: OfDirectory(lambda directory: card_text(directory, told(directory), output.name)),
    }


def with_adapter(model: Lineage, adapter: Lineage) -> Lineage:
    """The lineage of a model with an adapter, which was trained on it, or on one that the same was done to."""
    before = adapter.steps[:-1]
    if not adapter.steps or (model.steps and before != model.steps):
        return model.model_copy(update={"steps": [*model.steps, *adapter.steps[-1:]]})
    return model.model_copy(update={"steps": adapter.steps})


def card_text(directory: Path, lineage: Lineage, place: str) -> str:
    """The card of a model.

    Args:
        directory: with its files.
        lineage: of it.
        place: what code that loads it calls it: its directory's name, or its id on the hub.
    """
    opening = opening_at(directory)
    text = "\n\n".join(part for part in _parts(directory, lineage, place, opening) if part)
    return str(ModelCard(f"---\n{_metadata(directory, lineage, opening).to_yaml()}\n---\n\n{text}\n"))


def _metadata(directory: Path, lineage: Lineage, opening: Opening | None) -> ModelCardData:
    base, is_adapter = lineage.base, _is_adapter(directory)
    own_code = opening is not None and opening.remote_code
    # An adapter fits the very model that it was trained on, and not what that was made from.
    known = [base.hub_id] if base.hub_id else base.made_from
    base_model = [] if is_adapter and len(lineage.steps) > 1 else known
    relation = "adapter" if is_adapter else "finetune"
    figures = [figure for figure in lineage.last.figures if figure.metric and figure.text]
    return ModelCardData(
        language=base.language or None,
        license=base.license,
        license_name=base.license_name,
        license_link=base.license_link,
        base_model=base_model[0] if len(base_model) == 1 else base_model or None,
        base_model_relation=relation if base.hub_id and base_model else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=TASK,
        tags=["secateur", *_words(lineage), *(["custom_code"] if own_code else [])],
        model_name=_title(lineage) if figures else None,
        eval_results=[_result(figure) for figure in figures] or None,
    )


def _result(figure: Figure) -> EvalResult:
    return EvalResult(
        task_type=TASK,
        dataset_type=figure.text,
        dataset_name=figure.measured_on or figure.text,
        metric_type=str(figure.metric),
        metric_name=figure.name,
        metric_value=round(figure.value, 4),
    )


def _parts(directory: Path, lineage: Lineage, place: str, opening: Opening | None) -> Iterator[str]:
    yield f"# {markdown(_title(lineage))}"
    yield _introduction(directory, lineage)
    yield "## What was done"
    yield "\n".join(_told(number, step) for number, step in enumerate(lineage.steps, 1))
    yield "## Figures"
    yield from _figures(lineage)
    yield "## How to load it"
    yield f"{opening.line}." if opening else ""
    for way in ways(directory, place, opening, lineage.parent or lineage.base.name):
        note = f" {way.note}" if way.note else ""
        yield f"**{way.engine}.**{note}"
        yield f"```{way.language}\n{way.code}\n```"
    yield "## How to make it again"
    yield "Files and directories are named without where they were."
    yield from _again(lineage)
    yield "## Licence"
    yield _licence(lineage)


def _again(lineage: Lineage) -> Iterator[str]:
    """The commands and the calls of Python, in order."""
    for in_python, steps in groupby(lineage.steps, lambda step: step.command.startswith("secateur.")):
        lines = [step.command.replace("```", "") for step in steps]
        if in_python:
            name = json.dumps(lineage.parent or lineage.base.name, ensure_ascii=False)
            lines = ["import secateur", "", f"model, tokenizer = secateur.load({name})", *lines]
        yield "\n".join([f"```{'python' if in_python else 'sh'}", *lines, "```"])


def _introduction(directory: Path, lineage: Lineage) -> str:
    base = lineage.base
    name = f"[{markdown(base.hub_id)}](https://huggingface.co/{base.hub_id})" if base.hub_id else code(base.name)
    if _is_adapter(directory):
        on = f"`{lineage.parent}`, made from {name}" if lineage.parent else name
        return f"An adapter for {on}, trained with secateur {lineage.last.version}."
    tensors = stored_tensors(directory)
    parameters = parameters_in(tensors)
    size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    made = ", ".join(_words(lineage))
    return (
        f"{name}, {made} with secateur {lineage.last.version}. {parameters:,} parameters in "
        f"{_number_format(directory, tensors)}, {size / 1e6:,.1f} MB."
    )


def _number_format(directory: Path, tensors: Mapping[str, StoredTensor]) -> str:
    """`bfloat16`; of rounded weights `4 bits in groups of 64 and 128, the rest bfloat16`."""
    dtype = stored_dtype(tensors) or "several formats"
    content = read_object(directory / CONFIG).get("quantization_config") if packed_modules(tensors) else None
    if content is None:
        return dtype
    grids = [scheme["weights"] for scheme in content["config_groups"].values()]
    return f"{bits_and_groups([(grid['num_bits'], grid['group_size']) for grid in grids])}, the rest {dtype}"


def _told(number: int, step: Step) -> str:
    lines = [f"{number}. **{step.kind}.** {markdown(step.what)}", *(f"   {markdown(line)}" for line in step.how)]
    return "\n".join(lines)


def _figures(lineage: Lineage) -> Iterator[str]:
    rows = [
        f"| {number} | {markdown(figure.name)} | {_number(figure.before)} | {_number(figure.value)} | "
        f"{markdown(_conditions(figure))} |"
        for number, step in enumerate(lineage.steps, 1)
        for figure in step.figures
    ]
    if rows:
        yield "\n".join(["| step | figure | before | after | measured on |", "|---|---|---|---|---|", *rows])
    measured = any(figure.metric for step in lineage.steps for figure in step.figures)
    yield (
        "Nothing else was measured by the commands that made this model; `secateur evaluate` compares it with its base."
        if measured
        else "What this model can do was not measured by the commands that made it; `secateur evaluate` compares it "
        "with its base."
    )


def _conditions(figure: Figure) -> str:
    on = figure.measured_on
    if figure.before is None or figure.compared == "before":
        return on
    return f"{on}; before: {figure.compared}" if on else f"before: {figure.compared}"


def _number(value: float | None) -> str:
    if value is None:
        return "not measured"
    if float(value).is_integer() and abs(value) >= 1000:
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _licence(lineage: Lineage) -> str:
    base = lineage.base
    if base.license is None:
        return LICENCE_UNKNOWN
    stated = code(base.license_name or base.license)
    return LICENCE_KNOWN.format(license=f"[{stated}]({base.license_link})" if base.license_link else stated)


def _title(lineage: Lineage) -> str:
    return f"{model_label(lineage.base.name)}, {', '.join(_words(lineage))}"


def _words(lineage: Lineage) -> list[str]:
    """What was done, each once, in order; how it was written only where that is all."""
    changed = [step.kind for step in lineage.steps if step.kind not in ("merge", "export")]
    return list(dict.fromkeys(DONE[kind] for kind in changed or [lineage.last.kind]))


def _is_adapter(directory: Path) -> bool:
    return (directory / ADAPTER).is_file() and not (directory / "config.json").is_file()
