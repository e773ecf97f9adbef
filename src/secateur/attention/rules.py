"""What each layer leaves out, by a profile or by one rule for all heads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import Tensor

from secateur.attention.config import BlockOptions, SparseOptions, require_rule
from secateur.attention.profile import AttentionProfile
from secateur.errors import OptionError
from secateur.kernels import Backend
from secateur.models.options import configured


@dataclass(frozen=True)
class Rule:
    """What one layer leaves out.

    Attributes:
        blocks: how blocks are laid out and judged.
        cdfthreshd: mass that is covered, one number or one for each head, (heads,).
        topk: share of the blocks.
        pvthreshd: as `block_sparse_attention`'s pv_threshold.
        backend: of the kernel.
    """

    blocks: BlockOptions
    cdfthreshd: Tensor | float | None = None
    topk: float | None = None
    pvthreshd: Tensor | float | None = None
    backend: Backend = "auto"


@dataclass
class Share:
    """A mean share of blocks, over a layer's heads and the sequences of its sparse calls."""

    total: Tensor | float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        """0 where there was no call."""
        return float(self.total) / max(1, self.count)


@dataclass(eq=False, kw_only=True)
class LeftOut:
    """What sparse attention has left out.

    Attributes:
        layers: of each layer that has been sparse, the share of blocks left out since the last `reset`.
    """

    layers: dict[int, Share] = field(default_factory=dict)

    def add(self, layer: int, shares: Tensor) -> None:
        """Count a call: the share that each sequence and head left out, (batch, heads)."""
        share = self.layers.setdefault(layer, Share())
        share.total = share.total + shares.sum()
        share.count += shares.numel()

    @property
    def sparsity(self) -> float:
        """Mean share of blocks left out since the last `reset`, over heads and sparse calls; 0 where there was none."""
        return sum(float(share.total) for share in self.layers.values()) / max(
            1, sum(share.count for share in self.layers.values())
        )

    def reset(self) -> None:
        """Forget the shares."""
        self.layers.clear()


def rules_of(
    profile: AttentionProfile | None, layers: int, backend: Backend, options: Mapping[str, Any]
) -> dict[int, Rule]:
    """Rules by layer; layers that are not there stay dense.

    Args:
        profile: tuned thresholds, or None.
        layers: how many the model has.
        backend: of the kernel.
        options: fields of `SparseOptions`, instead of a profile.

    Raises:
        OptionError: there are both, or neither says what to leave out.
    """
    if backend not in get_args(Backend):
        raise OptionError(f"there is no backend '{backend}'; choose {', '.join(get_args(Backend))}")
    if profile is not None and options:
        raise OptionError("give a profile or a rule, not both")
    if profile is not None:
        return {
            index: Rule(profile.blocks, layer.cdfthreshd, None, layer.pvthreshd, backend)
            for index, layer in profile.layers.items()
            if bool((layer.sparsity > 0).any())
        }
    chosen = configured(SparseOptions, None, options)
    try:
        require_rule(chosen)
    except ValueError as error:
        raise OptionError(str(error)) from error
    return dict.fromkeys(
        range(layers), Rule(chosen.blocks(), chosen.cdfthreshd, chosen.topk, chosen.pvthreshd, backend)
    )
