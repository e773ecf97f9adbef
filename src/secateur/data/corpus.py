"""What every named corpus, file and object becomes: plain text, instructions with answers, conversations, or tokens."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

# The label of a token that has no loss, as in PyTorch.
IGNORED = -100

_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Example:
    """One instruction, the input it works on (empty where there is none), and the answer.

    Attributes:
        instruction: what is asked.
        input: what it is asked about.
        output: the answer.
        place: where it stands, `rows.jsonl, line 3`, for messages.
    """

    instruction: str
    input: str
    output: str
    place: str = field(default="", compare=False)

    @property
    def strings(self) -> tuple[str, ...]:
        """All that it holds, as text."""
        return self.instruction, self.input, self.output

    @property
    def plain(self) -> str:
        """What it says, as one text: Alpaca's prompt and the answer."""
        return alpaca_prompt(self) + self.output


@dataclass(frozen=True)
class Conversation:
    """Messages, as a chat template takes them.

    Attributes:
        messages: each with a `role` (system, developer, user, assistant, tool) and a `content`, and what else the row
            has: `tool_calls`, `reasoning_content`, ….
        tools: what the assistant may call, as JSON schemas.
        answers_from: how many messages at the beginning are a prompt, whose assistant turns are not trained on.
        place: where it stands, `chat.jsonl, line 3`, for messages.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[Any, ...] | None = None
    answers_from: int = 0
    place: str = field(default="", compare=False)

    @property
    def strings(self) -> tuple[str, ...]:
        """All that it holds, as text."""
        return (json.dumps([self.messages, self.tools, self.answers_from], ensure_ascii=False),)

    @property
    def plain(self) -> str:
        """What it says, as one text without the marks of a template."""
        return "\n\n".join(message["content"] for message in self.messages if message["content"])


Answered = Example | Conversation


@dataclass(frozen=True)
class Corpus:
    """Text, examples and conversations, tokens, or several sources with shares.

    Attributes:
        name: as the user wrote it: `pydocs`, `text.txt[:80%]`.
        split: `train` or `test` of a named corpus; `all` for a file, which has no splits of its own.
        documents: plain text; empty for instruction data. Lists here and below, but for a large file, which is read
            anew each time one goes through them.
        examples: instruction data and conversations; empty for plain text.
        source: the same for all splits and parts of one corpus or file, different for different ones. For a
            file it comes from the content, so a file that was moved or copied is recognised.
        description: one line for a report.
        fingerprint: SHA-256 that follows the content.
        separator: what stands between two documents of the text.
        large: whether it is tokenised only up to what is needed, and choices at random are of places in it.
        title: the description without figures.
        chat_template: how examples and conversations become text: `model`, `alpaca`, a file with a template, or None:
            the model's where it has one, else Alpaca's.
        as_text: an example or a conversation as text. `rendered` makes it the template's.
        adds_special: whether a tokenizer adds its special tokens to the text's ends; a template has written them.
        is_stream: whether rows come from a stream, of which only the beginning is taken and nothing kept in the cache.
        tokens: given instead of text, (tokens,) or (windows, length) int64.
        parts: sources with their shares, which add up to 1; the corpus has nothing else then.
    """

    name: str
    split: str
    documents: Collection[str]
    examples: Collection[Answered]
    source: str
    description: str
    fingerprint: str
    separator: str = "\n\n"
    large: bool = False
    title: str = ""
    chat_template: str | None = None
    as_text: Callable[[Answered], str] = field(default=lambda item: item.plain, compare=False)
    adds_special: bool = True
    is_stream: bool = False
    tokens: Tensor | None = field(default=None, compare=False)
    parts: tuple[tuple["Corpus", float], ...] = ()

    @property
    def text(self) -> str:
        """The documents, or each example as text, joined: all of it, which a large file may not fit."""
        return self.separator.join([*self.documents, *map(self.as_text, self.examples)])


def alpaca_prompt(example: Example) -> str:
    """What a model is given to answer: all that stands before the answer's first character.

    Source: Taori et al. 2023, "Stanford Alpaca: An Instruction-following LLaMA model".
    """
    template = _WITH_INPUT if example.input else _WITHOUT_INPUT
    return template.format(instruction=example.instruction, input=example.input)


def content_fingerprint(documents: Sequence[str], examples: Sequence[Answered]) -> str:
    """SHA-256 of plain text, instruction data and conversations.

    Raises:
        UnicodeEncodeError: a string holds half of a surrogate pair.
    """
    digest = hashlib.sha256(f"{len(documents)} {len(examples)}".encode())
    for item in (*documents, *(part for example in examples for part in example.strings)):
        content = item.encode("utf-8")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
