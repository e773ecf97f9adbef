"""Saving a model as a Hugging Face directory that other programs load."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, modeling_utils

from secateur import files
from secateur.distributed import is_first
from secateur.errors import InputError
from secateur.models.adapters import adapter_of
from secateur.models.packed_config import quantization_config
from secateur.models.quiet import quiet
from secateur.models.rope_keys import add_older_rope_keys
from secateur.models.rounded import is_rounded, packed, rounded_linears
from secateur.models.streamed import read_kept, release, streamed
from secateur.models.widths import heads_make_up_hidden_size, is_uneven
from secateur.models.zeros_record import zeros_file
from secateur.progress import phase

MLX_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # whose uneven layers the file makes
MLX_FILE = Path(__file__).with_name("mlx_secateur.py")
STREAMED_SHARD = "1GB"  # a file is put together in memory


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    directory: str | Path,
    *,
    overwrite: bool = False,
    extras: Mapping[str, object] | None = None,
) -> Path:
    """Write a model directory: safetensors, config, tokenizer. It appears whole or not at all.

    With several processes only the first writes; the others go on at once.

    A model whose zeros secateur has made gets their record, `sparsity.json`, by which they are known when it is loaded.

    A model with uneven layers gets its modelling files beside the weights, so that it also loads where secateur is
    not installed (`trust_remote_code=True`): one for Transformers and what builds on it, and for some families one for
    mlx-lm.

    Args:
        model: the model. Its weights are written in their number format; those of a model that was loaded with
            `dtype="auto"`, in the format of the checkpoint it came from.
        tokenizer: its tokenizer, or None to write none.
        directory: where it goes.
        overwrite: replace what is there.
        extras: more files by name: text and bytes as they are, what a function returns, everything else as JSON.

    Raises:
        OutputError: the directory is in use or cannot be written.
    """
    if not is_first():
        return Path(directory)
    with phase(f"writing {directory}"), files.new_directory(directory, overwrite) as staging:
        with quiet():
            _save_weights(model, staging)
            add_older_rope_keys(staging)
            _add_mlx_file(model, staging)
            if tokenizer is not None:
                tokenizer.save_pretrained(staging)
        for name, content in {**zeros_file(model), **(extras or {})}.items():
            files.write_extra(staging / name, content)
    return Path(directory)


def _save_weights(model: PreTrainedModel, directory: Path) -> None:
    dtype = getattr(model, "checkpoint_dtype", model.dtype)
    if is_rounded(model):
        _save_packed(model, directory, dtype)
        return
    if dtype == model.dtype:
        if streamed(model):
            with _released_once_written(model):
                model.save_pretrained(directory, max_shard_size=STREAMED_SHARD)
        else:
            model.save_pretrained(directory)
        return
    model.save_pretrained(directory, state_dict=_converted(model, dtype))
    _add_to_config(directory, dtype=str(dtype).removeprefix("torch."))


def _save_packed(model: PreTrainedModel, directory: Path, dtype: torch.dtype) -> None:
    """Write rounded weights as compressed-tensors' `pack-quantized`, all others as they are."""
    state, kept = _converted(model, dtype), {}
    place = streamed(model)
    for name, linear in rounded_linears(model).items():
        tensors = packed(linear)
        if tensors is None:
            raise InputError(
                f"the weights of {name} have been changed since they were rounded, so they cannot be stored in "
                "so few bits; merge with --dequantize, or round the model again"
            )
        kept[name] = linear
        del state[f"{name}.weight"]
        if place is not None:
            file = place.directory / f"walk-packed-{len(kept):05}.safetensors"
            files.write_bytes(file, safetensors_bytes(tensors))
            tensors = read_kept(file)
            release(model, linear)
        state |= {f"{name}.{part}": tensor for part, tensor in tensors.items()}
    with _released_once_written(model) if place is not None else nullcontext():
        model.save_pretrained(directory, state_dict=state, max_shard_size=STREAMED_SHARD if place else "50GB")
    _add_to_config(directory, dtype=str(dtype).removeprefix("torch."), quantization_config=quantization_config(model))


def _converted(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights in a number format."""
    converted: dict[int, Tensor] = {}  # tied weights stay one tensor
    return {
        name: converted.setdefault(tensor.data_ptr(), tensor.to(dtype)) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }


def _add_to_config(directory: Path, **settings: object) -> None:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    files.write_json(directory / "config.json", {**config, **settings})


def _add_mlx_file(model: PreTrainedModel, directory: Path) -> None:
    uneven = is_uneven(model) and adapter_of(model).model_type in MLX_FAMILIES
    if uneven or (model.config.model_type == "qwen2" and not heads_make_up_hidden_size(model.config)):
        file = directory / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        shutil.copyfile(MLX_FILE, directory / MLX_FILE.name)
        files.write_json(file, {**config, "model_file": MLX_FILE.name})


@contextmanager
def _released_once_written(model: PreTrainedModel) -> Iterator[None]:
    """Let the weights of a streamed model leave memory as soon as Transformers has written the file they are in."""
    write = modeling_utils.safe_save_file

    def write_and_release(tensors: dict[str, Tensor], *arguments: Any, **options: Any) -> None:
        write(tensors, *arguments, **options)
        for tensor in tensors.values():
            release(model, tensor)

    modeling_utils.safe_save_file = write_and_release
    try:
        yield
    finally:
        modeling_utils.safe_save_file = write
