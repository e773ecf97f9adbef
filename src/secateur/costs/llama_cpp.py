"""Timing a ladder of widths in llama.cpp: GGUF files of models whose weights mean nothing, run by xllamacpp."""

import importlib.metadata
import json
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.costs.times import Place, WidthTimes
from secateur.costs.timing import Decoders, Key, ladder_of, models_of, time_widths
from secateur.costs.widths import Weights, of_widths
from secateur.errors import InputError, ModelError
from secateur.exporting.config import NumberFormat
from secateur.exporting.export import export
from secateur.exporting.layout import layout_of
from secateur.models.widths import LayerWidths, count_parameters, layer_widths

FORMATS = {None: "f16", 16: "f16", 8: "q8_0", 4: "q4_k_m"}
PACKAGE = "xllamacpp"
ANSWER_SECONDS = 600
MOST_BYTES = 1e8  # of the timed layers' weights: each model is a file
SPARE = 1.2  # of the files' size, on the disk


def version() -> str:
    """Of the package that brings llama.cpp. Raises `InputError` where it is not installed."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError("times in llama.cpp need a package; run: pip install 'secateur[gguf]'") from error


def number_format(bits: int | None) -> str:
    """The GGUF format of weights in so many bits. Raises `InputError` where the export has none."""
    name = FORMATS[bits]
    if name not in get_args(NumberFormat):
        raise InputError(f"the export to GGUF has no format of {bits} bits; give --bits 8 or 16 to --engine llama.cpp")
    return name


def measured(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, place: Place) -> WidthTimes:
    """The times of a model's widths in llama.cpp.

    Raises:
        InputError: its graph of the family takes one width for all layers, or the disk has no room.
        ModelError: llama.cpp cannot run the family.
    """
    if tokenizer is None:
        raise InputError("times in llama.cpp need the model's tokenizer")
    without_halves = _carries(model, absent=True)
    if not without_halves and not _carries(model, absent=False):
        raise InputError(
            "llama.cpp has no graph for this family's layers of different widths, so that a narrower layer is not "
            "faster there; give --engine transformers, or cut all layers alike by --ratio and --even"
        )
    ladder = ladder_of(model, 2, without_halves, MOST_BYTES)
    with tempfile.TemporaryDirectory(prefix="secateur-") as directory:
        models = dict(models_of(ladder))
        needed = SPARE * 2 * sum(map(count_parameters, models.values()))
        if needed > shutil.disk_usage(directory).free:
            raise InputError(f"{directory} has no room for {needed / 1e9:.1f} GB of files to time; set TMPDIR")
        decoders = LlamaCppDecoders(models, tokenizer, Path(directory), place)
        return time_widths(ladder, place, decoders)


def _carries(model: PreTrainedModel, absent: bool) -> bool:
    """Whether llama.cpp runs a layer that is narrower than others, or lacks an MLP, as it is."""
    ladder = ladder_of(model, 2)
    full = layer_widths(ladder.bare)
    last: LayerWidths = replace(full[-1], intermediate_size=0 if absent else full[-1].intermediate_size // 2)
    try:
        bare = of_widths(ladder.bare, [*full[:-1], last])
        return not layout_of(Weights(torch.bfloat16, torch.device("cpu")).fill(bare)).filled
    except ModelError:
        return False


class LlamaCppDecoders(AbstractContextManager[Decoders]):
    """Models in llama.cpp, each as a file in a directory.

    Args:
        models: without weights.
        tokenizer: theirs.
        directory: for the files.
        place: number format, threads and context.
    """

    def __init__(
        self,
        models: Mapping[Key, PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        directory: Path,
        place: Place,
    ) -> None:
        self.models, self.tokenizer, self.directory, self.place = models, tokenizer, directory, place
        self.servers: list[Any] = []

    def __enter__(self) -> Decoders:
        weights, decoders = Weights(torch.bfloat16, torch.device("cpu")), {}
        for number, (key, bare) in enumerate(self.models.items()):
            file = self.directory / f"{number}.gguf"
            export(weights.fill(bare), self.tokenizer, file, dtype=cast(NumberFormat, self.place.dtype))
            decoders[key] = self._decoder(file)
        return decoders

    def __exit__(self, *_: object) -> None:
        self.servers.clear()

    def _decoder(self, file: Path) -> Callable[[int], float]:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel = self.place.context + 64, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.place.threads
        params.warmup, params.verbosity = False, 0
        server = xllamacpp.Server(params)
        self.servers.append(server)
        prompt = [1000 % len(self.tokenizer)] * self.place.context

        def decode(tokens: int) -> float:
            # The prompt is the same each time, so that its keys and values are there from the second time on.
            body = {"prompt": prompt, "n_predict": tokens + 1, "temperature": 0, "ignore_eos": True}
            request = urllib.request.Request(
                f"{server.listening_address}/completion",
                json.dumps({**body, "cache_prompt": True}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                milliseconds = json.load(answer)["timings"]["predicted_ms"]
            # The server's clock starts when the first token is there, which reading the prompt gave.
            return milliseconds / 1000 / tokens

        return decode
