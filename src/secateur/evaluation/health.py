"""Is a model whole? Weights, shapes against the config, tied weights, a forward pass."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.console import counted, track
from secateur.data import load_corpus, token_windows
from secateur.evaluation.config import DiagnoseConfig
from secateur.evaluation.modes import input_device, measuring, weight_of
from secateur.evaluation.options import DiagnoseOptions
from secateur.models import LayerWidths, adapter_of, configured, declared_widths, layer_widths, load
from secateur.models.checks import require_in_memory
from secateur.models.context import require_length
from secateur.models.halves import PARTS, Half, Rows
from secateur.models.masks import describe_zeros, share_of_zeros
from secateur.models.options import takes_options
from secateur.models.rounded import describe_rounding
from secateur.showing import Drawn, html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANDOM_TOKENS = 32
ROUNDING = 1.001


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong (`error`) or odd (`warning`) with a model."""

    where: str
    what: str
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class TensorHealth:
    """The values of one weight: share of `zeros`, `largest` finite absolute value, counts of the rest."""

    name: str
    shape: tuple[int, ...]
    zeros: float
    largest: float
    nan: int
    infinite: int
    dead_rows: int


@dataclass(frozen=True, repr=False)
class HealthReport(Drawn):
    """What `diagnose` found.

    Attributes:
        problems: what is wrong or odd.
        tensors: what each weight holds.
        loss: of the text, in nats; None where none was run.
        uniform_loss: that of guessing every token alike.
        sparsity: share of zeros in the projections, 0 for a dense model, as in an `Evaluation`.
        zeros: whether the model counts as sparse, and why, in a sentence.
        rounding: of weights of a few bits, which they are and what they take, in a sentence; empty of ordinary ones.
    """

    problems: list[Problem]
    tensors: list[TensorHealth]
    loss: float | None
    uniform_loss: float
    sparsity: float
    zeros: str
    rounding: str = ""

    @property
    def healthy(self) -> bool:
        """Whether no problem is an error."""
        return all(problem.severity != "error" for problem in self.problems)

    def headline(self) -> str:
        errors = sum(problem.severity == "error" for problem in self.problems)
        state = "healthy" if self.healthy else counted(errors, "error")
        loss = "" if self.loss is None else f", loss of text {self.loss:.2f} of {self.uniform_loss:.2f} by guessing"
        return (
            f"{state}, {counted(len(self.problems) - errors, 'warning')}, {counted(len(self.tensors), 'weight')}{loss}"
        )

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [asdict(tensor) for tensor in self.tensors]

    def _repr_html_(self) -> str:
        problems = html_table([asdict(problem) for problem in self.problems]) if self.problems else ""
        return problems + super()._repr_html_()

    def plot(self) -> "Figure":
        from secateur.report import figure_of, weights_plot

        return figure_of(weights_plot, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        loss = self.loss if self.loss is not None and math.isfinite(self.loss) else None
        return {**asdict(self), "loss": loss, "healthy": self.healthy}


def diagnose_model(name: str, config: DiagnoseConfig | None = None) -> HealthReport:
    """Load a model and `diagnose` it. Raises `ModelError` for the model and `DataError` for the text."""
    config = config or DiagnoseConfig()
    model, tokenizer = load(name, **config.load_arguments())
    return diagnose(model, tokenizer, config)


@takes_options(DiagnoseConfig)
def diagnose(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | Tensor | None = None,
    config: DiagnoseConfig | None = None,
    **options: Unpack[DiagnoseOptions],
) -> HealthReport:
    """Look for what is wrong with a model.

    Errors: NaN, infinities, values beyond `huge`, weights that are zero throughout, shapes that are not those
    of the config, another ratio of query to key/value heads in some layers, embeddings that the config ties
    and that are two tensors, logits that are not finite, a loss above that of guessing every token alike.
    Warnings: rows of zeros in a projection.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, to run the text of `data`, or windows of real text, (windows, seqlen); without either
            random tokens are run and their loss is not judged.
        config: what counts as huge, and the text.
        options: fields of `DiagnoseConfig`, instead of `config` or over it.

    Raises:
        DataError: the text cannot be found or is too short.
        ModelError: a device map has left weights outside of memory.
    """
    config = configured(DiagnoseConfig, config, options)
    require_in_memory(model)
    weights = track(list(model.named_parameters()), "weights")
    tensors = [_look_at(name, parameter) for name, parameter in weights]
    projections = _names_of_projections(model)
    problems = [
        problem for tensor in tensors for problem in _value_problems(tensor, config.huge, tensor.name in projections)
    ]
    shapes = list(_shape_problems(model))
    problems += [*shapes, *_tying_problems(model)]
    loss = None
    if not shapes:
        windows = _windows(model, tokenizer, config)
        found, loss = _forward_problems(model, windows)
        problems += found
    return HealthReport(
        problems,
        tensors,
        loss,
        math.log(model.config.vocab_size),
        share_of_zeros(model),
        describe_zeros(model),
        describe_rounding(model) or "",
    )


@torch.no_grad()
def _look_at(name: str, values: Tensor) -> TensorHealth:
    nan = int(values.isnan().sum())
    infinite = int(values.isinf().sum())
    rows = values if values.dim() > 1 else values.unsqueeze(0)  # (rows, columns)
    finite = values.nan_to_num(0.0, 0.0, 0.0) if nan + infinite else values
    return TensorHealth(
        name=name,
        shape=tuple(values.shape),
        zeros=1 - int(values.count_nonzero()) / max(values.numel(), 1),
        largest=float(finite.abs().max()) if values.numel() else 0.0,
        nan=nan,
        infinite=infinite,
        dead_rows=int((~rows.any(dim=-1)).sum()),
    )


def _names_of_projections(model: PreTrainedModel) -> set[str]:
    """The names of the weights of all layers' projections."""
    adapter = adapter_of(model)
    weights = {id(linear.weight) for layer in adapter.layers(model) for linear in adapter.projections(layer).values()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in weights}


def _value_problems(tensor: TensorHealth, huge: float, is_projection: bool) -> Iterator[Problem]:
    size = math.prod(tensor.shape)
    if tensor.nan:
        yield Problem(tensor.name, f"{tensor.nan:,} of {size:,} values are NaN")
    if tensor.infinite:
        yield Problem(tensor.name, f"{tensor.infinite:,} of {size:,} values are infinite")
    if tensor.largest > huge:
        yield Problem(tensor.name, f"largest absolute value {tensor.largest:.3g}, above {huge:g}")
    if tensor.zeros == 1 and not tensor.name.endswith(".bias"):
        yield Problem(tensor.name, "all values are zero")
    elif tensor.dead_rows and is_projection:
        yield Problem(tensor.name, f"{tensor.dead_rows:,} of {tensor.shape[0]:,} rows are zero", "warning")


def _shape_problems(model: PreTrainedModel) -> Iterator[Problem]:
    hidden_size, vocab_size = model.config.hidden_size, model.config.vocab_size
    for where, module in (
        ("input embeddings", model.get_input_embeddings()),
        ("output embeddings", model.get_output_embeddings()),
    ):
        yield from _shape_problem(where, module, (vocab_size, hidden_size))
    adapter = adapter_of(model)
    layers = adapter.layers(model)
    if len(layers) != model.config.num_hidden_layers:
        yield Problem("layers", f"{len(layers)} layers, the config says {model.config.num_hidden_layers}")
        return
    for index, (layer, widths) in enumerate(zip(layers, declared_widths(model), strict=True)):
        for part in PARTS:
            half = adapter.half(layer, part)
            if half.names.divisible and not half.is_absent:
                for name, shape in _expected_shapes(half, widths, hidden_size).items():
                    yield from _shape_problem(f"layer {index} {name}", half.projections[name], shape)
    yield from _ratio_problems(model, layer_widths(model))


def _expected_shapes(half: Half, widths: LayerWidths, hidden_size: int) -> dict[str, tuple[int, int]]:
    """Of the projections of half a layer, by name."""
    sizes: dict[Rows, int] = {"channel": widths.intermediate_size}
    output = widths.intermediate_size
    if half.part == "attention":
        output = widths.num_attention_heads * half.head_dim
        key = widths.num_key_value_heads * half.head_dim
        sizes = {
            "query": output,
            "gated_query": 2 * output,
            "key": key,
            "value": key,
            "query_key_value": output + 2 * key,
        }
    there = ((name, half.names.inputs[name]) for name in half.inputs)
    inputs = {name: (sum(sizes[rows] for rows in blocks), hidden_size) for name, blocks in there}
    return {**inputs, half.names.output: (hidden_size, output)}


def _shape_problem(where: str, module: nn.Module, expected: tuple[int, int]) -> Iterator[Problem]:
    shape = tuple(weight_of(module).shape)
    if shape != expected:
        yield Problem(where, f"its shape is {shape}, the config says {expected}")


def _ratio_problems(model: PreTrainedModel, widths: list[LayerWidths]) -> Iterator[Problem]:
    """Query heads per key/value head: mostly the same in all layers, and what the module's forward pass repeats."""
    adapter = adapter_of(model)
    ratios = [width.num_attention_heads / max(width.num_key_value_heads, 1) for width in widths]
    usual = Counter(filter(None, ratios)).most_common(1)[0][0]
    for index, (layer, width, ratio) in enumerate(zip(adapter.layers(model), widths, ratios, strict=True)):
        heads = f"{width.num_attention_heads} query heads over {width.num_key_value_heads} key/value heads"
        if not ratio:
            continue
        if ratio != usual and not adapter.by_layer:
            yield Problem(f"layer {index}", f"{heads}, a ratio of {ratio:g} where other layers have {usual:g}")
        elif ratio != int(ratio):
            yield Problem(f"layer {index}", f"{heads}, which is not a whole ratio")
        groups = getattr(adapter.half(layer, "attention").mixer, "num_key_value_groups", ratio)
        if groups != ratio:
            yield Problem(f"layer {index}", f"{heads}, but its attention repeats each {groups} times")


def _tying_problems(model: PreTrainedModel) -> Iterator[Problem]:
    inputs, outputs = weight_of(model.get_input_embeddings()), weight_of(model.get_output_embeddings())
    if model.config.tie_word_embeddings and inputs is not outputs:
        equal = inputs.shape == outputs.shape and torch.equal(inputs, outputs.to(inputs.device))
        values = "equal for now" if equal else "of different values"
        yield Problem("output embeddings", f"the config ties them to the input embeddings; two tensors, {values}")


def _windows(
    model: PreTrainedModel, text: PreTrainedTokenizerBase | Tensor | None, config: DiagnoseConfig
) -> Tensor | None:
    if text is None or isinstance(text, Tensor):
        return text
    require_length(model, config.seqlen)
    corpus = load_corpus(config.data, "test", config)
    return token_windows(text, corpus, config.seqlen, limit=config.windows)


def _forward_problems(model: PreTrainedModel, windows: Tensor | None) -> tuple[list[Problem], float | None]:
    """Run the model, window by window. Returns what is wrong and the mean loss of real text."""
    vocab_size = model.config.vocab_size
    if windows is None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(vocab_size, (1, RANDOM_TOKENS), generator=generator)
    elif int(windows.max()) >= vocab_size:
        what = f"the tokenizer gives token {int(windows.max())}, the model's vocabulary has {vocab_size}"
        return [Problem("tokenizer", what)], None
    else:
        ids = windows
    losses = []
    try:
        for window in ids.to(input_device(model)):
            with measuring(model):
                logits = model(input_ids=window[None], use_cache=False).logits[0].float()  # (seqlen, vocab)
            broken = int((~logits.isfinite()).sum())
            if broken:
                what = f"{broken:,} of {logits.numel():,} logits are not finite"
                return [Problem("forward pass", what)], None
            losses.append(float(functional.cross_entropy(logits[:-1], window[1:].to(logits.device))))
    except RuntimeError as error:
        return [Problem("forward pass", f"it fails: {str(error).splitlines()[0]}")], None
    loss = sum(losses) / len(losses)
    if windows is None:
        return [], None
    if loss > math.log(vocab_size) * ROUNDING:
        what = f"the loss of text is {loss:.2f}, above the {math.log(vocab_size):.2f} of guessing any token"
        return [Problem("forward pass", what)], loss
    return [], loss
