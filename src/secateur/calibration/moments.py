"""Re-fitting an output projection to what is left of its inputs, by ridge-regularised least squares.

With several processes each adds up its own tokens, and what `of` and `of_pairs` return is the sum over all of them.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.distributed import all_reduce_numbers, all_reduce_sum, broadcast
from secateur.errors import InputError

TOKENS_AT_ONCE = 1024
PANEL = 512  # rows of XᵀX that are added to at once: what lies above them on the other side of the diagonal is left out
LEAST_PIVOT = 1e-4  # of a factor in float32; where more cancels too few digits are left


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
        moments.complete()
        return moments

    def add_inputs(self, inputs: Tensor) -> None:
        """Add tokens, inputs (tokens, in_features), to the blocks on the diagonal and below it."""
        with _products_of(inputs.dtype):
            for part in inputs.split(TOKENS_AT_ONCE):
                tokens = part.float()
                for start in range(0, tokens.shape[-1], PANEL):
                    end = start + PANEL
                    self.inputs[start:end, :end].addmm_(tokens[:, start:end].T, tokens[:, :end])
        self.tokens += inputs.shape[0]

    def add_other_processes(self) -> None:
        """Add the tokens that the other processes have added to theirs."""
        all_reduce_sum(self.inputs)
        (tokens,) = all_reduce_numbers(self.tokens)
        self.tokens = int(tokens)

    def complete(self) -> None:
        """End the sum: other processes' tokens, and the blocks above the diagonal."""
        self.add_other_processes()
        for start in range(0, len(self.inputs), PANEL):
            end = start + PANEL
            self.inputs[start:end, end:] = self.inputs[end:, start:end].T

    def ridge(self, damping: float) -> float:
        """λ = `damping` times the mean of the diagonal of XᵀX."""
        mean = self.inputs.diagonal().double().mean()
        return damping * mean.clamp_min(torch.finfo(torch.float32).tiny).item()

    def factor(self, damping: float, kept: Tensor | None = None) -> "Factor":
        """The factor of XᵀX + λI, of the inputs `kept` (indices) alone unless None."""
        inputs = self.inputs if kept is None else self.inputs[kept[:, None], kept]
        return Factor.of(inputs, self.ridge(damping))

    def damped(self, damping: float) -> tuple[Tensor, float]:
        """XᵀX + λI in float64 with λ = `damping` times the mean of its diagonal, and λ."""
        inputs, ridge = self.inputs.double(), self.ridge(damping)
        inputs.diagonal().add_(ridge)
        return inputs, ridge

    def ridge_by_input(self, damping: float) -> Tensor:
        """`damping` times the diagonal of XᵀX, (in_features,).

        Where a few inputs are far larger than the others, one ridge for all would hold those others fast.
        """
        return damping * self.inputs.diagonal().clamp_min(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Factor:
    """Damped second moments H of inputs, factored with the inputs scaled to norm 1: S H S = L Lᵀ.

    Attributes:
        lower: L, (in_features, in_features), float32, or float64 where inputs are nearly the same.
        scale: the diagonal of S, (in_features,).
    """

    lower: Tensor
    scale: Tensor

    @classmethod
    def of(cls, moments: Tensor, ridge: float) -> "Factor":
        """Factor XᵀX + λI, (in_features, in_features). Raises `torch.linalg.LinAlgError` where it is not definite."""
        scale = (moments.diagonal().double() + ridge).rsqrt()
        lower, definite = factored(_scaled(moments, scale.float()))
        if not definite or lower.diagonal().square().min() < LEAST_PIVOT:
            lower, _ = factored(_scaled(moments.double(), scale), check_errors=True)
        return cls(lower, scale.to(lower.dtype))

    def solve(self, right: Tensor) -> Tensor:
        """H⁻¹ times a matrix (in_features, columns)."""
        scaled = self.scale[:, None] * right
        return self.scale[:, None] * torch.cholesky_solve(scaled, self.lower)

    def into_inverse(self) -> Tensor:
        """(S H S)⁻¹, (in_features, in_features). It takes the place of L, and the factor is of no more use."""
        return torch.cholesky_inverse(self.lower, out=self.lower)


def _scaled(moments: Tensor, scale: Tensor) -> Tensor:
    """S H S, whose diagonal is 1: the ridge of H = XᵀX + λI is in the scale."""
    scaled = moments * scale
    scaled.mul_(scale[:, None]).diagonal().fill_(1)
    return scaled


def factored(matrix: Tensor, check_errors: bool = False) -> tuple[Tensor, bool]:
    """L with L Lᵀ = `matrix`, in its place, and whether there is one.

    Args:
        matrix: symmetric, (size, size); its memory becomes the factor's.
        check_errors: raise `torch.linalg.LinAlgError` where there is none.
    """
    by_columns = matrix.mT  # as LAPACK wants it; the matrix is symmetric
    info = torch.empty((), dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(by_columns, check_errors=check_errors, out=(by_columns, info))
    return by_columns, info.item() == 0


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
        gram.complete()
        return gram

    def add(self, inputs: Tensor, target: Tensor) -> None:
        """Add tokens: inputs (tokens, in_features), target (tokens, out_features)."""
        self.add_inputs(inputs)
        exact = torch.bfloat16 if inputs.dtype == target.dtype == torch.bfloat16 else torch.float32
        with _products_of(exact):
            for tokens, goals in zip(inputs.split(TOKENS_AT_ONCE), target.split(TOKENS_AT_ONCE), strict=True):
                self.cross.addmm_(tokens.float().T, goals.float())
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
        return broadcast(self.fit(self.factor(damping, kept), weight, damping, kept))

    @torch.no_grad()
    def fit(self, factor: "Factor", weight: Tensor, damping: float, kept: Tensor | None = None) -> Tensor:
        """As `refit`, by the factor of the inputs that stay, all if `kept` is None; on each process its own."""
        cross, weight = (self.cross, weight) if kept is None else (self.cross[kept], weight[:, kept])
        return factor.solve(cross + self.ridge(damping) * weight.T.float()).T.float()

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


def _products_of(dtype: torch.dtype) -> AbstractContextManager[None]:
    """For float32 products of what was bfloat16: a CPU's units for that are used, which round nothing of it."""
    return _bfloat16_products() if dtype == torch.bfloat16 else nullcontext()


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
