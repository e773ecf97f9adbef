"""The time of a decoded token: where it comes from, and what it is for a model and each of its halves."""

import importlib.metadata
import logging

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.console import flag
from secateur.costs.config import THIS, TIMED_CONTEXT, Targets
from secateur.costs.devices import named_device
from secateur.costs.measure import Milliseconds
from secateur.costs.memory import bytes_of, context_of
from secateur.costs.paper import by_data_sheet
from secateur.costs.times import Place, WidthTimes, keep_times, kept_times, place_of, read_times, require_same_shape
from secateur.costs.times import shape_of_times as shape_of
from secateur.costs.timing import TransformersDecoders, ladder_of, models_of, time_widths
from secateur.costs.widths import bare_model
from secateur.distributed import first_decides, is_first, process_count
from secateur.errors import InputError
from secateur.files import expanded
from secateur.models.widths import is_uneven
from secateur.progress import phase

logger = logging.getLogger(__name__)


def milliseconds_of_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, targets: Targets, *, measures: bool = True
) -> Milliseconds:
    """What a decoded token takes, half by half, by the device that is named.

    Args:
        model: the uncut model.
        tokenizer: its tokenizer; needed to measure in llama.cpp.
        targets: the target, and where it is to be met.
        measures: whether times that are not kept are measured.

    Raises:
        InputError: times are not to be measured and not kept, the device is unknown, its file is of another model, or
            the engine cannot time it.
    """
    name = targets.target_device.strip()
    if name == THIS:
        times = times_here(model, tokenizer, targets, measures=measures)
    elif targets.times_file is not None:
        times = read_times(expanded(name))
        require_same_shape(times, model, name)
        if times.place.engine != targets.engine and "engine" in targets.model_fields_set:
            raise InputError(f"{name} has the times of {times.place.engine}, not of --engine {targets.engine}")
        logger.info("Times of widths: %s", times.place.named)
    else:
        sizes = bytes_of(model, targets, context=TIMED_CONTEXT)
        return by_data_sheet(sizes, named_device(name), targets.wanted, targets.target_text)
    return times.measure(model, targets.wanted, targets.target_text)


def times_here(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    targets: Targets,
    *,
    dtype: str | None = None,
    again: bool = False,
    measures: bool = True,
    device: torch.device | None = None,
) -> WidthTimes:
    """The times of a model's widths on this machine: those that are kept, or measured now and kept.

    Args:
        dtype: number format; of Transformers the model's, of llama.cpp by `targets.bits` unless given.
        again: measure even where times are kept.
        measures: whether times that are not kept are measured.
        device: of Transformers; the model's unless given.
    """
    context = context_of(model, targets, TIMED_CONTEXT)
    if targets.engine == "llama.cpp":
        from secateur.costs import llama_cpp

        version, dtype = llama_cpp.version(), dtype or llama_cpp.number_format(targets.bits)
    else:
        if targets.bits not in (None, 16):
            raise InputError(
                f"--engine transformers decodes in the model's own number format; {flag('bits')} {targets.bits} is for "
                "--engine llama.cpp and for --target-memory"
            )
        version = importlib.metadata.version("transformers")
        dtype = dtype or str(model.dtype).removeprefix("torch.")
    device = next(model.parameters()).device if device is None else device
    device = torch.device("cpu") if device.type == "meta" or targets.engine == "llama.cpp" else device
    shape = shape_of(bare_model(model.config) if is_uneven(model) else model)
    place = place_of(shape, targets.engine, version, dtype, context, device.type != "cpu")
    found = None if again else kept_times(place)
    if first_decides(found is not None) and found is not None:
        logger.info("Times of widths: %s, as kept", place.named)
        return found
    if not measures:
        raise InputError(
            f"no times of widths are kept for {place.named}; run secateur measure-widths first, or name another "
            "--target-device"
        )
    if process_count() > 1:
        raise InputError(
            "times of widths are measured by one process; run secateur measure-widths first, without torchrun"
        )
    with phase(f"timing widths in {place.named}"):
        found = _measured(model, tokenizer, place, device)
    if is_first():
        keep_times(found)
    return found


def _measured(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, place: Place, device: torch.device
) -> WidthTimes:
    if place.engine == "llama.cpp":
        from secateur.costs import llama_cpp

        return llama_cpp.measured(model, tokenizer, place)
    number_format: torch.dtype = getattr(torch, place.dtype)
    ladder = ladder_of(model, number_format.itemsize)
    decoders = TransformersDecoders(dict(models_of(ladder)), number_format, device, place.context)
    return time_widths(ladder, place, decoders)
