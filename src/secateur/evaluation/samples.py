"""Samples of text, for reading."""

import logging
from collections.abc import Sequence
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from secateur.console import track
from secateur.data.chat import own_templates, template_of
from secateur.errors import DataError, InputError
from secateur.evaluation.modes import input_device, measuring
from secateur.models.lora import underlying
from secateur.models.modes import own_settings_aside

logger = logging.getLogger(__name__)


def generate_samples(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int = 60,
    chat: bool | None = None,
) -> list[str]:
    """The model's greedy answer to each prompt through its chat template, or where it has none its continuation.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: plain text.
        max_new_tokens: length of an answer, unless the model ends it earlier.
        chat: whether the prompts go through the chat template; None: as `takes_prompts` has it.

    Returns:
        One answer or continuation per prompt, without the prompt.
    """
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )
    generator: Any = underlying(model)
    texts = []
    asking = takes_prompts(tokenizer, prompts) if chat is None else chat
    with measuring(model), own_settings_aside(generator):
        for prompt in track(prompts, "Samples of text"):
            text = template_of(tokenizer, None).asking([{"role": "user", "content": prompt}]) if asking else prompt
            encoded = tokenizer(text, add_special_tokens=not asking, return_tensors="pt", return_token_type_ids=False)
            encoded = encoded.to(input_device(model))
            tokens = generator.generate(**encoded, generation_config=settings)  # (1, prompt + new)
            new_tokens = tokens[0, encoded["input_ids"].shape[1] :]
            texts.append(str(tokenizer.decode(new_tokens, skip_special_tokens=True)))
    return texts


def takes_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> bool:
    """Whether prompts can go through a model's chat template: it has one, which takes them all."""
    try:
        if not prompts or not own_templates(tokenizer):
            return False
        template = template_of(tokenizer, None)
        return all(template.asking([{"role": "user", "content": prompt}]) for prompt in prompts)
    except (DataError, InputError) as error:
        logger.warning("Samples are continuations, without the chat template: %s", error)
        return False
