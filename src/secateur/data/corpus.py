"""What every named corpus and every file becomes: plain text, or instruction data in Alpaca form."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass

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
    """One instruction, the input it works on (empty where there is none), and the answer."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Corpus:
    """Plain text or instruction data.

    Attributes:
        name: as the user wrote it: `pydocs`, `text.txt[:80%]`.
        split: `train` or `test` of a named corpus; `all` for a file, which has no splits of its own.
        documents: plain text; empty for instruction data. Lists here and below, but for a large file, which is read
            anew each time one goes through them.
        examples: instruction data; empty for plain text.
        source: the same for all splits and parts of one corpus or file, different for different ones. For a
            file it comes from the content, so a file that was moved or copied is recognised.
        description: one line for a report.
        fingerprint: SHA-256 that follows the content.
        separator: what stands between two documents of the text.
        large: whether it is tokenised only up to what is needed, and choices at random are of places in it.
    """

    name: str
    split: str
    documents: Collection[str]
    examples: Collection[Example]
    source: str
    description: str
    fingerprint: str
    separator: str = "\n\n"
    large: bool = False

    @property
    def text(self) -> str:
        """The documents, or prompt and answer of each example, joined: all of it, which a large file may not fit."""
        return self.separator.join([*self.documents, *map(example_text, self.examples)])


def alpaca_prompt(example: Example) -> str:
    """What a model is given to answer: all that stands before the answer's first character.

    Source: Taori et al. 2023, "Stanford Alpaca: An Instruction-following LLaMA model".
    """
    template = _WITH_INPUT if example.input else _WITHOUT_INPUT
    return template.format(instruction=example.instruction, input=example.input)


def example_text(example: Example) -> str:
    """An example as plain text: the prompt and the answer."""
    return alpaca_prompt(example) + example.output


def content_fingerprint(documents: Sequence[str], examples: Sequence[Example]) -> str:
    """SHA-256 of plain text and instruction data.

    Raises:
        UnicodeEncodeError: a string holds half of a surrogate pair.
    """
    digest = hashlib.sha256(f"{len(documents)} {len(examples)}".encode())
    for item in (*documents, *(part for example in examples for part in astuple(example))):
        content = item.encode("utf-8")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
