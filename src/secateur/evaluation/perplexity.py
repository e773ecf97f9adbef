"""Perplexity of a language model on windows of text."""

import logging
import math
from collections.abc import Iterator
from typing import NoReturn

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from secateur.calibration import token_losses
from secateur.calibration.sensitivity import final_states
from secateur.calibration.streaming import LayerStream
from secateur.console import track
from secateur.distributed import all_reduce_numbers, is_first, share
from secateur.errors import InputError
from secateur.evaluation.modes import input_device, measuring
from secateur.models import adapter_of
from secateur.models.lora import underlying
from secateur.models.streamed import release, streamed

logger = logging.getLogger(__name__)


def perplexity(
    model: PreTrainedModel | PeftModel,
    windows: Tensor,
    *,
    stride: int | None = None,
    batch_size: int = 8,
    description: str = "perplexity",
) -> float:
    """exp of the mean cross entropy of the windows' tokens, as in Transformers' guide to perplexity.

    Each window predicts its tokens 2 to seqlen from the ones before them. Where windows overlap (`stride`
    below seqlen) the first counts whole and every other only the tokens that no earlier window has scored.
    https://huggingface.co/docs/transformers/perplexity

    With several processes each runs its share of the windows, and all get the figure of the whole.

    Args:
        model: a causal language model, or one with a PEFT adapter.
        windows: token ids, (windows, seqlen).
        stride: tokens from the start of one window to the next, at most seqlen; None: seqlen.
        batch_size: windows per forward pass. A batch that does not fit in a GPU's memory is halved.
        description: what the progress bar says.

    Returns:
        The perplexity: infinite where it is beyond a float, NaN where the model gives NaN.

    Raises:
        InputError: there is no window, the stride leaves gaps, or one window alone does not fit in memory.
    """
    first_scored, seqlen = first_scored_of(windows, stride), windows.shape[1]
    own = share(windows)
    by_layer = isinstance(model, PreTrainedModel) and streamed(model)
    with measuring(model):
        measure = _streamed_losses if by_layer else _window_losses
        losses = measure(model, own, first_scored, batch_size) if len(own) else ()
        (total,) = all_reduce_numbers(math.fsum(track(losses, description, total=len(own))))
    tokens = (seqlen - 1) + (len(windows) - 1) * (seqlen - first_scored)
    return torch.tensor(total / tokens, dtype=torch.float64).exp().item()


def first_scored_of(windows: Tensor, stride: int | None) -> int:
    """The first token that a window but the first scores.

    Args:
        windows: token ids, (windows, seqlen).
        stride: tokens from the start of one window to the next; None: seqlen.

    Raises:
        InputError: there is no window, or the stride leaves gaps.
    """
    if windows.dim() != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
        raise InputError(
            f"windows for perplexity are (windows, seqlen), at least (1, 2); these are {tuple(windows.shape)}"
        )
    if stride is not None and not 1 <= stride <= windows.shape[1]:
        raise InputError(f"stride must be between 1 and the windows' {windows.shape[1]} tokens; it is {stride}")
    return max(1, windows.shape[1] - (stride or windows.shape[1]))


def _window_losses(
    model: PreTrainedModel | PeftModel, windows: Tensor, first_scored: int, batch_size: int
) -> Iterator[float]:
    """Yield each window's summed loss of its tokens from `first_scored` on; the text's first's from token 1 on."""
    start = 0
    if is_first():
        yield from _batch_losses(model, windows[:1], 1) or _too_large(windows)
        start = 1
    while start < len(windows):
        losses = _batch_losses(model, windows[start : start + batch_size], first_scored)
        if losses is not None:
            yield from losses
            start += len(losses)
        elif batch_size == 1:
            _too_large(windows)
        else:
            batch_size //= 2
            torch.cuda.empty_cache()
            logger.warning("Not enough GPU memory: going on with %d windows per batch", batch_size)


@torch.no_grad()
def _streamed_losses(
    model: PreTrainedModel | PeftModel, windows: Tensor, first_scored: int, batch_size: int
) -> Iterator[float]:
    """As `_window_losses`, with all windows going through a layer before the next one is read."""
    model = underlying(model)
    parts = [part for part in (windows[:1], windows[1:]) if len(part)]
    streams = [LayerStream.start(model, part, batch_size) for part in parts]
    for index, layer in enumerate(adapter_of(model).layers(model)):
        for stream in streams:
            for half in stream.halves(index):
                stream.run(index, half)
            stream.end_layer(index)
        release(model, layer)
    for stream, part, first in zip(streams, parts, (1, first_scored), strict=False):
        for hidden, batch in zip(stream.hidden, part.split(batch_size), strict=True):
            final = final_states(model, hidden)
            losses = token_losses(model, final[:, first - 1 :], batch[:, first - 1 :])
            yield from losses.double().sum(dim=1).tolist()


def _batch_losses(model: PreTrainedModel | PeftModel, batch: Tensor, first_scored: int) -> list[float] | None:
    """The summed loss of each window, or None where the batch does not fit in the GPU's memory."""
    base = underlying(model)
    batch = batch.to(input_device(model))
    try:
        hidden = adapter_of(base).body(base)(input_ids=batch, use_cache=False).last_hidden_state
        losses = token_losses(base, hidden[:, first_scored - 1 :], batch[:, first_scored - 1 :])
    except torch.OutOfMemoryError:
        return None
    return losses.double().sum(dim=1).tolist()  # (batch, scored) -> (batch,)


def _too_large(windows: Tensor) -> NoReturn:
    raise InputError(
        f"a window of {windows.shape[1]} tokens does not fit in the GPU's memory; choose a smaller seqlen, "
        "a smaller dtype or device_map auto"
    )
