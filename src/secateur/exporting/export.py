"""A model and its tokenizer as what another engine reads: one GGUF file, or a directory."""

import importlib.metadata
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Unpack

import gguf
import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from secateur.console import track
from secateur.errors import InputError
from secateur.exporting import nemotron_nas
from secateur.exporting.config import ExportConfig, Format, NumberFormat
from secateur.exporting.ggml import WITHOUT_LIBRARY, library
from secateur.exporting.importance import Importance
from secateur.exporting.layout import Layout, embeddings, layout_of, require_carried
from secateur.exporting.metadata import write_shape
from secateur.exporting.number_formats import FORMATS, Chosen, formats_of, layer_of, size_in
from secateur.exporting.options import ExportOptions
from secateur.exporting.result import ExportResult, Fallback
from secateur.exporting.tensors import ROPE_FACTORS, Entry, encoded, entries
from secateur.exporting.vocabulary import Vocabulary, end_of_turn, read_vocabulary
from secateur.files import new_file
from secateur.models import count_parameters, layer_widths
from secateur.models.checks import require_finite, require_in_memory
from secateur.models.options import configured, takes_options

logger = logging.getLogger(__name__)


@takes_options(ExportConfig, hidden={"adapter", "zeros", "trust_remote_code"})
def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    config: ExportConfig | None = None,
    *,
    overwrite: bool = False,
    extras: Mapping[str, object] | None = None,
    **options: Unpack[ExportOptions],
) -> ExportResult:
    """Write a model as GGUF, for llama.cpp, or as a `nemotron-nas` directory, for vLLM, SGLang and mlx-lm.

    Args:
        model: a causal language model of a supported family, even or uneven, without an adapter.
        tokenizer: its tokenizer.
        path: the file, `….gguf`, or the directory. It appears whole or not at all.
        config: how it is written.
        overwrite: replace what is there.
        extras: more files for a directory, as in `secateur.save`.
        options: fields of `ExportConfig`, instead of `config` or over it: `dtype="q8_0"`, `format="nemotron-nas"`.

    Raises:
        InputError: an option is refused, an adapter stands beside the weights, or a package is missing.
        DataError: the calibration text is not there or shorter than one window.
        ModelError: the engine cannot run the model, or llama.cpp has no tokenizer that does the same.
        OutputError: it is there already or cannot be written.
    """
    config = configured(ExportConfig, config, options)
    if config.adapter is not None:
        raise InputError("adapter is for the command; in Python merge first: model = secateur.merge(model, directory)")
    if config.format == "nemotron-nas":
        return nemotron_nas.export(model, tokenizer, path, config.dtype, overwrite=overwrite, extras=extras)
    layout, dtype = layout_of(model), config.gguf_dtype
    require_quantiser(dtype)
    require_in_memory(model)
    require_finite(model, "the model")
    rows = embeddings(model).shape[0]
    vocabulary = read_vocabulary(tokenizer).resized(rows)
    parts = list(entries(model, layout))
    importance = None if config.data is None else Importance.of(model, tokenizer, config)
    chosen = formats_of(parts, layout, dtype, weighed=importance is not None)
    with new_file(path, ".gguf", overwrite) as file:
        writer = gguf.GGUFWriter(file, layout.graph.name)
        try:
            writer.add_string("secateur.version", importlib.metadata.version("secateur"))
            writer.add_name(_name_of(path))
            writer.add_file_type(FORMATS[dtype].file_type)
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            write_shape(writer, model.config, layout, rows, layer_widths(model))
            vocabulary.write(writer, end_of_turn(model, tokenizer))
            _write(writer, parts, chosen, importance)
        finally:
            writer.close()
        size = file.stat().st_size
    text = None if importance is None else importance.text
    return _result(model, layout, vocabulary, dtype, parts, chosen, size, text)


def require_quantiser(dtype: NumberFormat) -> None:
    """Check that what writes a format is installed. Raises `InputError`."""
    if FORMATS[dtype].base not in WITHOUT_LIBRARY:
        library()


def require_exportable(
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    export_format: Format = "gguf",
    *,
    as_it_is: bool = False,
) -> None:
    """Check without any weights whether a model can be exported.

    Args:
        as_it_is: whether its layers will have the widths that the config states, and not be cut before.

    Raises:
        ModelError: the engine cannot run the model, or llama.cpp has no tokenizer that does the same.
    """
    if export_format == "nemotron-nas":
        nemotron_nas.require_held(config)
        if as_it_is:
            nemotron_nas.require_held_widths(config)
        return
    require_carried(config)
    read_vocabulary(tokenizer).resized(config.vocab_size)


def _name_of(path: str | Path) -> str:
    """The file's name. Transformers takes a model of the name `mistral` for one of that architecture, and fails."""
    stem = Path(path).stem
    return "Mistral" if stem == "mistral" else stem


def _write(
    writer: gguf.GGUFWriter, parts: Sequence[Entry], chosen: Sequence[Chosen], importance: Importance | None
) -> None:
    """Header first, then one tensor after the other, so that no more than one is held."""
    weights = [None if importance is None else importance.of_part(part) for part in parts]
    if importance is not None:
        importance.write(writer, sum(each is not None for each in weights))
    for part, (kind, _) in zip(parts, chosen, strict=True):
        shape = gguf.quant_shape_to_byte_shape(part.shape, kind)
        writer.add_tensor_info(part.name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    given = zip(parts, chosen, weights, strict=True)
    for part, (kind, _), weight in track(given, "Writing", total=len(parts)):
        writer.write_tensor_data(encoded(part, kind, weight))


def _result(
    model: PreTrainedModel,
    layout: Layout,
    vocabulary: Vocabulary,
    dtype: NumberFormat,
    parts: Sequence[Entry],
    chosen: Sequence[Chosen],
    size: int,
    text: str | None,
) -> ExportResult:
    sizes: Counter[str] = Counter()
    for part, (kind, _) in zip(parts, chosen, strict=True):
        sizes[kind.name.lower()] += int(size_in(part, kind))
    result = ExportResult(
        format="gguf",
        architecture=layout.graph.name,
        per_layer=layout.per_layer,
        pre_tokenizer=vocabulary.pre,
        dtype=dtype,
        parameters=count_parameters(model),
        parameters_in_file=sum(math.prod(part.shape) for part in parts if part.name not in ROPE_FACTORS),
        bytes=size,
        tensors=dict(Counter(kind.name.lower() for kind, _ in chosen)),
        bytes_by_format=dict(sizes),
        fallbacks=_fallbacks(parts, chosen),
        calibration=text,
    )
    if layout.filled:
        logger.warning(
            "llama.cpp has no graph for this model's layers of different widths: they are filled up with zeros, and "
            "the file has %s parameters where the model has %s",
            f"{result.parameters_in_file:,}",
            f"{result.parameters:,}",
        )
    return result


def _fallbacks(parts: Sequence[Entry], chosen: Sequence[Chosen]) -> list[Fallback]:
    """What fell back from one format to another, the largest loss first."""
    fallen: dict[Chosen, list[Entry]] = {}
    for part, each in zip(parts, chosen, strict=True):
        if each.kind != each.wanted:
            fallen.setdefault(each, []).append(part)
    found = [
        Fallback(
            wanted=each.wanted.name.lower(),
            written=each.kind.name.lower(),
            columns=sorted({part.shape[-1] for part in those}),
            tensors=dict(Counter(_short(part.name) for part in those)),
            extra_bytes=round(sum(size_in(part, each.kind) - size_in(part, each.wanted) for part in those)),
        )
        for each, those in fallen.items()
    ]
    return sorted(found, key=lambda each: -each.extra_bytes)


def _short(name: str) -> str:
    """A tensor's name without its layer."""
    short = name.removesuffix(".weight")
    return short.removeprefix(f"blk.{layer_of(name)}.")
