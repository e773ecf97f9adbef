"""A prompt read with sparse attention, and what the model writes after it."""

import logging
import time
from dataclasses import asdict, dataclass
from typing import Any, Unpack

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from secateur.attention.config import GenerateConfig
from secateur.attention.hook import apply, remove
from secateur.attention.options import GenerateOptions
from secateur.attention.profile import AttentionProfile
from secateur.data.chat import own_templates, template_of
from secateur.errors import DataError, InputError, ModelError
from secateur.files import expanded
from secateur.models.checks import require_finite, require_in_memory
from secateur.models.context import longest_text, name_of
from secateur.models.modes import in_eval_mode, own_settings_aside
from secateur.models.options import configured, takes_options

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """The model's greedy continuation, and how long it took.

    Attributes:
        text: what it wrote.
        prompt_tokens: how many were read.
        new_tokens: how many were written.
        prefill_seconds: until the first new token.
        decode_seconds: for the others.
        sparsity: share of the blocks that reading left out, in layers that are sparse.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    prefill_seconds: float
    decode_seconds: float
    sparsity: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Clock(StoppingCriteria):
    """Notes when the first new token is there; it stops nothing."""

    def __init__(self) -> None:
        self.first = 0.0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **options: Any) -> Any:
        self.first = self.first or time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@takes_options(GenerateConfig)
@torch.no_grad()
@in_eval_mode
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    config: GenerateConfig | None = None,
    **options: Unpack[GenerateOptions],
) -> Written:
    """Write on after a prompt.

    The answer ends where the model's length does, at the latest.

    Args:
        model: a model of a supported family; it is left dense.
        tokenizer: its tokenizer.
        config: the prompt, and what is left out.
        options: fields of `GenerateConfig`, instead of `config` or over it.

    Raises:
        InputError: the profile is another model's, the prompt is longer than the model takes, or there is no chat
            template.
        DataError: the prompt cannot be read, or is empty.
        ModelError: weights are not finite or outside of memory.
    """
    config = configured(GenerateConfig, config, options)
    if tokenizer is None:
        raise InputError("tokenizer= is None; give the model's, to read the prompt with")
    require_in_memory(model)
    require_finite(model, "the model")
    prompt = _encoded(tokenizer, config).to(model.device)
    room = _room(model, prompt.shape[1])
    profile = AttentionProfile.load(expanded(config.profile)) if config.profile else None
    applied = apply(model, profile, backend=config.backend, **config.rule())
    generator: Any = model
    settings = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        cache_implementation="static" if config.compile else None,
        disable_compile=not config.compile,
        max_new_tokens=config.max_new_tokens if room is None else min(config.max_new_tokens, room),
    )
    clock = Clock()
    try:
        with own_settings_aside(model):
            start = time.perf_counter()
            tokens = generator.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=settings,
                stopping_criteria=[clock],
            )[0]
            end = time.perf_counter()
    finally:
        remove(model)
    if not applied.layers:
        logger.warning("The prompt is too short for sparse attention, and was read densely")
    new = tokens[prompt.shape[1] :]
    return Written(
        text=str(tokenizer.decode(new, skip_special_tokens=True)),
        prompt_tokens=prompt.shape[1],
        new_tokens=len(new),
        prefill_seconds=clock.first - start,
        decode_seconds=end - clock.first,
        sparsity=applied.sparsity,
    )


def _room(model: PreTrainedModel, tokens: int) -> int | None:
    """How long an answer to a prompt of so many tokens may be; None where the model does not say what it takes."""
    longest = longest_text(model)
    if longest is not None and tokens >= longest:
        raise InputError(
            f"the prompt has {tokens:,} tokens, and {name_of(model)} takes {longest:,} with the answer, by its config; "
            "give a shorter prompt, or a model that was made for more"
        )
    return None if longest is None else longest - tokens


def _encoded(tokenizer: PreTrainedTokenizerBase, config: GenerateConfig) -> torch.Tensor:
    """The prompt's tokens, (1, tokens)."""
    if config.prompt is not None:
        text = config.prompt
    else:
        try:
            text = expanded(config.prompt_file or "").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{config.prompt_file} cannot be read as text ({error}); give a UTF-8 text file") from error
    if not text.strip():
        raise DataError("the prompt is empty; give some text with --prompt or --prompt-file")
    if not config.chat and config.chat_template is None:
        return tokenizer(text, return_tensors="pt").input_ids
    if config.chat_template is None and not own_templates(tokenizer):
        raise InputError("this model's tokenizer has no chat template; leave out --chat")
    template = template_of(tokenizer, config.chat_template)
    try:
        asked = template.asking([{"role": "user", "content": text}])
    except DataError as error:
        # A template is a program that came with the model: whatever it does wrong is its own.
        raise ModelError(f"{error}; leave out --chat") from error
    return tokenizer(asked, add_special_tokens=False, return_tensors="pt").input_ids
