"""How much each decoder layer matters, measured on a few windows of text."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from secateur.calibration.losses import token_losses
from secateur.calibration.streaming import LayerStream
from secateur.console import track
from secateur.distributed import all_reduce_numbers, all_reduce_sum, share
from secateur.errors import InputError
from secateur.files.input_text import shortened
from secateur.files.json_text import read_json
from secateur.files.option_names import Renamed, by_present_names
from secateur.models.adapters import adapter_of
from secateur.pruning.config import LayerImportanceMethod

LARGEST = 1e30  # far beyond any score, and its square is still a number
UNITS: dict[LayerImportanceMethod, str] = {
    "removal": "rise of log-perplexity without the layer (nats per token)",
    "activation": "mean norm of what the layer adds to the residual stream",
    "similarity": "1 - cosine of the layer's input and output",
}


@dataclass
class LayerImportance:
    """One score per decoder layer, and what it was measured on.

    Attributes:
        method: removal, activation or similarity.
        importance: the scores, in the order of the layers.
        unit: what the numbers mean.
        corpus: the text, in words.
        windows: how many of it.
        seqlen: tokens in a window.
        model: the model's name.
    """

    method: str
    importance: list[float]
    unit: str = ""
    corpus: str = ""
    windows: int = 0
    seqlen: int = 0
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, path: str | Path, num_layers: int) -> "LayerImportance":
        """Read a `layer_importance.json`.

        Raises:
            InputError: it is not such a file, or of a model with another number of layers.
        """
        content = read_json(path, "is not a layer_importance.json")
        try:
            result = _Stored.model_validate(content)
        except ValidationError as error:
            problem = error.errors()[0]
            place = shortened(".".join(map(str, problem["loc"])))
            raise InputError(f"{path} is not a layer_importance.json: {place}: {problem['msg']}") from error
        if len(result.importance) != num_layers:
            raise InputError(f"{path} is about a model of {len(result.importance)} layers; this one has {num_layers}")
        return cls.of(content)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "LayerImportance":
        """Out of the checked content of a file. What else it holds is left out."""
        named = by_present_names(_Stored, content)
        known = {name: named[name] for name in cls.__dataclass_fields__ if name in named}
        return cls(**{**known, "importance": [float(value) for value in content["importance"]]})


class _Stored(Renamed):
    """What a file must hold."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    earlier_names: ClassVar[Mapping[str, str]] = {"samples": "windows"}

    method: str
    importance: list[Annotated[float, Field(ge=-LARGEST, le=LARGEST)]]
    unit: str = ""
    corpus: str = ""
    windows: int = 0
    seqlen: int = 0
    model: str = ""


def measure_layer_importance(
    model: PreTrainedModel, windows: Tensor, method: LayerImportanceMethod = "removal", batch_size: int = 8
) -> LayerImportance:
    """Score every decoder layer.

    Args:
        model: a model of a supported family, in evaluation mode.
        windows: tokens, (windows, seq).
        method: `removal`, the rise of log-perplexity when the layer is skipped (the layers after it are run anew,
            those before it once); `activation`, the norm of what it adds; `similarity`, 1 − cosine of its input and
            output (Block Influence of ShortGPT, Men et al. 2024).
        batch_size: windows that go through the model at once.
    """
    measure = _removal if method == "removal" else _by_output
    importance = measure(model, share(windows), method, batch_size)
    return LayerImportance(method, importance, UNITS[method], windows=len(windows), seqlen=windows.shape[1])


def _removal(model: PreTrainedModel, windows: Tensor, method: LayerImportanceMethod, batch_size: int) -> list[float]:
    count = len(adapter_of(model).layers(model))
    stream = LayerStream.start(model, windows, batch_size)
    rises = []
    for index in track(range(count), "Importance of layers"):
        without = stream.fork()
        without.leave_out(index)
        for later in range(index + 1, count):
            without.pass_through(later)
        rises.append(_mean_loss(model, without, windows))
        stream.pass_through(index)
    base = _mean_loss(model, stream, windows)
    return [rise - base for rise in rises]


def _by_output(model: PreTrainedModel, windows: Tensor, method: LayerImportanceMethod, batch_size: int) -> list[float]:
    count = len(adapter_of(model).layers(model))
    stream = LayerStream.start(model, windows, batch_size)
    scores = []
    for index in track(range(count), "Importance of layers"):
        before = list(stream.hidden)
        stream.pass_through(index)
        pairs = zip(before, stream.hidden, strict=True)
        if method == "similarity":
            values = [1 - functional.cosine_similarity(a.float(), b.float(), dim=-1).mean() for a, b in pairs]
        else:
            values = [(b.float() - a.float()).norm(dim=-1).mean() for a, b in pairs]
        sizes = torch.tensor([len(batch) for batch in before], dtype=torch.float64)
        sums = torch.stack([(torch.stack(values).cpu().double() * sizes).sum(), sizes.sum()])
        total, windows_seen = all_reduce_sum(sums)
        scores.append(float(total / windows_seen))
    return scores


@torch.no_grad()
def _mean_loss(model: PreTrainedModel, stream: LayerStream, windows: Tensor) -> float:
    """Mean loss in nats per token, from the residual stream after the last layer."""
    norm = adapter_of(model).final_norm(model)
    place = next(norm.parameters()).device
    total, tokens = 0.0, 0.0
    for hidden, labels in zip(stream.hidden, windows.split(len(stream.hidden[0])), strict=True):
        losses = token_losses(model, norm(hidden.to(place)), labels)
        total += losses.sum().item()
        tokens += losses.numel()
    total, tokens = all_reduce_numbers(total, tokens)
    return total / tokens
