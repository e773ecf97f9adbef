"""Conversations as text, by a chat template, and which characters of it the assistant has written."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from secateur.data.conversations import ASSISTANT
from secateur.data.corpus import Answered, Conversation, Corpus, Example, alpaca_prompt
from secateur.data.reading import first_line
from secateur.errors import DataError, InputError
from secateur.files import expanded
from secateur.files.input_text import read_input_text
from secateur.files.templates import RENDER_SECONDS, too_large
from secateur.files.time_limit import time_limit

MODEL, ALPACA = "model", "alpaca"
DEFAULT = "default"  # Transformers' name of one among several
_NAME = re.compile(r"\w[\w-]*")
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
LARGEST_TEMPLATE = 2**20  # bytes of a file, characters of a model's own; the longest in use have a tenth of it
_NO_MARK = "mark the assistant's turns with {% generation %} in a template of your own (--chat-template FILE)"

Spans = list[tuple[int, int]]  # characters from, and up to, which have a loss


@dataclass(frozen=True)
class Template:
    """How examples and conversations become text.

    Attributes:
        name: what messages call it.
        source: the Jinja text; None for Alpaca's form, which is no template.
        special: the tokenizer's special tokens by name, which templates may write.
    """

    name: str
    source: str | None
    special: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the text."""
        return hashlib.sha256(f"{self.source} {sorted(self.special.items())}".encode()).hexdigest()

    def text(self, item: Answered) -> str:
        """An example or a whole conversation. Raises `DataError` where the template refuses it."""
        if self.source is not None:
            conversation = as_conversation(item)
            return self._render(conversation, conversation.messages)
        return item.plain if isinstance(item, Example) else self._alpaca(item)[0]

    def asking(self, messages: Sequence[Mapping[str, Any]], place: str = "the prompt") -> str:
        """Messages as what the assistant is to answer. Raises `DataError` where the template refuses them."""
        asked = Conversation(tuple(dict(message) for message in messages), place=place)
        return self._alpaca(asked)[0] if self.source is None else self._render(asked, asked.messages, True)

    def text_and_spans(self, item: Answered) -> tuple[str, Spans]:
        """As `text`, with the characters of the assistant's turns: what it is to write, its end of turn included.

        By the template's `{% generation %}` mark where it has one. Else a turn is what a conversation that ends with it
        has more than one that ends before it and asks for it.

        Raises:
            DataError: the template refuses the conversation, or renders its beginning otherwise than alone.
        """
        if self.source is None:
            if isinstance(item, Conversation):
                return self._alpaca(item)
            prompt = alpaca_prompt(item)
            return prompt + item.output, [(len(prompt), len(prompt + item.output))]
        conversation = as_conversation(item)
        marked = _MARKED.search(_COMMENT.sub("", self.source)) is not None
        text, spans = self._marked(conversation) if marked else self._compared(conversation)
        self._require_assistants(conversation, "".join(text[start:end] for start, end in spans), marked)
        return text, spans

    def _require_assistants(self, conversation: Conversation, learnt: str, marked: bool) -> None:
        """Raise `DataError` where a template leaves out what the assistant says, or marks what the user says."""
        turns = [(message["role"], message["content"].strip()) for message in conversation.messages]
        said = [content for role, content in turns[conversation.answers_from :] if role == ASSISTANT and content]
        if not said or any(content in learnt for content in said):
            return
        how = "marks" if marked else "writes"
        if not learnt.strip():
            raise DataError(f"{conversation.place}: {self.name} {how} nothing of what the assistant says; {_NO_MARK}")
        if any(role == "user" and content and content in learnt for role, content in turns):
            raise DataError(
                f"{conversation.place}: {self.name} {how} what the user says as the assistant's; {_NO_MARK}"
            )

    def _marked(self, conversation: Conversation) -> tuple[str, Spans]:
        text, spans = self._rendered(conversation, conversation.messages, marks=True)
        if conversation.answers_from:
            before = self._render(conversation, conversation.messages[: conversation.answers_from], True)
            if not text.startswith(before):
                raise self._mismatch(conversation, conversation.answers_from)
            spans = [(max(start, len(before)), end) for start, end in spans if end > len(before)]
        return text, spans

    def _compared(self, conversation: Conversation) -> tuple[str, Spans]:
        messages = conversation.messages
        text = self._render(conversation, messages)
        spans = []
        for place, message in enumerate(messages):
            if message["role"] != ASSISTANT or place < conversation.answers_from:
                continue
            before = self._render(conversation, messages[:place], True)
            if not text.startswith(before):
                raise self._mismatch(conversation, place)
            after = text if place == len(messages) - 1 else self._render(conversation, messages[: place + 1])
            end = len(after) if text.startswith(after) else self._end_within(conversation, place, text, before)
            spans.append((len(before), end))
        return text, spans

    def _end_within(self, conversation: Conversation, place: int, text: str, before: str) -> int:
        """Where a turn ends in a text that has it otherwise than as the last one, without its thinking for example.

        The turn is put in the place of another that says a character of which there is no other. What both texts end
        with is behind what the turn says; its end of turn is what follows there and at the end of a conversation.
        """
        mark = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in text)
        turn = {"role": ASSISTANT, "content": mark}
        messages = conversation.messages
        other = self._render(conversation, (*messages[:place], turn, *messages[place + 1 :]))
        last = self._render(conversation, (*messages[:place], turn))
        if other.count(mark) != 1 or last.count(mark) != 1 or not other.startswith(before):
            raise self._mismatch(conversation, place)
        said = len(text) - _common(text[::-1], other[::-1])
        if said < len(before):
            raise self._mismatch(conversation, place)
        return said + _common(text[said:], last[last.index(mark) + 1 :])

    def _mismatch(self, conversation: Conversation, place: int) -> DataError:
        return DataError(
            f"{conversation.place}: {self.name} writes what stands before message {place + 1} otherwise in the whole "
            f"conversation than alone, so the assistant's part cannot be told; {_NO_MARK}"
        )

    def _render(self, conversation: Conversation, messages: Sequence[Any], asks: bool = False) -> str:
        return self._rendered(conversation, messages, asks)[0]

    def _rendered(
        self, conversation: Conversation, messages: Sequence[Any], asks: bool = False, marks: bool = False
    ) -> tuple[str, Spans]:
        """Messages as text, and the marked characters.

        Args:
            conversation: theirs.
            messages: which of it.
            asks: whether the text ends with what asks the assistant to write.
            marks: whether characters are wanted.
        """
        try:
            # Annotated as one text; it gives the texts, and the marked characters of each.
            with time_limit(RENDER_SECONDS, "to render it"):
                found: Any = render_jinja_template(
                    conversations=[list(messages)],
                    tools=None if conversation.tools is None else list(conversation.tools),
                    chat_template=self.source,
                    return_assistant_tokens_mask=marks,
                    add_generation_prompt=asks,
                    **self.special,
                )
        # The template is a program from outside, in Jinja's sandbox, and may raise anything.
        except Exception as error:
            raise DataError(f"{conversation.place}: {self.name} refuses it ({first_line(error)})") from error
        texts, spans = found
        return texts[0], [(start, end) for start, end in spans[0]] if marks else []

    def _alpaca(self, conversation: Conversation) -> tuple[str, Spans]:
        """Turns under Alpaca's headings, each answer followed by the end of text."""
        end = str(self.special.get("eos_token") or "")
        text, spans = "", []
        for place, message in enumerate(conversation.messages):
            role, content = message["role"], message["content"]
            if message.get("tool_calls") or role == "tool":
                raise DataError(f"{conversation.place}: the alpaca form has no tools; use the model's --chat-template")
            if role in ("system", "developer"):
                text += content + "\n\n"
            elif role == ASSISTANT:
                text += "" if text.endswith("### Response:\n") else "### Response:\n"
                start = len(text)
                text += content + end
                if place >= conversation.answers_from:
                    spans.append((start, len(text)))
                text += "\n\n" if place < len(conversation.messages) - 1 else ""
            elif text:
                text += f"### Instruction:\n{content}\n\n### Response:\n"
            else:
                text = alpaca_prompt(Example(content, "", ""))
        return text, spans


def template_of(tokenizer: PreTrainedTokenizerBase, wanted: str | None) -> Template:
    """The template that a model's data is written in.

    Args:
        tokenizer: the model's.
        wanted: `model`, `alpaca`, one of the model's templates by its name, or a file; None: the model's where it has
            one, else Alpaca's form.

    Raises:
        InputError: the model has none, or several and none is the default; there is no such file; or the template has
            numbers that would fill the memory.
    """
    special = dict(tokenizer.special_tokens_map)
    if wanted == ALPACA:
        return Template("the alpaca form", None, special)
    named = own_templates(tokenizer)
    if wanted in named and wanted != MODEL:
        name = f"the model's chat template {wanted}"
        return Template(name, _bounded(named[wanted], name), special)
    if wanted is not None and wanted != MODEL:
        return Template(f"the chat template {expanded(wanted).name}", template_file(wanted, list(named)), special)
    source = own_template(tokenizer)
    if source is None and wanted == MODEL:
        raise InputError("the model has no chat template; pass --chat-template alpaca, or a file with one")
    if source is None:
        return Template("the alpaca form", None, special)
    return Template("the model's chat template", _bounded(source, "the model's chat template"), special)


def template_file(wanted: str, others: Sequence[str] = ()) -> str:
    """The template in a file.

    Args:
        wanted: the file.
        others: the names of the model's own templates, for the message.

    Raises:
        InputError: there is no such file, or it has numbers that would fill the memory.
    """
    path = expanded(wanted)
    if not path.is_file():
        known = ", ".join([MODEL, ALPACA, *(name for name in others if name not in (MODEL, ALPACA))])
        raise InputError(f"--chat-template is {wanted!r}: none of {known}, and there is no such file")
    return _bounded(read_input_text(path, largest=LARGEST_TEMPLATE), wanted)


def may_be_named(wanted: str) -> bool:
    """Whether a template that is no file may be one of a model's own, which only the model says."""
    return _NAME.fullmatch(wanted) is not None and not expanded(wanted).exists()


def own_templates(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The model's own templates by name; one alone is named default."""
    found = getattr(tokenizer, "chat_template", None)
    return dict(found) if isinstance(found, dict) else {} if found is None else {DEFAULT: found}


def own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The model's own template: of several the one named default.

    Raises:
        InputError: there are several, and none is named so.
    """
    named = own_templates(tokenizer)
    if named and DEFAULT not in named:
        raise InputError(
            f"the model has chat templates named {', '.join(named)} and none named {DEFAULT}; choose one, "
            f"--chat-template '{next(iter(named))}'"
        )
    return named.get(DEFAULT)


def rendered(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> Corpus:
    """The corpus with its examples and conversations as the template writes them; plain text stays as it is.

    Raises:
        InputError: as `template_of`.
    """
    if not corpus.examples:
        return corpus
    template = template_of(tokenizer, corpus.chat_template)
    if template.source is None and not isinstance(next(iter(corpus.examples)), Conversation):
        return corpus
    fingerprint = hashlib.sha256(f"{corpus.fingerprint} {template.fingerprint}".encode()).hexdigest()
    is_chat = template.source is not None
    return replace(
        corpus,
        as_text=template.text,
        fingerprint=fingerprint,
        adds_special=not is_chat,
        separator="" if is_chat else corpus.separator,
    )


def as_conversation(item: Answered) -> Conversation:
    """An example as a turn of the user and one of the assistant."""
    if isinstance(item, Conversation):
        return item
    asked = f"{item.instruction}\n\n{item.input}" if item.input else item.instruction
    messages = ({"role": "user", "content": asked}, {"role": ASSISTANT, "content": item.output})
    return Conversation(messages, place=item.place or "an example")


def _bounded(source: str, name: str) -> str:
    long = f"it has {len(source):,} characters, more than {LARGEST_TEMPLATE:,}"
    problem = long if len(source) > LARGEST_TEMPLATE else too_large(source)
    if problem is not None:
        raise InputError(f"{name} is not rendered: {problem}")
    return source


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))
