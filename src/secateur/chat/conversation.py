"""One conversation with one model: what was said, and the next answer word by word."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from secateur.chat.config import ChatConfig
from secateur.data.chat import Template, own_templates, template_of
from secateur.errors import DataError, InputError, ModelError
from secateur.evaluation.modes import input_device, measuring
from secateur.files.input_text import shortened
from secateur.models.context import longest_text
from secateur.models.lora import underlying
from secateur.models.modes import own_settings_aside

Show = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What a model has said.

    Attributes:
        text: of it.
        tokens: how many.
        seconds: from the first token to the last; the whole time where there is one token.
        stopped: whether the user stopped it.
    """

    text: str
    tokens: int
    seconds: float
    stopped: bool = False

    @property
    def tokens_per_second(self) -> float:
        """Once the text before is read."""
        return max(self.tokens - 1, 1) / max(self.seconds, 1e-9) if self.tokens else 0.0


@dataclass
class Conversation:
    """A model, and what was said with it so far.

    Attributes:
        name: what the terminal calls the model.
        model: the model.
        tokenizer: its tokenizer.
        config: how it answers.
        messages: `role` and `content`, in order; of a model without a chat template one text.
        turns: answers given.
        template: what the messages are written in; None: the model continues the text.

    Raises:
        InputError: there is no such template, or none for a system message.
    """

    name: str
    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    config: ChatConfig
    messages: list[dict[str, str]] = field(default_factory=list)
    turns: int = 0
    template: Template | None = field(init=False)

    def __post_init__(self) -> None:
        self.template = self._template()
        if not self.has_template and self.config.system is not None:
            raise InputError(f"{self.name} has no chat template, which --system needs; leave it out")
        self.reset()

    @property
    def has_template(self) -> bool:
        """Whether the model was made for talking; otherwise it continues the text."""
        return self.template is not None

    def _template(self) -> Template | None:
        if self.config.chat_template is None and not own_templates(self.tokenizer):
            return None
        try:
            return template_of(self.tokenizer, self.config.chat_template)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error

    @property
    def longest(self) -> int | None:
        """Tokens that the model takes; None where it does not say."""
        return longest_text(underlying(self.model))

    def reset(self) -> None:
        """Forget what was said, but for the system message."""
        system = self.config.system
        self.messages = [] if system is None else [{"role": "system", "content": system}]

    def reply(self, text: str, show: Show = lambda piece: None) -> Answer:
        """Say something, and have the model's answer.

        Args:
            text: what is said.
            show: is given the answer piece by piece while it is made.

        Returns:
            The answer, which is part of the history from now on; the part of it that is there, where the user
            interrupts.

        Raises:
            InputError: the text is longer than the model takes, or its template does not take such a conversation.
        """
        if not text.isascii() and text.encode(errors="replace").decode() != text:
            raise InputError("that is no text: it has bytes that are not UTF-8; say it otherwise")
        before = list(self.messages)
        self.messages.append({"role": "user", "content": text})
        try:
            answer = self._generate(self._fitting(), show)
        except BaseException:
            self.messages = before
            raise
        self.messages.append({"role": "assistant", "content": answer.text})
        self.turns += 1
        return answer

    def _fitting(self) -> Tensor:
        """Token ids of the conversation, (1, tokens); its oldest exchanges are forgotten where it is too long."""
        longest = self.longest
        while True:
            tokens = self._encoded()
            if longest is None or tokens.shape[1] + min(self.config.max_new_tokens, longest // 2) <= longest:
                return tokens
            said = [index for index, message in enumerate(self.messages) if message["role"] != "system"]
            if len(said) < 3:
                raise InputError(
                    f"{tokens.shape[1]:,} tokens and an answer are more than the {longest:,} that {self.name} takes; "
                    "say less, or pass a smaller --max-new-tokens"
                )
            del self.messages[said[0] : said[2]]

    def _encoded(self) -> Tensor:
        if self.template is None:
            text = "".join(message["content"] + _break_after(message) for message in self.messages[:-1])
            return self._tokens(text + self.messages[-1]["content"], special=True)
        try:
            text = self.template.asking(self.messages)
        except DataError as error:
            raise ModelError(
                f"the chat template of {self.name} does not take this: {shortened(error.__cause__ or error, 200)}; try "
                "without --system, or /reset"
            ) from error
        if not text:
            raise ModelError(f"the chat template of {self.name} writes nothing, so there is nothing to answer")
        return self._tokens(text, special=False)

    def _tokens(self, text: str, special: bool) -> Tensor:
        encoded = self.tokenizer(text, add_special_tokens=special, return_tensors="pt", return_token_type_ids=False)[
            "input_ids"
        ]
        if encoded.shape[1]:
            return encoded
        raise InputError("there is nothing to continue; say something")

    def _generate(self, tokens: Tensor, show: Show) -> Answer:
        config, generator = self.config, underlying(self.model)
        drawn = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
        ends = _ends(generator, self.tokenizer)
        pad = self.tokenizer.pad_token_id
        room = config.max_new_tokens if self.longest is None else self.longest - tokens.shape[1]
        settings = GenerationConfig(
            max_new_tokens=min(config.max_new_tokens, room),
            eos_token_id=ends or None,
            pad_token_id=pad if pad is not None else next(iter(ends), None),
            **(drawn if config.temperature > 0 else {"do_sample": False}),
        )
        torch.manual_seed(config.seed + self.turns)
        tokens = tokens.to(input_device(self.model))
        listener = _Listener(self.tokenizer, show)
        stopped = False
        with measuring(self.model), own_settings_aside(generator):
            try:
                attention_mask = torch.ones_like(tokens)
                make: Any = generator.generate
                make(tokens, attention_mask=attention_mask, generation_config=settings, streamer=listener)
            except KeyboardInterrupt:
                stopped = True
                listener.end()
        return Answer("".join(listener.pieces), listener.count, listener.seconds, stopped)


class _Listener(TextStreamer):
    """Passes on what is generated in whole words, and takes the time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, show: Show) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.show, self.pieces, self.count = show, list[str](), 0
        self.begun = self.first = self.last = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.last - (self.first if self.count > 1 else self.begun)

    def put(self, value: Tensor) -> None:
        if not self.next_tokens_are_prompt:
            self.last = time.perf_counter()
            self.first = self.first if self.count else self.last
            self.count += 1
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.pieces.append(text)
            self.show(text)


def _break_after(message: dict[str, str]) -> str:
    """What stands between a continuation and the next text."""
    return "\n" if message["role"] == "assistant" else ""


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: those of the model's own settings, and the tokenizer's."""
    own = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = own if isinstance(own, list) else [own]
    return sorted({token for token in (*listed, tokenizer.eos_token_id) if isinstance(token, int)})
