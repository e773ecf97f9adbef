"""Whether the table of a family from outside says what the family's classes do: tried on a small model of them.

A name that is wrong would end a command somewhere in its middle, and a norm that is left out would end none: the cut
would only be a bad one.
"""

import inspect
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.models.halves import PARTS, Half, HalfNames, Rows
from secateur.models.json_file import one_line
from secateur.models.quiet import quiet

if TYPE_CHECKING:
    from secateur.models.adapters import Adapter

logger = logging.getLogger(__name__)

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOKENS = 9
TOLERANCE = 1e-4


def check_table(adapter: "Adapter") -> None:
    """Compare the table of a family with a small model of the family's classes.

    Where the classes make no model of such widths, the log says so and nothing is compared.

    Raises:
        ModelError: the table names what is not there, or a layer does something else than its halves say.
    """
    try:
        complaint = next(_of_the_table(adapter), None)
        model = None if complaint else _small_model(adapter)
        if model is not None:
            complaint = next(_complaints(adapter, model), None)
    except ModelError:
        raise
    except Exception as error:
        complaint = f"its names do not fit the classes of the family ({one_line(error)})"
        raise _wrong(adapter, complaint) from error
    if complaint is not None:
        raise _wrong(adapter, complaint)


def _wrong(adapter: "Adapter", complaint: str) -> ModelError:
    return ModelError(
        f"the table of the family {adapter.model_type} (its secateur.models.Adapter) is wrong: {complaint}"
    )


def _of_the_table(adapter: "Adapter") -> Iterator[str]:
    """What is wrong whatever the classes are."""
    if not isinstance(adapter.halves, tuple) or not all(isinstance(names, HalfNames) for names in adapter.halves):
        yield "halves is no tuple of HalfNames"
        return
    for part in PARTS:
        if all(names.part != part for names in adapter.halves):
            yield f"none of its halves has the part '{part}'"
    for names in adapter.halves:
        for name, blocks in names.inputs.items():
            known = [row for row in get_args(Rows) if (row == "channel") == (names.part == "mlp")]
            if not isinstance(blocks, tuple) or not set(blocks) <= set(known):
                yield f"the rows of {name} are {blocks!r}, and those of an {names.part} are a tuple of {known}"


def _small_model(adapter: "Adapter") -> PreTrainedModel | None:
    """A random model of the family in which no two norms are the same."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(0)
        try:
            config = adapter.stock_config(**SMALL)  # type: ignore[arg-type]
            model = adapter.stock_model(config).float().eval()
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 whatever the classes of another package raise
            why = one_line(error)
            logger.warning("The table of %s is not checked: no small model can be made (%s)", adapter.model_type, why)
            return None
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(weight + 0.3 * torch.randn_like(weight))
    return model


def _complaints(adapter: "Adapter", model: PreTrainedModel) -> Iterator[str]:
    body = _found(model, adapter.body_name)
    if not isinstance(body, nn.Module):
        yield f"the model has no module {adapter.body_name!r} (body_name)"
        return
    if not isinstance(_found(body, adapter.layers_name), nn.ModuleList):
        yield f"the decoder has no list of modules {adapter.layers_name!r} (layers_name)"
        return
    for field, name in (("final_norm_name", adapter.final_norm_name), ("rotary_name", adapter.rotary_name)):
        if name is not None and not isinstance(_found(body, name), nn.Module):
            yield f"the decoder has no module {name!r} ({field})"
    for index, layer in enumerate(adapter.layers(model)):
        for names in adapter.halves:
            if names.is_of(layer):
                yield from (f"layer {index}: {wrong}" for wrong in _of_names(names, layer))
        for part in PARTS:
            yield from (f"layer {index}: {wrong}" for wrong in _of_sizes(adapter.half(layer, part)))
    yield from _of_what_it_computes(adapter, model)


def _found(owner: object, path: str) -> object:
    """What an attribute, or one of an attribute, is; None where there is none."""
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner


def _of_names(names: HalfNames, layer: nn.Module) -> Iterator[str]:
    """What a half names and a layer does not have."""
    for norm in names.norms:
        if not isinstance(getattr(layer, norm, None), nn.Module):
            yield f"the layer has no norm {norm!r}"
    attributes = [names.multiplier, names.parallel if isinstance(names.parallel, str) else None]
    for name in filter(None, attributes):
        if not hasattr(layer, name):
            yield f"the layer has no {name!r}"
    mixer: Any = getattr(layer, names.mixer)
    for name in (*names.inputs, names.output):
        projection = getattr(mixer, name, None)
        absent = projection is None and hasattr(mixer, name) and name != names.output
        if not absent and not isinstance(projection, nn.Linear):
            yield f"{names.mixer} has no linear projection {name!r}"
    for norm in names.whole_norms or ():
        if not isinstance(getattr(mixer, norm, None), nn.Module):
            yield f"{names.mixer} has no norm {norm!r}"
    if names.divisible and names.part == "attention" and not isinstance(getattr(mixer, names.head_dim, None), int):
        yield f"{names.mixer} has no number {names.head_dim!r} (head_dim)"
    others = [name for name, module in mixer.named_children() if isinstance(module, nn.Linear)]
    unnamed = [name for name in others if name not in (*names.inputs, names.output)]
    if names.divisible and unnamed:
        yield f"{names.mixer} has a projection {unnamed[0]!r} that is not named"


def _of_sizes(half: Half) -> Iterator[str]:
    """Rows of projections that are not what the table calls them."""
    if not half.names.divisible:
        return
    if half.part == "mlp":
        size = {name: half.units * len(half.names.inputs[name]) for name in half.inputs}
    else:
        heads = half.output.in_features // half.head_dim
        if not half.units or heads % half.units:
            yield f"{half.names.mixer} has {heads} heads by {half.names.output}, and {half.units} groups by its inputs"
            return
        rows = {name: [half.rows_per_unit(block) for block in half.names.inputs[name]] for name in half.inputs}
        size = {name: half.units * sum(blocks) for name, blocks in rows.items()}
    for name, linear in half.inputs.items():
        if linear.out_features != size[name]:
            blocks = ", ".join(half.names.inputs[name])
            yield f"{name} has {linear.out_features} rows, and {blocks} would be {size[name]}"


@torch.no_grad()
def _of_what_it_computes(adapter: "Adapter", model: PreTrainedModel) -> Iterator[str]:
    """Layers that give something else than their halves one after the other."""
    from secateur.models.adapters import head_by

    layers, seen = adapter.layers(model), []

    def note(layer: nn.Module, given: tuple[Any, ...], arguments: dict[str, Any], output: Any) -> None:
        names = list(inspect.signature(layer.forward).parameters)
        arguments = {**dict(zip(names, given, strict=False)), **arguments}
        hidden = arguments.pop(names[0])
        seen.append((layer, hidden, arguments, output[0] if isinstance(output, tuple) else output))

    handles = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    tokens = torch.arange(3, 3 + TOKENS)[None]
    logits = model(tokens, use_cache=False).logits
    for handle in handles:
        handle.remove()
    for index, (layer, hidden, arguments, output) in enumerate(seen):
        if index == 0 and not _close(adapter.embed(model, tokens), hidden):
            yield "what it makes of tokens is not what the first layer is given (embedding_multiplier)"
        of_tokens = {} if adapter.of_tokens is None else adapter.of_tokens(adapter.body(model), tokens, index)
        if any(name not in arguments or not _close(value, arguments[name]) for name, value in of_tokens.items()):
            yield f"of_tokens gives layer {index} something else than the decoder does"
        stream = hidden
        for half in (adapter.half(layer, part) for part in PARTS):
            stream = half.run(stream, arguments, hidden if half.is_parallel else None)
        if adapter.end is not None:
            stream = adapter.end(layer, stream, arguments)
        if not _close(stream, output):
            yield (
                f"layer {index} gives something else than its halves say: look at norm, norm_after, multiplier, "
                "parallel, arguments and end"
            )
    if not _close(head_by(adapter, model)(adapter.final_norm(model)(seen[-1][3])), logits):
        yield "its logits are not what the table says: look at final_norm_name and the factors of logits"


def _close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)
