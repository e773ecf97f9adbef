"""One step each: a model directory in, a model directory out, with a record of the work beside the weights.

With several processes all do the work and the first writes.

The single commands and the stages of a run both do their work here. Beside its result every step leaves
`command.txt`, the command that repeats it, and `run.log`.
"""

import copy
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.console import command_text
from secateur.data import check_texts, inputs_of, load_corpus, token_windows
from secateur.distributed import barrier, is_first
from secateur.errors import OptionError
from secateur.evaluation import perplexity
from secateur.exporting import ExportConfig, ExportResult, export, opening_in, require_exportable, require_quantiser
from secateur.files import claimed, expanded, require_free, require_new_file
from secateur.files.result_files import COMMAND, IMPORTANCE, LOG, PLAN, QUANTIZATION, STRATEGY
from secateur.handover import Figure, card_files
from secateur.handover.plain import without_places
from secateur.models import attach_adapter, find_model, load, save
from secateur.models.loading import load_settings, remember_checkpoint_dtype
from secateur.models.masks import masks_of_all_zeros
from secateur.models.zeros_record import RECORD, zeros_file
from secateur.pruning import LayerImportance, PruneConfig, PruneResult, prune
from secateur.quantization import QuantizeConfig, QuantizeResult, quantize
from secateur.recovery import MergeConfig, RecoverConfig, RecoverResult, merge_adapter, recover
from secateur.recovery.merging import require_ordinary
from secateur.recovery.workplace import Workplace
from secateur.report import pruning_strategy, sparsity_map
from secateur.runs.streamed_cuts import going_on, may_replace
from secateur.sparsity import SparsifyConfig, SparsifyResult, sparsify

logger = logging.getLogger(__name__)

MEASURED_SEQLEN = 512
ZEROS, ZEROS_MAP = RECORD, "sparsity.png"


def prune_model(
    name: str,
    output: Path,
    config: PruneConfig,
    *,
    command_line: str,
    overwrite: bool = False,
    layer_importance: LayerImportance | None = None,
    plan_name: str | None = None,
) -> PruneResult:
    """Load a model, prune it, save it with its plan and the plot of the plan.

    Args:
        name: a hub id, directory, `.gguf` file or `smollm2-135m`.
        output: the new model directory.
        config: what is cut.
        command_line: the command that repeats this.
        overwrite: replace what `output` holds.
        layer_importance: scores of the layers, where they are known already.
        plan_name: what the record calls the file of the plan; by default its path.

    Raises:
        SecateurError: what `load`, `prune` and `save` raise.
    """
    free = may_replace(output, PLAN, overwrite)
    texts = inputs_of(config.data, options=config)
    output = require_free(output, free, [name, *texts, config.layer_importance_file, config.plan, config.times_file])
    check_texts(config.data, options=config)
    with logged_work(output, command_line) as records:
        model, tokenizer = load(name, **config.load_arguments())
        records |= card_files("prune", name, model, output, command_line)
        inputs = [config.plan, config.layer_importance_file, config.times_file]
        with going_on(model, output, PLAN, config, overwrite, inputs) as work:
            result = prune(model, tokenizer, config, layer_importance=layer_importance, walks=work.walks)
            logger.debug(
                "%.2f%% of all parameters removed; calibrated on %s", 100 * result.plan.reached, result.plan.calibration
            )
            logger.debug("Seconds by phase: %s; peak memory %d bytes", result.seconds, result.peak_memory_bytes)
            if plan_name is not None:
                result.plan.settings["plan"] = plan_name
            files = result.files()
            files[STRATEGY] = pruning_strategy(files[PLAN], files.get(IMPORTANCE))
            work.finish()
            save(model, tokenizer, output, overwrite=free, extras={**files, **records})
    return result


def sparsify_model(
    name: str, output: Path, config: SparsifyConfig, *, command_line: str, overwrite: bool = False
) -> SparsifyResult:
    """Load a model, set weights to zero, save it with the map of its zeros. Arguments and errors as `prune_model`."""
    free = may_replace(output, ZEROS, overwrite)
    output = require_free(output, free, [name, *inputs_of(config.data, options=config)])
    if config.needs_text:
        check_texts(config.data, options=config)
    with logged_work(output, command_line) as records:
        model, tokenizer = load(name, **config.load_arguments())
        records |= card_files("sparsify", name, model, output, command_line)
        with going_on(model, output, ZEROS, config, overwrite, []) as work:
            result = sparsify(model, tokenizer, config, walks=work.walks)
            logger.debug(
                "%.2f%% of the weights are zero; calibrated on %s",
                100 * result.reached,
                result.calibration or "no text",
            )
            logger.debug("Seconds by phase: %s; peak memory %d bytes", result.seconds, result.peak_memory_bytes)
            zeros = {**result.to_dict(), **zeros_file(model).get(ZEROS, {})}  # with those that the model had before
            work.finish()
            files = {ZEROS: zeros, ZEROS_MAP: sparsity_map(zeros), **records}
            save(model, tokenizer, output, overwrite=free, extras=files)
    return result


def quantize_model(
    name: str, output: Path, config: QuantizeConfig, *, command_line: str, overwrite: bool = False
) -> QuantizeResult:
    """Load a model, round its weights, save it packed. Arguments and errors as `prune_model`."""
    free = may_replace(output, QUANTIZATION, overwrite)
    output = require_free(output, free, [name, *inputs_of(config.data, options=config)])
    check_texts(config.data, options=config)
    with logged_work(output, command_line) as records:
        model, tokenizer = load(name, **config.load_arguments())
        records |= card_files("quantize", name, model, output, command_line)
        with going_on(model, output, QUANTIZATION, config, overwrite, []) as work:
            result = quantize(model, tokenizer, config, walks=work.walks)
            logger.debug("%s; calibrated on %s", result.headline(), result.calibration)
            logger.debug("Seconds by phase: %s; peak memory %d bytes", result.seconds, result.peak_memory_bytes)
            work.finish()
            files = {**result.files(), **records}
            save(model, tokenizer, output, overwrite=free, extras=files)
    return result


def recover_model(
    name: str,
    output: Path,
    config: RecoverConfig,
    *,
    command_line: str,
    overwrite: bool = False,
    base_name: str | None = None,
) -> RecoverResult:
    """Load a model, fine-tune it, save the adapter or the model. Arguments and errors as `prune_model`.

    A training that was stopped goes on where it stopped. `base_name` is what an adapter calls its model; by default
    its path.
    """
    workplace = Workplace(expanded(output))
    free = overwrite or workplace.is_finished
    overwrite = overwrite or workplace.is_dropped  # of which nothing is left to go on from
    texts = inputs_of(config.data, *config.extra_eval, options=config)
    output = require_free(output, free, [name, *texts, config.teacher])
    check_texts(config.data, *config.extra_eval, options=config)
    with logged_work(output, command_line) as records:
        model, tokenizer = load(name, **config.load_arguments(), load_in_8bit=config.load_in_8bit)
        records |= card_files("recover", name, model, output, command_line)
        if base_name is not None:
            model.name_or_path = base_name
        return recover(model, tokenizer, output, config, overwrite=overwrite, extras=records)


def merge_model(
    name: str, output: Path, config: MergeConfig, *, command_line: str, overwrite: bool = False
) -> tuple[float, float] | None:
    """Load a model, add an adapter to its weights, save it. Arguments and errors as `prune_model`.

    Returns:
        Where a sparse model's zeros are kept, the perplexity with the adapter beside the weights and merged.
    """
    output = require_free(output, overwrite, [name, config.adapter, *inputs_of(config.data, options=config)])
    cost = None
    with logged_work(output, command_line) as records:
        model, tokenizer = _load_to_merge(name, config)
        require_ordinary(model, config.dequantize)
        figures: list[Figure] = []
        records |= card_files("merge", name, model, output, command_line, adapter=config.adapter, figures=figures)
        if config.said_zeros == "keep" and masks_of_all_zeros(model):
            corpus = load_corpus(config.data, "test", config)
            windows = token_windows(tokenizer, corpus, MEASURED_SEQLEN, limit=config.windows)
            beside = perplexity(attach_adapter(copy.deepcopy(model), config.adapter), windows)
            merged = merge_adapter(model, config.adapter, zeros="keep", dequantize=config.dequantize)
            cost = beside, perplexity(merged, windows)
            amount = f"{config.data}, {len(windows):,} windows of {MEASURED_SEQLEN:,} tokens"
            figures.append(
                Figure(
                    name="perplexity",
                    value=cost[1],
                    before=cost[0],
                    measured_on=without_places(amount),
                    metric="perplexity",
                    text=without_places(config.data),
                    compared="with the adapter beside the weights",
                )
            )
            logger.debug("Perplexity on %s: %.2f with the adapter beside the weights, %.2f merged", config.data, *cost)
        else:
            merged = merge_adapter(model, config.adapter, zeros=config.said_zeros, dequantize=config.dequantize)
        save(merged, tokenizer, output, overwrite=overwrite, extras=records)
    return cost


def export_model(name: str, output: Path, config: ExportConfig, *, overwrite: bool = False) -> ExportResult:
    """Load a model, add an adapter to its weights where one is given, write it for another engine.

    Args:
        name: a hub id, directory, `.gguf` file or `smollm2-135m`.
        output: the new file, or directory.
        config: how it is written.
        overwrite: replace `output`.

    Raises:
        SecateurError: what `load`, `merge_adapter` and `export` raise.
    """
    a_file = config.format == "gguf"
    if a_file:
        output = require_new_file(output, ".gguf", overwrite, [name, config.adapter])
    elif output.suffix == ".gguf":
        raise OptionError(f"{output} is the name of a GGUF file, and --format {config.format} writes a directory")
    else:
        output = require_free(output, overwrite, [name, config.adapter])
    with claimed(output, file=a_file):
        return _export(name, output, config, overwrite)


def _export(name: str, output: Path, config: ExportConfig, overwrite: bool) -> ExportResult:
    check_export(name, config, as_it_is=True)
    # In float32 everything that is stored keeps its value.
    model, tokenizer = load(name, dtype="float32", device="cpu", trust_remote_code=config.trust_remote_code)
    remember_checkpoint_dtype(model, find_model(name))
    command_line = command_text("secateur", "export", name, "-o", str(output), config=config)
    extras = card_files("export", name, model, output, command_line, adapter=config.adapter)
    if config.adapter is not None:
        model = merge_adapter(model, config.adapter, zeros=config.zeros, dequantize=True)
    config = config.model_copy(update={"adapter": None})
    return export(model, tokenizer, output, config, overwrite=overwrite, extras=extras)


def check_export(name: str, config: ExportConfig, *, as_it_is: bool) -> None:
    """Check without loading its weights whether a model can be exported, as it is or cut. Raises `ModelError`."""
    settings, tokenizer = load_settings(name, trust_remote_code=config.trust_remote_code)
    require_exportable(settings, tokenizer, config.format, as_it_is=as_it_is)
    if config.format == "gguf":
        require_quantiser(config.gguf_dtype)


def where_it_opens(directory: str | Path) -> str:
    """One line that says which engines open a model directory. Raises `ModelError` where its config is wrong."""
    return opening_in(Path(directory)).line


def _load_to_merge(name: str, config: MergeConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model to be added to: in float32 unless a format is asked for, and written in the format it came in."""
    if config.dtype != "auto":
        return load(name, **config.load_arguments())
    model, tokenizer = load(name, **{**config.load_arguments(), "dtype": "float32"})
    remember_checkpoint_dtype(model, find_model(name))
    return model, tokenizer


@contextmanager
def logged_work(output: Path, command_line: str) -> Iterator[dict[str, object]]:
    """Hold the place of a result and collect the log while the block runs.

    Yields:
        The files that record the work, for `save`: the command, and the log as it is when it is written.
    """
    barrier()  # so that none finds the result of a faster one where it looks for a free place
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("secateur")
    level = package.level
    package.setLevel(logging.DEBUG)
    package.addHandler(handler)
    try:
        with claimed(output) if is_first() else nullcontext():
            logger.debug(command_line)
            yield {COMMAND: command_line + "\n", LOG: text.getvalue}
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
    barrier()
