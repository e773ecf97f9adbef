"""Adapters on a model: wrapping its projections, putting a saved adapter beside them, and merging it."""

import contextlib
import copy
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import (
    AdaLoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.files import expanded
from secateur.models.checks import require_in_memory
from secateur.models.saved_adapters import (
    CONFIG,
    MERGE_ELSEWHERE,
    NEED_VALUES,
    WEIGHTS,
    WRONG_CONFIG,
    SavedAdapter,
    first_line,
    of_text_model,
    read_adapter,
)

logger = logging.getLogger(__name__)

ADAPTER = "default"
PREFIX = "base_model.model."


def underlying(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The Transformers model, with the adapter's layers in place where PEFT wraps it."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def wrap(model: PreTrainedModel, settings: PeftConfig) -> PeftModel:
    """PEFT's model around this one, without its warnings. Raises `ValueError` where the settings do not fit."""
    with warnings.catch_warnings():
        # PEFT asks Transformers for attributes under names that 5.23 has given up.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path`")
        adapted = get_peft_model(model, settings, adapter_name=ADAPTER, autocast_adapter_dtype=True)
    assert isinstance(adapted, PeftModel)
    return adapted


def attach_adapter(model: PreTrainedModel, adapter: str | Path, *, to_merge: bool = False) -> PeftModel:
    """Put a saved adapter beside the weights of its model, in place. Nothing is merged.

    Args:
        model: the model that the adapter was trained on, or the text model of a multimodal one that it was trained on.
        adapter: a directory with `adapter_config.json` and `adapter_model.safetensors`.
        to_merge: refuse as well what `merged` cannot merge.

    Raises:
        ModelError: the directory holds no adapter, a damaged or pickled one, one of a kind that is not supported, or
            one of another model; or Accelerate holds weights of the model on the host or on disk. The model is then
            left as it was.
    """
    saved = read_adapter(expanded(adapter))
    if not any("language_model" in name for name, _ in model.named_modules()):
        saved = of_text_model(saved)
    require_in_memory(model)
    with _without_warnings():
        _try(model, saved, to_merge)
        adapted = wrap(model, saved.config)
        set_peft_model_state_dict(adapted, dict(saved.weights))
    return adapted.eval()


def merged(adapted: PeftModel) -> PreTrainedModel:
    """Make an adapter part of the weights of its model, which is changed in place.

    Tied embeddings of which the adapter has changed one, or each differently, are tied no longer: two weights, and
    `tie_word_embeddings` false in the config.

    Args:
        adapted: what `attach_adapter` gave.

    Returns:
        The model, without adapter layers, in the number format that it had.
    """
    base = underlying(adapted)
    dtype = next(weight for name, weight in base.named_parameters() if "layers." in name).dtype
    was_tied, together = (
        base.config.tie_word_embeddings,
        getattr(adapted.peft_config[ADAPTER], "ensure_weight_tying", False),
    )
    _untie(base)
    with _without_warnings():
        model = cast(PreTrainedModel, adapted.merge_and_unload())
    for weight in model.parameters():
        if weight.dtype != dtype and weight.is_floating_point():
            weight.data = weight.data.to(dtype)  # PEFT trains whole modules in float32
    if was_tied:
        _tie_again(model, together)
    return model


def _try(model: PreTrainedModel, saved: SavedAdapter, to_merge: bool) -> None:
    """Put the adapter on a model of the same shapes without values. Raises `ModelError` where that fails."""
    settings = copy.deepcopy(saved.config)
    if hasattr(settings, "init_lora_weights"):
        settings.init_lora_weights = True
    skeleton = copy.deepcopy(model) if saved.config.peft_type in NEED_VALUES else _skeleton(model)
    try:
        adapted = wrap(skeleton, settings)
        if isinstance(settings, AdaLoraConfig) and settings.rank_pattern:
            adapted.resize_modules_by_rank_pattern(settings.rank_pattern, ADAPTER)
        wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    except (*WRONG_CONFIG, re.error) as error:
        raise ModelError(f"the adapter {saved.directory} does not fit the model: {first_line(error)}") from error
    _check_scales(adapted, saved)
    _check_weights(model, saved, wanted, _embeddings(adapted))
    if to_merge:
        try:
            adapted.merge_and_unload()
        except WRONG_CONFIG as error:
            raise ModelError(
                f"the adapter {saved.directory} cannot be merged: {first_line(error)}; evaluate --adapter measures it "
                f"unmerged, or {MERGE_ELSEWHERE}"
            ) from error


def _skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model whose weights have shapes and no values, and which Accelerate does not look after."""
    shared: dict[int, Any] = {
        id(weight): nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
        for weight in model.parameters()
    }
    shared.update({id(buffer): torch.empty_like(buffer, device="meta") for buffer in model.buffers()})
    hooks = [module.__dict__["_hf_hook"] for module in model.modules() if "_hf_hook" in module.__dict__]
    skeleton = copy.deepcopy(model, {**shared, **{id(hook): hook for hook in hooks}})
    for module in skeleton.modules():
        for name in ("_hf_hook", "_old_forward", "forward"):
            module.__dict__.pop(name, None)
    return skeleton


def _is_elsewhere(model: PreTrainedModel, name: str) -> bool:
    """Whether an adapter's weight is of a module that the model has not."""
    modules, path = dict(model.named_modules()), ""
    for part in name.removeprefix(PREFIX).split("."):
        below = f"{path}.{part}" if path else part
        if below not in modules:
            break
        path = below
    # What follows the name of a projection is the adapter's own; layers and blocks have nothing of that kind.
    return not path or any(True for _ in modules[path].children())


def _module_path(name: str) -> str:
    """The module that an adapter's weight is of, by its name alone."""
    return re.split(r"\.(?:lora_|base_layer|weight$|bias$)", name.removeprefix(PREFIX))[0]


def _check_scales(adapted: PeftModel, saved: SavedAdapter) -> None:
    """What an adapter adds is multiplied by a number, lora_alpha / r for LoRA, in 32 bits."""
    for module in adapted.modules():
        scales = getattr(module, "scaling", None)
        scale = scales.get(ADAPTER) if isinstance(scales, dict) else None
        if isinstance(scale, int | float) and not abs(scale) <= torch.finfo(torch.float32).max:
            raise ModelError(
                f"{saved.directory / CONFIG} scales the adapter by {scale:g} (lora_alpha, alpha_pattern), which no "
                "weight can hold; restore it from its source"
            )


def _check_weights(
    model: PreTrainedModel, saved: SavedAdapter, wanted: Mapping[str, Tensor], embeddings: Mapping[str, Tensor]
) -> None:
    """The adapter's weights must be those that its config asks for on this model, with the same shapes."""
    another = f"the adapter {saved.directory} is of another model"
    for name, weight in saved.weights.items():
        place = wanted.get(name, embeddings.get(name))
        if place is None and _is_elsewhere(model, name):
            raise ModelError(
                f"{another}: this one has no projection {_module_path(name)}; use the model it was trained on"
            )
        if place is None:
            raise ModelError(f"{saved.directory / WEIGHTS} holds {name}, which its {CONFIG} does not ask for")
        if place.shape == weight.shape:
            continue
        path, _, factor = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        side = {"lora_A": 1, "lora_B": 0, "lora_embedding_A": 1, "lora_embedding_B": 0}.get(factor)
        if side is not None and weight.dim() == 2 and weight.shape[side] != place.shape[side]:
            raise ModelError(
                f"{another}: its {factor} of {path} is for a width of {weight.shape[side]} and the model has "
                f"{place.shape[side]}; use the model it was trained on"
            )
        raise ModelError(
            f"{another}, or damaged: its {name.removeprefix(PREFIX)} is {tuple(weight.shape)}, and this model with its "
            f"{CONFIG} asks for {tuple(place.shape)}"
        )
    absent = set(wanted) - set(saved.weights)
    if absent:
        raise ModelError(f"{another}: it lacks {min(absent)}; use the model it was trained on")


def _embeddings(adapted: PeftModel) -> dict[str, Tensor]:
    """The embeddings' own weights, which PEFT stores with an adapter of them, by their names there."""
    base = underlying(adapted)
    own = {id(_plain(module).weight) for module in (base.get_input_embeddings(), base.get_output_embeddings())}
    return {name: weight for name, weight in adapted.named_parameters(remove_duplicate=False) if id(weight) in own}


def _untie(base: PreTrainedModel) -> None:
    """Give the head a weight of its own where the adapter changes it or the input embeddings.

    PEFT adds what is for one of them to the weight that both share.
    """
    inputs, outputs = base.get_input_embeddings(), base.get_output_embeddings()
    own = _plain(outputs)
    adapted = inputs is not _plain(inputs) or outputs is not own
    if adapted and own.weight is _plain(inputs).weight:
        own.weight = nn.Parameter(own.weight.detach().clone(), requires_grad=False)


def _tie_again(model: PreTrainedModel, together: bool) -> None:
    """Tie embeddings that were so before and are still equal; else say in the config that there are two."""
    inputs, outputs = _plain(model.get_input_embeddings()), _plain(model.get_output_embeddings())
    one, other = inputs.weight, outputs.weight
    equal = one is other or torch.equal(one, other) or (together and torch.allclose(one, other, rtol=1e-3, atol=1e-5))
    model.config.tie_word_embeddings = equal
    if equal:
        outputs.weight = one
    else:
        model.all_tied_weights_keys = {}
        logger.info("The adapter has changed the tied embeddings apart: the merged model holds two")


def _plain(module: nn.Module) -> nn.Embedding | nn.Linear:
    """An embedding without the adapter's layers around it."""
    while isinstance(module, AuxiliaryTrainingWrapper | BaseTunerLayer):
        module = module.original_module if isinstance(module, AuxiliaryTrainingWrapper) else module.get_base_layer()
    return cast(nn.Linear, module)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Without PEFT's warnings: of ties, resized embeddings and unused settings, which are looked after here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
