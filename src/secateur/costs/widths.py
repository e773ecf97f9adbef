"""Models of any widths with weights that mean nothing, to be timed: time does not depend on values."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from secateur.models.adapters import Adapter, adapter_for, adapter_of
from secateur.models.halves import PARTS
from secateur.models.modeling_secateur import auto_map_of, of_one_width, own_by_layer
from secateur.models.quiet import quiet
from secateur.models.widths import LISTS_BY_LAYER, LayerWidths, layer_widths, skipped, square_attention

BLOCK = 2**20  # random numbers; weights repeat them


def bare_model(config: PreTrainedConfig, layers: int | None = None) -> PreTrainedModel:
    """The uncut, stock model of a config without any weights, with all or the first few of its layers."""
    stock = _stock(config)
    if layers is not None and layers < stock.num_hidden_layers and not own_by_layer(stock):
        stock.num_hidden_layers = layers
        for name in LISTS_BY_LAYER:
            if getattr(stock, name, None) is not None:
                setattr(stock, name, getattr(stock, name)[:layers])
    return _built(stock)


def of_widths(bare: PreTrainedModel, widths: Sequence[LayerWidths]) -> PreTrainedModel:
    """A model without weights, like an uncut one but with these widths, layer by layer; 0 where a half is not there."""
    if list(widths) == layer_widths(bare):
        return bare
    adapter, own = adapter_of(bare), own_by_layer(bare.config)
    settings = copy.deepcopy(bare.config.to_dict())
    for name in ("model_type", "auto_map", "architectures", "per_layer_config"):
        settings.pop(name, None)
    config: Any = adapter.uneven_config(**settings)
    config.per_layer_config = {index: {**own.get(index, {}), **_said(width)} for index, width in enumerate(widths)}
    if own:
        config.use_double_wide_mlp = False
    halves = [adapter.half(layer, part) for layer in adapter.layers(bare) for part in PARTS]
    config.skipped_modules = {str(half.part): list(half.modules) for half in halves if half.names.divisible}
    if not any(map(skipped, widths)):
        config.skipped_modules = None
    square = square_attention(adapter)
    if square:
        config.square_attention = square
    config.auto_map = auto_map_of(adapter.uneven_config)
    return _built(config)


class Weights:
    """Numbers that the weights of several models are made of: those of the same name share them.

    Args:
        dtype: number format.
        device: where they are.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.block = (0.02 * torch.randn(BLOCK, generator=generator)).to(device, dtype)
        self.pools: dict[str, Tensor] = {}

    def fill(self, model: PreTrainedModel) -> PreTrainedModel:
        """Give a model without weights some, in place."""
        known: dict[int, nn.Parameter] = {}
        for prefix, module in model.named_modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    made = known.setdefault(id(weight), nn.Parameter(self._of(f"{prefix}.{name}", weight), False))
                    known[id(made)] = made
                    module._parameters[name] = made
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.ones_like(buffer, device=self.block.device)
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and value.is_meta:
                    vars(module)[name] = torch.ones_like(value, device=self.block.device)
        return model.eval()

    def _of(self, name: str, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return torch.ones(weight.shape, dtype=self.block.dtype, device=self.block.device)
        pool = self.pools.get(name)
        if pool is None or len(pool) < weight.numel():
            pool = self.block.repeat(-(-weight.numel() // BLOCK))
            self.pools[name] = pool
        return pool[: weight.numel()].view(weight.shape)


def _stock(config: PreTrainedConfig) -> Any:
    """The config of the family's own class, with the widths that its numbers for all layers say."""
    adapter: Adapter = adapter_for(config.model_type)
    even = of_one_width(config)
    if isinstance(even, adapter.stock_config) and type(even) is adapter.stock_config:
        return copy.deepcopy(even)
    settings: Mapping[str, Any] = even.to_dict()
    left = ("model_type", "auto_map", "architectures", "skipped_modules", "square_attention", "per_layer_config")
    return adapter.stock_config(**{name: value for name, value in settings.items() if name not in left})


def _built(config: PreTrainedConfig) -> PreTrainedModel:
    build = cast(Callable[..., PreTrainedModel], AutoModelForCausalLM.from_config)
    with quiet(), torch.device("meta"), no_init_weights():
        model = build(config)
        model.tie_weights()
    return model


def _said(width: LayerWidths) -> dict[str, Any]:
    there: dict[str, Any] = {name: value for name, value in vars(width).items() if value}
    return {**there, "skip": skipped(width)} if skipped(width) else there
