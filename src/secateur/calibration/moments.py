"""Re-fitting an output projection to what is left of its inputs, by ridge-regularised least squares.

With several processes each adds up its own tokens, and what `of` and `of_pairs` return is the sum over all of them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.distributed import all_reduce_numbers, all_reduce_sum, broadcast
from secateur.errors import InputError

TOKENS_AT_ONCE = 512


@dataclass
class Norms:
    """Norms of a linear layer's inputs over all tokens: `squares`, the sum of their squares, (in_features,)."""

    squares: Tensor

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> "Norms":
        """Sum over batches of inputs (..., in_features)."""
        total = torch.zeros(())
        for batch in batches:
            # Some tokens at a time stay in the processor's cache.
            for part in batch.flatten(0, -2).split(TOKENS_AT_ONCE):
                total = total.to(part.device) + part.to(torch.float32, copy=True).square_().sum(0)
        return cls(all_reduce_sum(total))

    @property
    def root(self) -> Tensor:
        """The 2-norm of each input, (in_features,)."""
        return self.squares.sqrt()


@dataclass
class Moments:
    """Second moments of a linear layer's inputs X, summed over tokens.

    Attributes:
        inputs: XᵀX, (in_features, in_features).
        tokens: how many tokens were added.
    """

    inputs: Tensor
    tokens: int = 0

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> "Moments":
        """Sum over batches of inputs (tokens, in_features)."""
        moments: Moments | None = None
        for inputs in batches:
            moments = moments or cls(_zeros(inputs.shape[-1], inputs.shape[-1], inputs.device))
            moments.add_inputs(inputs)
        if moments is None:
            raise ValueError("no calibration tokens")
        moments.add_other_processes()
        return moments

    def add_inputs(self, inputs: Tensor) -> None:
        """Add tokens: inputs (tokens, in_features)."""
        _add_product(self.inputs, inputs, inputs)
        self.tokens += inputs.shape[0]

    def add_other_processes(self) -> None:
        """Add the tokens that the other processes have added to theirs."""
        all_reduce_sum(self.inputs)
        (tokens,) = all_reduce_numbers(self.tokens)
        self.tokens = int(tokens)

    def damped(self, damping: float) -> tuple[Tensor, float]:
        """XᵀX + λI in float64 with λ = `damping` times the mean of its diagonal, and λ."""
        inputs = self.inputs.double()
        ridge = damping * inputs.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny).item()
        inputs.diagonal().add_(ridge)
        return inputs, ridge

    def damped_by_input(self, damping: float) -> tuple[Tensor, Tensor]:
        """XᵀX + Λ in float64 with Λ = `damping` times its diagonal, and the diagonal of Λ, (in_features,).

        Where a few inputs are far larger than the others, one ridge for all would hold those others fast.
        """
        inputs = self.inputs.double()
        ridge = damping * inputs.diagonal().clamp_min(torch.finfo(torch.float32).tiny)
        inputs.diagonal().add_(ridge)
        return inputs, ridge


@dataclass
class Gram(Moments):
    """Second moments of a linear layer's inputs X, and of X with its target outputs T, summed over tokens.

    Attributes:
        cross: XᵀT, (in_features, out_features).
        target: the sum of squares of T.
    """

    cross: Tensor = field(kw_only=True)
    target: float = 0.0

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[Tensor, Tensor]]) -> "Gram":
        """Sum over pairs of inputs (tokens, in_features) and targets (tokens, out_features)."""
        gram: Gram | None = None
        for inputs, target in pairs:
            width, device = inputs.shape[-1], inputs.device
            gram = gram or cls(_zeros(width, width, device), cross=_zeros(width, target.shape[-1], device))
            gram.add(inputs, target)
        if gram is None:
            raise ValueError("no calibration tokens")
        gram.add_other_processes()
        return gram

    def add(self, inputs: Tensor, target: Tensor) -> None:
        """Add tokens: inputs (tokens, in_features), target (tokens, out_features)."""
        self.add_inputs(inputs)
        _add_product(self.cross, inputs, target)
        self.target += target.float().square().sum().item()

    def add_other_processes(self) -> None:
        super().add_other_processes()
        all_reduce_sum(self.cross)
        (self.target,) = all_reduce_numbers(self.target)

    @torch.no_grad()
    def refit(self, weight: Tensor, kept: Tensor, damping: float) -> Tensor:
        """The weights of the kept inputs that give the targets best.

        Minimises ‖X[:, kept] Vᵀ − T‖² + λ‖V − W[:, kept]‖² over V, so that directions the calibration text does not
        show keep their old weights.

        Args:
            weight: W, the weights before the cut, (out_features, in_features).
            kept: indices of the inputs that stay, (kept,).
            damping: λ as a share of the mean diagonal of XᵀX.

        Returns:
            V, (out_features, kept), float32.
        """
        damped, ridge = self.damped(damping)
        left = damped[kept[:, None], kept]
        right = self.cross[kept].double() + ridge * weight[:, kept].T.double()
        factor = torch.linalg.cholesky(left)
        return broadcast(torch.cholesky_solve(right, factor).T.float())

    def error(self, weight: Tensor, kept: Tensor) -> float:
        """‖X[:, kept] Vᵀ − T‖² for weights V (out_features, kept)."""
        weight = weight.double()
        inputs, cross = self.inputs[kept[:, None], kept].double(), self.cross[kept].double()
        return float(self.target - 2 * (weight.T * cross).sum() + ((weight @ inputs) * weight).sum())


@contextmanager
def solvable(damping: float) -> Iterator[None]:
    """Raise `InputError` where the second moments of some inputs cannot be inverted.

    Args:
        damping: the ridge that was added to them.
    """
    try:
        yield
    except torch.linalg.LinAlgError as error:
        raise InputError(
            f"what the calibration text gives cannot be solved for with a damping of {damping:g}; raise "
            "--damping, or see with secateur diagnose whether the model holds huge values"
        ) from error


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add leftᵀ right to a float32 sum. Where both are bfloat16 a CPU's units for that are used: they round nothing."""
    exact = left.dtype == right.dtype == torch.bfloat16
    with _bfloat16_products() if exact else nullcontext():
        total.addmm_(left.float().T, right.float())


@contextmanager
def _bfloat16_products() -> Iterator[None]:
    """Let a CPU round the factors of float32 products to bfloat16; sums stay float32."""
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def _zeros(rows: int, columns: int, device: torch.device) -> Tensor:
    return torch.zeros(rows, columns, dtype=torch.float32, device=device)
