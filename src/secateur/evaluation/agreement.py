"""Several models side by side on the same texts."""

import gc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from secateur.data import Corpus
from secateur.distributed import barrier, first_decides, is_first
from secateur.evaluation.config import EvaluateConfig
from secateur.evaluation.evaluate import (
    Evaluation,
    corpus_windows,
    load_texts,
    measure_quality,
    measures_speed,
    require_lengths,
    speed_options,
)
from secateur.evaluation.modes import input_device, weight_bytes
from secateur.evaluation.semi_structured import require_sparse_cores, use_semi_structured
from secateur.evaluation.speed import measure_speeds
from secateur.evaluation.tasks import Tasks, load_tasks, measure_tasks
from secateur.files import expanded
from secateur.models import attach_adapter, load, model_directory, model_label
from secateur.models.loading import resolve_device
from secateur.models.lora import underlying
from secateur.models.text_half import stored_bytes

logger = logging.getLogger(__name__)

Held = list[tuple[Evaluation, PreTrainedModel | PeftModel]]


@dataclass(frozen=True)
class _Candidate:
    """A row to be measured: a model, perhaps with an adapter, or with its 2:4 weights on sparse tensor cores."""

    label: str
    name: str
    adapter: str | None = None
    semi_structured: bool = False


def compare_models(names: Sequence[str], config: EvaluateConfig | None = None) -> list[Evaluation]:
    """Measure models one after another on the same windows of text; the first is the baseline.

    Models stay in memory until their speeds are measured, taking turns, as long as they fill no more than
    half of what is free. Where they do not fit, or are spread over devices, each speed is measured alone.

    Args:
        names: hub ids, directories, `.gguf` files or `smollm2-135m`.
        config: what to measure. With `adapter` the last model is measured once more, with that LoRA on it.

    Returns:
        One `Evaluation` per name, in their order; then those on sparse tensor cores, then the one with the adapter.

    Raises:
        ModelError: a model or the adapter cannot be loaded, or they do not fit each other.
        DataError: a text cannot be found or is shorter than one window.
        InputError: a model does not fit in a GPU's memory with these settings, or a task is unknown.
    """
    config = config or EvaluateConfig()
    if config.semi_structured:
        require_sparse_cores(resolve_device(config.device))
    corpora, tasks = load_texts(config), load_tasks(config)
    evaluations: list[Evaluation] = []
    held: Held = []
    baseline_windows: Mapping[str, Tensor] = {}
    for candidate in _candidates(names, config):
        if held and not first_decides(_room_for_another(held, config)):
            _measure_held(held, config)
        evaluation, model, windows = _measure(candidate, corpora, tasks, config)
        if candidate.semi_structured and not use_semi_structured(underlying(model)):
            logger.info("%s: left out, none of its projections is 2:4", candidate.label)
            continue
        baseline_windows = baseline_windows or windows
        _warn_of_other_tokens(candidate, windows, baseline_windows)
        evaluations.append(evaluation)
        if measures_speed(model, config):
            held.append((evaluation, model))
        del model
    _measure_held(held, config)
    return evaluations


def size_on_disk(name: str | Path) -> int:
    """Bytes of a model's weights on disk: the files it is read from, or the `.gguf` file. Raises `ModelError`."""
    path = expanded(name)
    if path.suffix == ".gguf":
        return path.stat().st_size
    return stored_bytes(model_directory(name))


def _candidates(names: Sequence[str], config: EvaluateConfig) -> list[_Candidate]:
    short = [model_label(name) for name in names]
    labels = short if len(set(short)) == len(short) else [str(name) for name in names]
    rows = [_Candidate(label, name) for label, name in zip(labels, names, strict=True)]
    if config.semi_structured:
        rows += [_Candidate(f"{row.label} on 2:4 cores", row.name, semi_structured=True) for row in rows]
    if config.adapter is not None:
        rows.append(_Candidate(f"{labels[-1]} + {model_label(config.adapter)}", names[-1], config.adapter))
    return rows


def _measure(
    candidate: _Candidate, corpora: list[Corpus], tasks: Tasks, config: EvaluateConfig
) -> tuple[Evaluation, PreTrainedModel | PeftModel, dict[str, Tensor]]:
    model, tokenizer = load(candidate.name, **config.load_arguments())
    size = size_on_disk(candidate.name)
    measured: PreTrainedModel | PeftModel = model
    if candidate.adapter is not None:
        measured = attach_adapter(model, candidate.adapter)
        size += sum(file.stat().st_size for file in Path(candidate.adapter).glob("*.safetensors"))
    require_lengths(measured, config)
    windows = corpus_windows(tokenizer, corpora, config)
    evaluation = measure_quality(measured, windows, corpora, config, candidate.label)
    evaluation.tasks = measure_tasks(measured, tokenizer, tasks, candidate.label)
    evaluation.size_bytes = size
    return evaluation, measured, windows


def _measure_held(held: Held, config: EvaluateConfig) -> None:
    """Measure the speeds of the models held in memory, note them, and let the models go.

    Of several processes the first measures while the others wait, and has the figures.
    """
    barrier()
    if held and is_first():
        speeds = measure_speeds([model for _, model in held], **speed_options(config))
        for (evaluation, _), speed in zip(held, speeds, strict=True):
            evaluation.add_speed(speed)
    barrier()
    held.clear()
    gc.collect()
    torch.cuda.empty_cache()


def _room_for_another(held: Held, config: EvaluateConfig) -> bool:
    if config.device_map is not None:
        return False
    sizes = [weight_bytes(model) for _, model in held]
    device = input_device(held[0][1])
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available
    return sum(sizes) + max(sizes) <= (free + sum(sizes)) / 2


def _warn_of_other_tokens(candidate: _Candidate, windows: Mapping[str, Tensor], baseline: Mapping[str, Tensor]) -> None:
    if any(not torch.equal(ids, baseline[corpus]) for corpus, ids in windows.items()):
        logger.warning(
            "%s cuts the text into other tokens than the first model: their perplexities cannot be compared",
            candidate.label,
        )
