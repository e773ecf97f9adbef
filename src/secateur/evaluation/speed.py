"""Tokens per second and peak memory of generation."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from secateur.console import track
from secateur.errors import InputError
from secateur.evaluation.modes import input_device, measuring, weight_bytes, weight_of
from secateur.models.lora import underlying
from secateur.models.memory import give_back, now, peak_memory
from secateur.models.modes import cache_name

GPU_MEMORY = "allocated on the GPU"
PROCESS_MEMORY = "resident set of the process"


@dataclass(frozen=True)
class Speed:
    """How fast a model reads a prompt and writes an answer, batch size 1."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    peak_memory_bytes: int
    memory_measured: str


@dataclass
class _Rounds:
    """What the repeats of one model gave."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    peak_bytes: int = 0


def measure_speed(
    model: PreTrainedModel | PeftModel,
    *,
    prompt_tokens: int = 512,
    new_tokens: int = 32,
    repeats: int = 3,
    max_seconds: float = 30.0,
    seed: int = 0,
) -> Speed:
    """Measure one model; see `measure_speeds`."""
    return measure_speeds(
        [model],
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        max_seconds=max_seconds,
        seed=seed,
    )[0]


def measure_speeds(
    models: Sequence[PreTrainedModel | PeftModel],
    *,
    prompt_tokens: int = 512,
    new_tokens: int = 32,
    repeats: int = 3,
    max_seconds: float = 30.0,
    seed: int = 0,
) -> list[Speed]:
    """Measure prefill, greedy decoding with a KV cache, and peak memory, after one warm-up per model.

    The repeats of several models take turns, so that a machine that slows down does so for all of them.

    Args:
        models: causal language models, all in memory.
        prompt_tokens: length of the prompt, of random tokens.
        new_tokens: tokens decoded after it; an end token does not stop this.
        repeats: how often each model is measured; the medians are returned.
        max_seconds: no further repeat begins once so many seconds per model have passed.
        seed: seed of the prompt.

    Returns:
        One `Speed` per model. Prefill reads the prompt, fills the cache and gives the last token's logits.
        Peak memory is the most that PyTorch allocated on the model's GPUs, or on a CPU the largest resident
        set of the process, Python and libraries included, less the weights of the other models in `models`.

    Raises:
        InputError: a GPU's memory is too small for it.
    """
    rounds = [_Rounds() for _ in models]
    sizes = [weight_bytes(model) for model in models]
    prompts = [random_prompt(_vocabulary(model), prompt_tokens, seed).to(input_device(model)) for model in models]
    give_back()
    try:
        for model, prompt in zip(models, prompts, strict=True):
            _generate(model, prompt, min(new_tokens, 2))
        deadline = time.perf_counter() + max_seconds * len(models)
        for repeat in track(range(repeats), "speed"):
            if repeat and time.perf_counter() > deadline:
                break
            for model, prompt, measured in zip(models, prompts, rounds, strict=True):
                with peak_memory(model) as peak:
                    prefill_seconds, decode_seconds = _generate(model, prompt, new_tokens)
                measured.prefill.append(prompt_tokens / prefill_seconds)
                measured.decode.append(new_tokens / decode_seconds)
                measured.peak_bytes = max(measured.peak_bytes, peak.bytes)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"reading a prompt of {prompt_tokens} tokens does not fit in the GPU's memory; "
            "choose a shorter prompt or a smaller dtype, or measure without speed"
        ) from error
    return [
        Speed(
            prefill_tokens_per_second=statistics.median(measured.prefill),
            decode_tokens_per_second=statistics.median(measured.decode),
            peak_memory_bytes=measured.peak_bytes - (sum(sizes) - size),
            memory_measured=GPU_MEMORY if input_device(model).type == "cuda" else PROCESS_MEMORY,
        )
        for model, measured, size in zip(models, rounds, sizes, strict=True)
    ]


def random_prompt(vocabulary: int, prompt_tokens: int, seed: int) -> Tensor:
    """Random tokens, (1, tokens)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary, (1, prompt_tokens), generator=generator)


def _vocabulary(model: PreTrainedModel | PeftModel) -> int:
    return weight_of(underlying(model).get_input_embeddings()).shape[0]


def _generate(model: PreTrainedModel | PeftModel, prompt: Tensor, new_tokens: int) -> tuple[float, float]:
    """The seconds of prefill and of decoding `new_tokens` one by one. `prompt`: (1, tokens)."""
    cache = cache_name(underlying(model))
    with measuring(model):
        start = now(model)
        output = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        filled = now(model)
        for _ in range(new_tokens):
            token = output.logits[:, -1:].argmax(dim=-1).to(prompt.device)  # (1, 1)
            output = model(input_ids=token, **{cache: output[cache]}, use_cache=True, logits_to_keep=1)
        return filled - start, now(model) - filled
