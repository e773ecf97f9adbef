"""Everything that is measured of one model."""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.data import Corpus, load_corpus, token_windows
from secateur.distributed import barrier, is_first
from secateur.errors import InputError
from secateur.evaluation.config import EvaluateConfig
from secateur.evaluation.modes import input_device
from secateur.evaluation.options import EvaluateOptions
from secateur.evaluation.perplexity import perplexity
from secateur.evaluation.speed import Speed, measure_speed
from secateur.evaluation.tasks import TaskScore, load_tasks, measure_tasks
from secateur.models import configured, count_parameters
from secateur.models.context import require_length
from secateur.models.lora import underlying
from secateur.models.masks import share_of_zeros
from secateur.models.modeling_secateur import PREFIX
from secateur.models.options import LOADING, takes_options
from secateur.models.streamed import streamed
from secateur.models.tokenizers import require_known
from secateur.showing import Drawn, model_row
from secateur.wording import worded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


@dataclass(repr=False)
class Evaluation(Drawn):
    """The figures of one model.

    Attributes:
        name: what tables call it.
        parameters: tied weights count once; an adapter's count as well.
        sparsity: share of zeros in its projections, of those matrices whose zeros make it sparse; 0 for a dense model,
            the zeros of quantised weights included.
        perplexity: by the text's name, as are `windows` (how many), `corpora` (descriptions) and `sources`.
        seqlen: tokens per window.
        stride: tokens from one window to the next, None for no overlap.
        dtype: number format of the weights.
        device: where it ran.
        engine: what ran it: Transformers, or llama.cpp.
        size_bytes: its weights on disk.
        prefill_tokens_per_second: prompt tokens read, batch size 1.
        decode_tokens_per_second: new tokens written one by one, batch size 1.
        peak_memory_bytes: while generating.
        memory_measured: what that is: GPU allocations, or the resident set of the process.
        tasks: scores by the task's name.
        family: what a cut leaves of an architecture: its kind, hidden size and vocabulary.
    """

    name: str
    parameters: int
    perplexity: dict[str, float]
    windows: dict[str, int]
    corpora: dict[str, str]
    sources: dict[str, str]
    seqlen: int
    stride: int | None
    dtype: str
    device: str
    engine: str = "Transformers"
    sparsity: float = 0.0
    size_bytes: int | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    memory_measured: str | None = None
    tasks: dict[str, TaskScore] = field(default_factory=dict)
    family: str = ""

    def add_speed(self, speed: Speed) -> None:
        """Take over the figures of a speed measurement."""
        for name, value in asdict(speed).items():
            setattr(self, name, value)

    def headline(self) -> str:
        found = [f"perplexity {value:,.2f} on {text}" for text, value in self.perplexity.items()]
        if self.decode_tokens_per_second:
            found.append(f"{self.decode_tokens_per_second:,.1f} tokens/s")
        return ", ".join([self.name, f"{self.parameters:,} parameters", *found])

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [model_row(self.to_dict())]

    def plot(self) -> "Figure":
        from secateur.report import figure_of, perplexity_plot

        return figure_of(perplexity_plot, [self.to_dict()])

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain JSON values; a perplexity that is not finite is None."""
        finite = {name: value if math.isfinite(value) else None for name, value in self.perplexity.items()}
        return {**asdict(self), "perplexity": finite}


@takes_options(EvaluateConfig, hidden=LOADING - {"trust_remote_code"} | {"adapter", "semi_structured"})
def evaluate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    config: EvaluateConfig | None = None,
    *,
    name: str = "model",
    size_bytes: int | None = None,
    **options: Unpack[EvaluateOptions],
) -> Evaluation:
    """Measure perplexity on each text, tasks, the number of parameters, speed and peak memory of a model in memory.

    With several processes each runs its share of the windows; only the first measures and returns speed and memory.

    Args:
        model: a causal language model, or one with a PEFT adapter.
        tokenizer: its tokenizer; None will do where the data is tokens.
        config: what to measure; the options that say how to load a model, and `adapter`, are not used here.
        name: what tables call the model.
        size_bytes: its size on disk, where that is known.
        options: fields of `EvaluateConfig`, instead of `config` or over it.

    Raises:
        DataError: a text cannot be found or is shorter than one window.
        InputError: the model does not fit in a GPU's memory with these settings, it does not take windows or a prompt
            so long, or a task is unknown.
    """
    config = configured(EvaluateConfig, config, options)
    require_lengths(model, config)
    if tokenizer is None and config.tasks:
        raise InputError("tokenizer= is None; give the model's, to ask the questions of tasks with")
    tasks = load_tasks(config)
    corpora = load_texts(config)
    windows = corpus_windows(tokenizer, corpora, config)
    for tokens in windows.values():
        require_known(underlying(model), tokens)
    evaluation = measure_quality(model, windows, corpora, config, name)
    if tokenizer is not None:
        evaluation.tasks = measure_tasks(model, tokenizer, tasks, name)
    evaluation.size_bytes = size_bytes
    if measures_speed(model, config):
        barrier()
        if is_first():
            evaluation.add_speed(measure_speed(model, **speed_options(config)))
        barrier()
    return evaluation


def measures_speed(model: PreTrainedModel | PeftModel, config: EvaluateConfig) -> bool:
    """Whether a model's speed is to be measured: not that of a streamed one, which is the disk's.

    Raises:
        InputError: the model is streamed, and more is asked for than perplexity.
    """
    if not streamed(underlying(model)):
        return config.speed
    if config.tasks or (config.speed and "speed" in config.model_fields_set):
        raise InputError(
            "of a streamed model only perplexity is measured, one layer at a time; leave out --tasks and --speed"
        )
    if config.speed:
        logger.info(worded("Speed is not measured: the model's layers are read one at a time (--stream)"))
    return False


def require_lengths(model: PreTrainedModel | PeftModel, config: EvaluateConfig) -> None:
    """Raise `InputError` where windows, or the prompt that speed is measured on, are longer than the model takes."""
    if config.perplexity:
        require_length(underlying(model), config.seqlen)
    if config.speed and not streamed(underlying(model)):
        tokens = config.prompt_tokens + config.new_tokens
        require_length(underlying(model), tokens, "a prompt and an answer", "--prompt-tokens", config.new_tokens)


def load_texts(config: EvaluateConfig) -> list[Corpus]:
    """The texts that perplexity is measured on. Raises `DataError`."""
    return [load_corpus(corpus, "test", config) for corpus in config.data] if config.perplexity else []


def corpus_windows(
    tokenizer: PreTrainedTokenizerBase | None, corpora: list[Corpus], config: EvaluateConfig
) -> dict[str, Tensor]:
    """Token windows of each text, (windows, seqlen), by the corpus's name."""
    return {
        corpus.name: token_windows(tokenizer, corpus, config.seqlen, limit=config.windows, stride=config.stride)
        for corpus in corpora
    }


def measure_quality(
    model: PreTrainedModel | PeftModel,
    windows: Mapping[str, Tensor],
    corpora: list[Corpus],
    config: EvaluateConfig,
    name: str,
) -> Evaluation:
    """Perplexity on every text and the number of parameters; speed is measured on its own."""
    figures = {
        corpus: perplexity(
            model,
            ids,
            stride=config.stride,
            batch_size=config.batch_size,
            description=f"{name}: perplexity on {corpus}",
        )
        for corpus, ids in windows.items()
    }
    return Evaluation(
        name=name,
        parameters=count_parameters(model),
        perplexity=figures,
        windows={corpus: len(ids) for corpus, ids in windows.items()},
        corpora={corpus.name: corpus.description for corpus in corpora},
        sources={corpus.name: corpus.source for corpus in corpora},
        seqlen=config.seqlen,
        stride=config.stride,
        dtype=str(underlying(model).dtype).removeprefix("torch."),
        device=str(input_device(model)),
        sparsity=share_of_zeros(underlying(model)),
        family=family_of(underlying(model)),
    )


def family_of(model: PreTrainedModel) -> str:
    """What models that were cut out of one have in common with it: `llama, 576 wide, 49,152 tokens`."""
    text = model.config.get_text_config()
    kind = model.config.model_type.removeprefix(PREFIX)
    return f"{kind}, {text.hidden_size} wide, {text.vocab_size:,} tokens"


def speed_options(config: EvaluateConfig) -> dict[str, Any]:
    """The config's settings as arguments of `measure_speeds`."""
    return {
        "prompt_tokens": config.prompt_tokens,
        "new_tokens": config.new_tokens,
        "repeats": config.repeats,
        "max_seconds": config.max_seconds,
        "seed": config.seed,
    }
