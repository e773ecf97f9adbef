"""Samples of text, for reading."""

from collections.abc import Sequence
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from secateur.console import track
from secateur.evaluation.modes import input_device, measuring
from secateur.models.lora import underlying
from secateur.models.modes import own_settings_aside


def generate_samples(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int = 60,
) -> list[str]:
    """The model's greedy continuation of each prompt.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: plain text; no chat template is put around it.
        max_new_tokens: length of a continuation, unless the model ends it earlier.

    Returns:
        One continuation per prompt, without the prompt.
    """
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )
    generator: Any = underlying(model)
    texts = []
    with measuring(model), own_settings_aside(generator):
        for prompt in track(prompts, "Samples of text"):
            encoded = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
            encoded = encoded.to(input_device(model))
            tokens = generator.generate(**encoded, generation_config=settings)  # (1, prompt + new)
            new_tokens = tokens[0, encoded["input_ids"].shape[1] :]
            texts.append(str(tokenizer.decode(new_tokens, skip_special_tokens=True)))
    return texts
