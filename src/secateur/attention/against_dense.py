"""A model's sparse attention against its dense one, on the same text."""

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.attention.config import CompareConfig
from secateur.attention.hook import Applied, apply, remove
from secateur.attention.options import CompareOptions
from secateur.attention.profile import AttentionProfile
from secateur.calibration.losses import CHUNK_TOKENS
from secateur.console import track
from secateur.data import load_corpus, token_windows
from secateur.files import expanded
from secateur.models.adapters import adapter_of, head_of
from secateur.models.checks import require_finite, require_in_memory
from secateur.models.context import require_length
from secateur.models.memory import now
from secateur.models.modes import in_eval_mode
from secateur.models.options import configured, takes_options
from secateur.models.tokenizers import require_known
from secateur.showing import Shown

Apply = Callable[[], Applied]

LARGEST_LOSS = 700.0


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """What sparse attention changes.

    Attributes:
        logits_cosine: of a token's logits, mean over tokens.
        greedy_agreement: share of tokens after which both would write the same next one.
        perplexity: of the dense model.
        sparse_perplexity: of the sparse one.
        seconds: from a prompt of `seqlen` tokens to the first new one, dense.
        sparse_seconds: the same, sparse.
        sparsity: share of blocks left out, mean over the heads of layers that are sparse.
        density: share of all blocks that is computed, dense layers included.
        seqlen: tokens in a window.
        windows: how many.
        data: of what text.
    """

    logits_cosine: float
    greedy_agreement: float
    perplexity: float
    sparse_perplexity: float
    seconds: float
    sparse_seconds: float
    sparsity: float
    density: float
    seqlen: int
    windows: int
    data: str = ""

    def headline(self) -> str:
        speed = self.seconds / self.sparse_seconds
        return (
            f"perplexity {self.perplexity:,.2f} → {self.sparse_perplexity:,.2f}, {self.sparsity:.1%} of the blocks "
            f"left out, first token {speed:.2f} times as fast"
        )

    def rows_of_figures(self) -> list[dict[str, Any]]:
        return [{**asdict(self), **self.ratios}]

    @property
    def ratios(self) -> dict[str, float]:
        """What is compared, as quotients."""
        return {"ppl_ratio": self.sparse_perplexity / self.perplexity, "speedup": self.seconds / self.sparse_seconds}

    def to_dict(self) -> dict[str, Any]:
        """The figures for `--json`; perplexity and windows by the text's name. What is not finite is None."""
        by_text = {
            name: {self.data: value if math.isfinite(value) else None}
            for name, value in {"perplexity": self.perplexity, "sparse_perplexity": self.sparse_perplexity}.items()
        }
        ratios = {name: value if math.isfinite(value) else None for name, value in self.ratios.items()}
        return {**asdict(self), **by_text, "windows": {self.data: self.windows}, **ratios}


@takes_options(CompareConfig)
@in_eval_mode
def compare_with_dense(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    config: CompareConfig | None = None,
    **options: Unpack[CompareOptions],
) -> Comparison:
    """Read the same windows densely and sparsely.

    Args:
        model: a model of a supported family; it is left dense.
        tokenizer: its tokenizer; None will do where the data is tokens.
        config: the profile or rule, and the text.
        options: fields of `CompareConfig`, instead of `config` or over it.

    Raises:
        InputError: the profile is another model's.
        DataError: the text is shorter than one window.
        ModelError: the family is not supported, or weights are not finite or outside of memory.
    """
    config = configured(CompareConfig, config, options)
    profile = AttentionProfile.load(expanded(config.profile)) if config.profile else None
    require_in_memory(model)
    require_finite(model, "the model")
    require_length(model, config.seqlen)
    corpus = load_corpus(config.data, "test", config)
    windows = token_windows(tokenizer, corpus, config.seqlen, limit=config.windows, seed=config.seed)
    require_known(model, windows)

    def start() -> Applied:
        return apply(model, profile, backend=config.backend, **config.rule())

    try:
        found = compare_windows(model, windows, start, config.batch_size, config.repeats)
    finally:
        remove(model)
    return replace(found, data=str(config.data))


@torch.no_grad()
def compare_windows(
    model: PreTrainedModel, windows: Tensor, start: Apply, batch_size: int = 1, repeats: int = 3
) -> Comparison:
    """As `compare_with_dense`, for token windows (windows, seq) and a function that applies sparse attention."""
    sums = Agreement()
    for batch in track(windows.split(batch_size), "Comparing"):
        tokens = batch.to(model.device)
        remove(model)
        dense = _hidden(model, tokens)
        applied = start()
        sparse = _hidden(model, tokens)
        sums.add(model, dense, sparse, tokens, applied)
    remove(model)
    seconds = first_token_seconds(model, windows[:1], repeats)
    start()
    sparse_seconds = first_token_seconds(model, windows[:1], repeats)
    remove(model)
    tokens = sums.tokens
    return Comparison(
        logits_cosine=sums.cosine / tokens,
        greedy_agreement=sums.same / tokens,
        perplexity=_exp(sums.loss / tokens),
        sparse_perplexity=_exp(sums.sparse_loss / tokens),
        seconds=seconds,
        sparse_seconds=sparse_seconds,
        sparsity=sums.sparsity / sums.windows,
        density=1 - sums.left_out / sums.windows,
        seqlen=windows.shape[1],
        windows=len(windows),
    )


@dataclass
class Agreement:
    """Sums over the tokens of several batches."""

    cosine: float = 0.0
    same: float = 0.0
    loss: float = 0.0
    sparse_loss: float = 0.0
    tokens: int = 0
    sparsity: float = 0.0
    left_out: float = 0.0
    windows: int = 0

    def add(self, model: PreTrainedModel, dense: Tensor, sparse: Tensor, tokens: Tensor, applied: Applied) -> None:
        """Add a batch: last hidden states of both kinds, (batch, seq, hidden_size), and tokens, (batch, seq)."""
        head = head_of(model)
        targets = tokens[:, 1:].flatten()
        pairs = zip(
            dense[:, :-1].flatten(0, 1).split(CHUNK_TOKENS),
            sparse[:, :-1].flatten(0, 1).split(CHUNK_TOKENS),
            targets.split(CHUNK_TOKENS),
            strict=True,
        )
        for one, other, target in pairs:
            logits, others = head(one).float(), head(other).float()  # (tokens, vocabulary), where the head is
            target = target.to(logits.device)
            self.cosine += float(functional.cosine_similarity(logits, others).sum())
            self.same += float((logits.argmax(-1) == others.argmax(-1)).sum())
            self.loss += float(functional.cross_entropy(logits, target, reduction="sum"))
            self.sparse_loss += float(functional.cross_entropy(others, target, reduction="sum"))
        self.tokens += len(targets)
        layers = len(adapter_of(model).layers(model))
        self.sparsity += applied.sparsity * len(tokens)
        self.left_out += sum(share.mean for share in applied.layers.values()) / layers * len(tokens)
        self.windows += len(tokens)


def first_token_seconds(model: PreTrainedModel, prompt: Tensor, repeats: int) -> float:
    """Median seconds to read a prompt (1, tokens) and have the first new token's logits, after one warm-up."""
    prompt = prompt.to(model.device)
    times = []
    for _ in range(repeats + 1):
        start = now(model)
        model(prompt, use_cache=True, logits_to_keep=1)
        times.append(now(model) - start)
    return statistics.median(times[1:])


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < LARGEST_LOSS else math.inf


def _hidden(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    return adapter_of(model).body(model)(tokens, use_cache=False).last_hidden_state
