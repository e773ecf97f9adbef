"""The encoder of the Long Range Arena, with dense attention or with a pattern of blocks for each layer."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.errors import InputError, ModelError
from secateur.longrange.config import ModelOptions
from secateur.longrange.pattern import BlockPattern
from secateur.longrange.sparse import pattern_attention

PADDING = 0
EMBEDDING_STD = 0.02

# A layer's query and key, (batch, heads, length, head_dim), detached, and the mask of real tokens, (batch, length).
LayerCollector = Callable[[Tensor, Tensor, Tensor], None]
# The same after the layer's number.
Collector = Callable[[int, Tensor, Tensor, Tensor], None]


class Attention(nn.Module):
    """Multi-head attention with projections from and to the width of the layers."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        width = options.num_head * options.head_dim
        self.num_head = options.num_head
        self.dropout = options.attention_dropout
        self.query = nn.Linear(options.transformer_dim, width)
        self.key = nn.Linear(options.transformer_dim, width)
        self.value = nn.Linear(options.transformer_dim, width)
        self.output = nn.Linear(width, options.transformer_dim)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        pattern: BlockPattern | None = None,
        collect: LayerCollector | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: (batch, length, transformer_dim).
            mask: True where a token is real, (batch, length).
            pattern: blocks that are computed; None: all.
            collect: is given query, key and mask.

        Returns:
            (batch, length, transformer_dim).
        """
        query, key, value = (  # (batch, heads, length, head_dim)
            projection(x).unflatten(-1, (self.num_head, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        if collect is not None:
            collect(query.detach(), key.detach(), mask)
        if pattern is None:
            dropout = self.dropout if self.training else 0.0
            attended = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask[:, None, None, :], dropout_p=dropout
            )
        else:
            attended = pattern_attention(
                query, key, value, pattern, key_padding_mask=mask, dropout=self.dropout, training=self.training
            )
        return self.output(attended.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Attention and an MLP, each after a norm of its own."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(options.transformer_dim)
        self.attention = Attention(options)
        self.mlp_norm = nn.LayerNorm(options.transformer_dim)
        self.mlp = nn.Sequential(
            nn.Linear(options.transformer_dim, options.transformer_hidden_dim),
            nn.GELU(),
            nn.Dropout(options.dropout_prob),
            nn.Linear(options.transformer_hidden_dim, options.transformer_dim),
        )
        self.dropout = nn.Dropout(options.dropout_prob)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        pattern: BlockPattern | None = None,
        collect: LayerCollector | None = None,
    ) -> Tensor:
        """Arguments and result as of `Attention`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, pattern, collect))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Embeddings(nn.Module):
    """Tokens and their positions, and in front a learned vector where the head reads that one."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        width = options.embedding_dim
        self.tokens = nn.Embedding(options.vocab_size, width, padding_idx=PADDING)
        with torch.no_grad():
            self.tokens.weight.mul_(EMBEDDING_STD)
        self.positions: Tensor
        if options.learn_pos_emb:
            self.positions = nn.Parameter(EMBEDDING_STD * torch.randn(options.positions, width))
        else:
            # As large as tokens are: a sine's root mean square is 1 / √2.
            waves = EMBEDDING_STD * math.sqrt(2) * sinusoids(options.positions, width)
            self.register_buffer("positions", waves, persistent=False)
        has_cls = options.pooling_mode == "CLS"
        self.cls = nn.Parameter(EMBEDDING_STD * torch.randn(width)) if has_cls else None
        same = width == options.transformer_dim
        self.projection = nn.Identity() if same else nn.Linear(width, options.transformer_dim)
        self.dropout = nn.Dropout(options.dropout_prob)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(batch, length) to (batch, length, transformer_dim), one longer with the vector in front."""
        x = self.tokens(input_ids)
        if self.cls is not None:
            x = torch.cat([self.cls.to(x.dtype).expand(len(x), 1, -1), x], 1)
        return self.projection(self.dropout(x + self.positions[: x.shape[1]]))


class LongRangeModel(nn.Module):
    """A classifier of long sequences, one at a time or two by two.

    Args:
        options: the encoder.
        towers: 2 where each example is a pair, which one encoder reads one after the other, and the head reads
            as [a, b, a·b, a−b].
    """

    pattern_blocks: Tensor

    def __init__(self, options: ModelOptions, towers: int = 1) -> None:
        super().__init__()
        self.options = options
        self.towers = towers
        self.embeddings = Embeddings(options)
        own = 1 if options.tied_weights else options.num_layers
        self.layers = nn.ModuleList(EncoderLayer(options) for _ in range(own))
        self.norm = nn.LayerNorm(options.transformer_dim)
        self.head = nn.Sequential(
            nn.Linear(options.transformer_dim * (4 if towers == 2 else 1), options.transformer_hidden_dim),
            nn.GELU(),
            nn.Linear(options.transformer_hidden_dim, options.num_classes),
        )
        # Part of the state, so that a checkpoint carries the patterns; all False while attention is dense.
        shape = (options.num_layers, options.num_blocks, options.num_blocks)
        self.register_buffer("pattern_blocks", torch.zeros(shape, dtype=torch.bool))
        self.is_sparse = False
        self._patterns: dict[tuple[int, torch.device], list[BlockPattern]] = {}
        self.register_load_state_dict_post_hook(_patterns_loaded)

    @property
    def patterns(self) -> list[BlockPattern] | None:
        """The blocks of each layer; None while attention is dense."""
        return self._patterns_of(self.options.num_blocks) if self.is_sparse else None

    @patterns.setter
    def patterns(self, patterns: Sequence[BlockPattern] | None) -> None:
        if patterns is None:
            self.pattern_blocks.zero_()
        else:
            blocks, sizes = [pattern.blocks for pattern in patterns], {pattern.block_size for pattern in patterns}
            shape = (len(blocks), *(blocks[0].shape if blocks else ()))
            if shape != tuple(self.pattern_blocks.shape) or sizes != {self.options.block_size}:
                raise ModelError(
                    f"the patterns are {shape} blocks of {sorted(sizes)} and the model has "
                    f"{tuple(self.pattern_blocks.shape)} of {self.options.block_size}; choose them with the model's "
                    "num_layers, max_seq_len and block_size"
                )
            self.pattern_blocks.copy_(torch.stack(blocks))
        _patterns_loaded(self)

    def _patterns_of(self, blocks: int) -> list[BlockPattern]:
        """The patterns of sequences of so many blocks, the same objects each time, which a kernel may recognise."""
        place = (blocks, self.pattern_blocks.device)
        if place not in self._patterns:
            size = self.options.block_size
            self._patterns[place] = [BlockPattern(layer, size).cropped(blocks) for layer in self.pattern_blocks]
        return self._patterns[place]

    def forward(
        self, input_ids: Tensor, input_ids_2: Tensor | None = None, collector: Collector | None = None
    ) -> Tensor:
        """Classify.

        Args:
            input_ids: (batch, length), where 0 is padding; of any length up to `max_seq_len`.
            input_ids_2: the other sequence of each pair, for two towers.
            collector: is given the query and key of each layer; for pairs both sequences stand in one batch.

        Returns:
            Logits, (batch, num_classes).

        Raises:
            InputError: sequences are too long, or pairs are given where there is one tower, or the other way round.
        """
        if (input_ids_2 is not None) != (self.towers == 2):
            raise InputError(f"the model reads {self.towers} sequence(s) per example; give it as many")
        if input_ids_2 is None:
            return self.head(self.encode(input_ids, collector))
        length = max(input_ids.shape[1], input_ids_2.shape[1])
        both = torch.cat([padded(input_ids, length), padded(input_ids_2, length)])
        a, b = self.encode(both, collector).chunk(2)
        return self.head(torch.cat([a, b, a * b, a - b], -1))

    def encode(self, input_ids: Tensor, collector: Collector | None = None) -> Tensor:
        """One vector for each sequence, (batch, transformer_dim). Arguments as of `forward`."""
        options = self.options
        if input_ids.shape[1] > options.max_seq_len:
            raise InputError(
                f"sequences of {input_ids.shape[1]} tokens are longer than max_seq_len, {options.max_seq_len}; cut them"
            )
        x, mask = self.embeddings(input_ids), self.real(input_ids)
        blocks = -(-mask.shape[1] // options.block_size)
        length = blocks * options.block_size
        x, mask = functional.pad(x, (0, 0, 0, length - x.shape[1])), padded(mask, length)
        patterns = self._patterns_of(blocks) if self.is_sparse else [None] * options.num_layers
        for index, pattern in enumerate(patterns):
            collect = None if collector is None else partial(collector, index)
            x = self.layers[index % len(self.layers)](x, mask, pattern, collect)
        x = self.norm(x)
        return x[:, 0] if options.pooling_mode == "CLS" else mean_over_tokens(x, mask)

    def real(self, input_ids: Tensor) -> Tensor:
        """Where there is something to attend to, (batch, length): tokens, and the vector in front.

        In a sequence without any it is the first place: attention to nothing is not defined.
        """
        mask = input_ids != PADDING
        if self.options.pooling_mode == "CLS":
            return functional.pad(mask, (1, 0), value=True)
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        return mask | (first & ~mask.any(1, keepdim=True))


def _patterns_loaded(model: nn.Module, _incompatible: object = None) -> None:
    assert isinstance(model, LongRangeModel)
    model.is_sparse = bool(model.pattern_blocks.any())
    model._patterns.clear()


def mean_over_tokens(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of (batch, length, width) over where the mask (batch, length) is True, (batch, width)."""
    return x.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True).to(x.dtype)


def padded(values: Tensor, length: int) -> Tensor:
    """(batch, n) with zeros, or False, behind up to (batch, length)."""
    return functional.pad(values, (0, length - values.shape[1]))


def sinusoids(positions: int, width: int) -> Tensor:
    """Sines and cosines of wavelengths from 2π to 20000π (Vaswani et al. 2017), (positions, width)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(positions)[:, None] * rates  # (positions, width / 2 rounded up)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]
