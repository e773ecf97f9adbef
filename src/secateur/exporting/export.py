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
from secateur.exporting.layout import Layout, embeddings, layout_of, require_carried
from secateur.exporting.metadata import write_shape
from secateur.exporting.options import ExportOptions
from secateur.exporting.result import ExportResult
from secateur.exporting.tensors import FORMATS, QUANT, ROPE_FACTORS, Entry, encoded, entries, format_of
from secateur.exporting.vocabulary import Vocabulary, read_vocabulary
from secateur.files import new_file
from secateur.models import count_parameters, layer_widths
from secateur.models.checks import require_finite, require_in_memory
from secateur.models.options import configured, takes_options

logger = logging.getLogger(__name__)

FILE_TYPES = {
    QUANT.F16: gguf.LlamaFileType.MOSTLY_F16,
    QUANT.BF16: gguf.LlamaFileType.MOSTLY_BF16,
    QUANT.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}


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
        InputError: an option is refused, or an adapter stands beside the weights.
        ModelError: the engine cannot run the model, or llama.cpp has no tokenizer that does the same.
        OutputError: it is there already or cannot be written.
    """
    config = configured(ExportConfig, config, options)
    if config.adapter is not None:
        raise InputError("adapter is for the command; in Python merge first: model = secateur.merge(model, directory)")
    if config.format == "nemotron-nas":
        return nemotron_nas.export(model, tokenizer, path, config.dtype, overwrite=overwrite, extras=extras)
    layout, dtype = layout_of(model), config.gguf_dtype
    require_in_memory(model)
    require_finite(model, "the model")
    rows = embeddings(model).shape[0]
    vocabulary = read_vocabulary(tokenizer).resized(rows)
    parts = list(entries(model, layout))
    kinds = [format_of(part, dtype) for part in parts]
    with new_file(path, ".gguf", overwrite) as file:
        writer = gguf.GGUFWriter(file, layout.graph.name)
        try:
            writer.add_string("secateur.version", importlib.metadata.version("secateur"))
            writer.add_name(_name_of(path))
            writer.add_file_type(FILE_TYPES[FORMATS[dtype]])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            write_shape(writer, model.config, layout, rows, layer_widths(model))
            vocabulary.write(writer)
            _write(writer, parts, kinds)
        finally:
            writer.close()
        size = file.stat().st_size
    return _result(model, layout, vocabulary, dtype, parts, kinds, size)


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


def _write(writer: gguf.GGUFWriter, parts: Sequence[Entry], kinds: Sequence[gguf.GGMLQuantizationType]) -> None:
    """Header first, then one tensor after the other, so that no more than one is held."""
    for part, kind in zip(parts, kinds, strict=True):
        shape = gguf.quant_shape_to_byte_shape(part.shape, kind)
        writer.add_tensor_info(part.name, shape, np.dtype(np.uint8), math.prod(shape), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for part, kind in track(zip(parts, kinds, strict=True), "Writing", total=len(parts)):
        writer.write_tensor_data(encoded(part, kind))


def _result(
    model: PreTrainedModel,
    layout: Layout,
    vocabulary: Vocabulary,
    dtype: NumberFormat,
    parts: Sequence[Entry],
    kinds: Sequence[gguf.GGMLQuantizationType],
    size: int,
) -> ExportResult:
    result = ExportResult(
        format="gguf",
        architecture=layout.graph.name,
        per_layer=layout.per_layer,
        pre_tokenizer=vocabulary.pre,
        dtype=dtype,
        parameters=count_parameters(model),
        parameters_in_file=sum(math.prod(part.shape) for part in parts if part.name not in ROPE_FACTORS),
        bytes=size,
        tensors=dict(Counter(kind.name.lower() for kind in kinds)),
    )
    if layout.filled:
        logger.warning(
            "llama.cpp has no graph for this model's layers of different widths: they are filled up with zeros, and "
            "the file has %s parameters where the model has %s",
            f"{result.parameters_in_file:,}",
            f"{result.parameters:,}",
        )
    return result
