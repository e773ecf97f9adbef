"""One step of a lineage, from the files that its command has written beside the weights."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from secateur.console import counted
from secateur.files.result_files import PLAN, QUANTIZATION
from secateur.handover.lineage import Figure, Kind, Step, version
from secateur.handover.plain import shared_command, without_places
from secateur.models.zeros_record import RECORD

TRAINING = "recovery.json"
VALIDATED = "eval_cross_entropy"  # of an entry of its history
UNITS = {"attention": "GQA groups", "mlp": "MLP channels", "both": "GQA groups and MLP channels"}
ADAPTERS = {"lora": "A LoRA adapter was trained", "masked-lora": "A masked low-rank update was trained"}


def step_of(kind: Kind, directory: Path, command: str, figures: list[Figure] | None = None) -> Step:
    """What a command has done.

    Args:
        kind: which command.
        directory: what it makes, filled but for the card.
        command: that repeats it.
        figures: that it has measured and that stand in no file.
    """
    step = step_of_record(kind, directory, shared_command(command))
    return step.model_copy(update={"figures": [*step.figures, *(figures or [])]})


def step_of_record(kind: Kind, record: Mapping[str, Any] | Path, command: str) -> Step:
    """What was done, by the record of it.

    Args:
        kind: what.
        record: the content of the file that its command writes beside the weights, or the directory with it.
        command: what repeats it, without places.
    """
    file, tell = TELLERS[kind]
    told = tell(record if isinstance(record, Mapping) else {} if file is None else _content(record / file))
    return told.model_copy(
        update={
            "command": command,
            "version": version(),
            "what": without_places(told.what),
            "how": [without_places(line) for line in told.how],
        }
    )


def parameters_figure(before: int, after: int) -> Figure:
    """How many parameters a cut has left."""
    return Figure(name="parameters", value=after, before=before)


def _pruned(plan: Mapping[str, Any]) -> Step:
    settings, before, after = plan["settings"], plan["parameters_before"], plan["parameters_after"]
    units = UNITS.get(settings.get("target"), "units")
    searched = " by the widths of a plan" if settings.get("plan") else ""
    refitted = ", and the output projections were re-fitted" if settings.get("compensate") else ""
    how = [f"Units were chosen by the score {settings['importance']}{refitted}."] if "importance" in settings else []
    if settings.get("even"):
        how.append("All layers are of one width.")
    how += _rounded_too(settings)
    asked = (plan.get("target") or {}).get("asked") or f"{plan['ratio']:.1%}"
    return Step(
        kind="prune",
        command="",
        what=f"{units} were removed{searched}: {plan['reached']:.1%} of all parameters ({asked} asked).",
        how=[*how, *_calibrated(plan)],
        figures=[parameters_figure(before, after)],
    )


def _sparsified(zeros: Mapping[str, Any]) -> Step:
    settings = zeros.get("settings", {})
    pattern = f" in the pattern {settings['pattern']}" if settings.get("pattern") else ""
    method = f" by the method {settings['method']}" if settings.get("method") else ""
    return Step(
        kind="sparsify",
        command="",
        what=f"{zeros['zeros']:,} weights were set to zero{pattern}{method}: {zeros['reached']:.1%} of those in "
        f"{counted_matrices(zeros)} ({zeros['asked']:.1%} asked).",
        how=[
            *_rounded_too(settings),
            *_calibrated(zeros),
        ],
        figures=[Figure(name="share of zeros in the cut matrices", value=zeros["reached"])],
    )


def _quantized(record: Mapping[str, Any]) -> Step:
    before, after = record["bytes_before"], record["bytes_after"]
    grids = [(matrix["bits"], matrix["group"]) for matrix in record["matrices"]]
    return Step(
        kind="quantize",
        command="",
        what=f"The weights of {counted_matrices(record)} were rounded to {bits_and_groups(grids)} by GPTQ, and "
        "packed as compressed-tensors.",
        how=[
            "Each was re-fitted on what the rounded ones before it give, part of the way to what the model gave.",
            *_calibrated(record),
        ],
        figures=[Figure(name="megabytes of weights", value=round(after / 1e6, 1), before=round(before / 1e6, 1))],
    )


def bits_and_groups(grids: Iterable[tuple[int, int | None]]) -> str:
    """`4 bits in groups of 64 and 128`, of bits and groups of weights; without a group a row has one scale."""
    bits, groups = zip(*grids, strict=True)
    numbers = sorted({group for group in groups if group is not None})
    grouped = f" in groups of {' and '.join(map(str, numbers))}" if numbers else ""
    return f"{' and '.join(map(str, sorted(set(bits))))} bits{grouped}"


def counted_matrices(zeros: Mapping[str, Any]) -> str:
    """`1 matrix`, `28 matrices`."""
    number = len(zeros["matrices"])
    return "1 matrix" if number == 1 else f"{number:,} matrices"


def _rounded_too(settings: Mapping[str, Any]) -> list[str]:
    bits = settings.get("quantize")
    return [f"In the same pass the weights left were rounded to {bits} bits by GPTQ."] if bits else []


def _calibrated(record: Mapping[str, Any]) -> list[str]:
    if not record.get("calibration"):
        return ["No text was needed."]
    windows, seqlen = record.get("calibration_windows"), record.get("settings", {}).get("seqlen")
    amount = f" {counted(windows, 'window')} of {seqlen:,} tokens:" if windows and seqlen else ""
    return [f"Calibrated on{amount} {record['calibration']}."]


def _recovered(training: Mapping[str, Any]) -> Step:
    settings = training.get("settings", {})
    done = ADAPTERS.get(training.get("method", ""), "The weights were trained")
    if settings.get("merge") and training.get("method") == "lora":
        done += " and merged"
    teacher = settings.get("teacher")
    how = [f"Trained on {counted(training['tokens'], 'token')} in {counted(training['steps'], 'step')}."]
    how.append(f"The text: {training['corpus']}.")
    if teacher:
        how.append(f"Distilled from {_last_name(teacher)} (weight {settings.get('distill_weight')}).")
    return Step(kind="recover", command="", what=f"{done}.", how=how, figures=_training_figures(training))


def _training_figures(training: Mapping[str, Any]) -> list[Figure]:
    """Losses and perplexities before training and of the weights that were kept."""
    measured = {entry["step"]: entry for entry in training.get("history", []) if _is_measured(entry)}
    best = training.get("best_step")
    kept = measured.get(best) if best is not None else next(reversed(measured.values()), None)
    if kept is None:
        return []
    first: Mapping[str, Any] = measured.get(0, {})
    seqlen = training.get("settings", {}).get("seqlen")
    figures = []
    if kept.get(VALIDATED) is not None:
        share = "the part of the training text that was held out"
        figures.append(
            Figure(
                name="validation cross entropy", value=kept[VALIDATED], before=first.get(VALIDATED), measured_on=share
            )
        )
    for text, value in (kept.get("perplexity") or {}).items():
        name = _last_name(text)
        windows = training["settings"].get("extra_eval_windows")
        amount = f", {counted(windows, 'window')} of {seqlen:,} tokens at most" if windows and seqlen else ""
        before = (first.get("perplexity") or {}).get(text)
        on = f"{name}{amount}"
        figures.append(
            Figure(name="perplexity", value=value, before=before, measured_on=on, metric="perplexity", text=name)
        )
    return figures


def _is_measured(entry: Mapping[str, Any]) -> bool:
    return entry.get(VALIDATED) is not None or bool(entry.get("perplexity"))


def _merged(_: Mapping[str, Any]) -> Step:
    return Step(kind="merge", command="", what="What the adapter adds became part of the weights.")


def _exported(settings: Mapping[str, Any]) -> Step:
    return Step(
        kind="export",
        command="",
        what=f"Written as {settings['model_type']} ({settings['architectures'][0]}), in {settings['dtype']}.",
    )


TELLERS: dict[Kind, tuple[str | None, Callable[[Mapping[str, Any]], Step]]] = {
    "prune": (PLAN, _pruned),
    "sparsify": (RECORD, _sparsified),
    "quantize": (QUANTIZATION, _quantized),
    "recover": (TRAINING, _recovered),
    "merge": (None, _merged),
    "export": ("config.json", _exported),
}


def _last_name(place: str) -> str:
    """What a text or a model is called, without where it is; a hub id or a named corpus is left as it is."""
    return without_places(place)


def _content(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))
