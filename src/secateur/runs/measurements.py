"""Measuring the models of a run: perplexity and samples one by one, speeds of all in turns."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from secateur.data import load_corpus
from secateur.distributed import is_first
from secateur.evaluation import EvaluateConfig, compare_models, evaluate, generate_samples, size_on_disk
from secateur.evaluation.llama_cpp import evaluate_gguf
from secateur.evaluation.samples import takes_prompts
from secateur.models import attach_adapter, load
from secateur.models.loading import load_settings

AS_FILE = "exported"  # the last model as a file, in the engine that it is for
SPEED_FIGURES = (
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "peak_memory_bytes",
    "memory_measured",
)


@dataclass(frozen=True)
class Source:
    """A model of the run: its name in the table, where it is, and the adapter on it if that is not merged."""

    name: str
    model: str
    adapter: Path | None = None


def measure(source: Source, config: EvaluateConfig, prompts: list[str], max_new_tokens: int) -> dict[str, Any]:
    """Perplexity and samples of one model, with the identity of each text.

    Of several processes the first writes the samples.
    """
    model, tokenizer = load(source.model, **config.load_arguments())
    size = size_on_disk(source.model)
    measured: PreTrainedModel | PeftModel = model
    if source.adapter is not None:
        measured = attach_adapter(model, source.adapter)
        size += sum(file.stat().st_size for file in source.adapter.glob("*.safetensors"))
    evaluation = evaluate(measured, tokenizer, config, name=source.name, size_bytes=size, speed=False)
    prompts = prompts if is_first() else []
    chat = takes_prompts(tokenizer, prompts)
    continuations = generate_samples(measured, tokenizer, prompts, max_new_tokens, chat)
    corpora = [load_corpus(name, "test", config) for name in config.data]
    return {
        "evaluation": evaluation.to_dict(),
        "texts": [
            {
                "name": corpus.name,
                "source": corpus.source,
                "amount": amount_of(evaluation.windows[corpus.name], config.seqlen),
                "description": corpus.description,
            }
            for corpus in corpora
        ],
        "samples": [
            {"prompt": prompt, "continuation": text, "chat": chat}
            for prompt, text in zip(prompts, continuations, strict=True)
        ],
    }


def measure_exported(
    file: Path, record: Mapping[str, Any], source: Source, last: Mapping[str, Any], config: EvaluateConfig
) -> dict[str, Any]:
    """Perplexity and speed of a GGUF file in llama.cpp, without samples.

    Args:
        file: it.
        record: the export's figures.
        source: the model that was exported.
        last: that model's figures, of `measure`.
        config: what to measure; tasks are left out.
    """
    _, tokenizer = load_settings(source.model, trust_remote_code=config.trust_remote_code)
    kept = {name: last["evaluation"][name] for name in ("sparsity", "family")}
    evaluation = evaluate_gguf(
        file, tokenizer, config, name=AS_FILE, parameters=record["parameters"], dtype=record["dtype"], **kept
    )
    return {"evaluation": evaluation.to_dict(), "texts": last["texts"], "samples": []}


def measure_speeds(sources: list[Source], config: EvaluateConfig) -> list[dict[str, Any]]:
    """Tokens per second and peak memory of all models, taking turns where they fit into memory together."""
    adapter = next((str(source.adapter) for source in sources if source.adapter), None)
    names = [source.model for source in sources if source.adapter is None]
    # A single window: the perplexities are known.
    short = config.model_copy(update={"data": config.data[:1], "windows": 1, "tasks": [], "adapter": adapter})
    return [
        {figure: getattr(evaluation, figure) for figure in SPEED_FIGURES} for evaluation in compare_models(names, short)
    ]


def amount_of(count: int, seqlen: int) -> str:
    return f"{count:,} windows of {seqlen:,} tokens"
