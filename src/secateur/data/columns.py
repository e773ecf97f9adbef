"""Which columns of a row are read, and what they become."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from secateur.data.conversations import conversation_of
from secateur.data.corpus import Answered, Conversation, Example
from secateur.data.options import AS_IT_IS, DataOptions
from secateur.errors import DataError

Kind = Literal["text", "instruction", "messages"]

_MESSAGES = ("messages", "conversations")
_INSTRUCTION = ("instruction", "input", "output")
_TEXT = "text"
# Prompt, further input (empty: none) and answer under the names that other data sets give them.
_ANSWERED = (
    ("prompt", "", "completion"),
    ("prompt", "", "response"),
    ("instruction", "context", "response"),
    ("question", "", "answer"),
    ("query", "", "response"),
)


@dataclass(frozen=True)
class Columns:
    """The columns of rows that are used.

    Attributes:
        kind: what they hold: a text; a prompt, perhaps an input, and an answer; or messages.
        names: of the text; of prompt, input (empty where there is none) and answer; of the messages.
    """

    kind: Kind
    names: tuple[str, ...]

    @property
    def wanted(self) -> tuple[str, ...]:
        """All columns that are looked at."""
        return tuple(filter(None, self.names)) if self.kind == "text" else (*filter(None, self.names), "tools")

    @property
    def answered(self) -> bool:
        """Whether a row has an answer, and is no plain text."""
        return self.kind != "text"

    def read(self, row: Any, name: str, place: str) -> str | Answered:
        """What a row holds.

        Args:
            row: an object of columns.
            name: of the file, for messages.
            place: of the row in it.

        Raises:
            DataError: it is no object, or a column is missing or holds something else.
        """
        columns = _as_row(row, name, place)
        if self.kind == "text":
            return _column(columns, self.names[0], name, place)
        if self.kind == "messages":
            where = f"{name}, {place}"
            return conversation_of(columns.get(self.names[0]), columns.get("tools"), where, column=self.names[0])
        return self._example(columns, name, place)

    def _example(self, columns: Mapping[str, Any], name: str, place: str) -> Example | Conversation:
        prompt, given, answer = self.names
        if isinstance(columns.get(prompt), list):
            where = f"{name}, {place}"
            tools, answers = columns.get("tools"), columns.get(answer)
            if not isinstance(answers, list):
                raise DataError(f"{where}: {prompt!r} holds messages and {answer!r} none; both must be lists of them")
            return conversation_of(columns[prompt], tools, where, column=prompt, answers=answers)
        wanted, output = (_column(columns, column, name, place) for column in (prompt, answer))
        has_input = bool(given) and columns.get(given) is not None
        return Example(wanted, _column(columns, given, name, place) if has_input else "", output, f"{name}, {place}")


def columns_of(found: Sequence[str], name: str, options: DataOptions) -> Columns:
    """Choose among the columns that a row has.

    Args:
        found: their names.
        name: of the file, for messages.
        options: the columns that its user names.

    Raises:
        DataError: none of them can be read, or one that is named is not there.
    """
    named = [options.text_column, options.prompt_column, options.input_column, options.answer_column]
    missing = [column for column in named if column is not None and column not in found]
    if missing:
        raise DataError(f"{name} has no column {missing[0]!r}; it has {_listed(found)}")
    if options.text_column is not None:
        return Columns("text", (options.text_column,))
    if options.prompt_column is not None and options.answer_column is not None:
        return Columns("instruction", (options.prompt_column, options.input_column or "", options.answer_column))
    for column in _MESSAGES:
        if column in found:
            return Columns("messages", (column,))
    if "instruction" in found and "output" in found:
        return Columns("instruction", _INSTRUCTION)
    if _TEXT in found:
        return Columns("text", (_TEXT,))
    for names in _ANSWERED:
        if names[0] in found and names[2] in found:
            return Columns("instruction", names)
    raise DataError(
        f"{name} has {_listed(found)}; it needs a column 'text', 'messages' or 'conversations', 'instruction' and "
        "'output', or 'prompt' and 'completion', or name others: --text-column, or --prompt-column and --answer-column"
    )


def columns_of_row(row: Any, name: str, place: str, options: DataOptions) -> Columns:
    """As `columns_of`, for a row. Raises `DataError`."""
    return columns_of(list(_as_row(row, name, place)), name, options)


def rows_to_content(
    rows: Iterable[Any], name: str, options: DataOptions = AS_IT_IS
) -> tuple[list[str], list[Answered]]:
    """Turn rows into documents or examples; the first row decides which.

    Args:
        rows: gone through once.
        name: what they come from, for messages.
        options: which columns.

    Raises:
        DataError: a row is no object, misses a column, or holds something else there.
    """
    documents: list[str] = []
    examples: list[Answered] = []
    columns = None
    for number, row in enumerate(rows, start=1):
        place = f"row {number:,}"
        columns = columns or columns_of_row(row, name, place, options)
        content = columns.read(row, name, place)
        if isinstance(content, str):
            documents.append(content)
        else:
            examples.append(content)
    return documents, examples


def _listed(found: Sequence[str]) -> str:
    return ", ".join(repr(column) for column in found[:8]) or "no columns"


def _as_row(row: Any, name: str, place: str) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"{name}, {place}: a row must be an object with columns, as {{'text': '...'}}")
    return row


def _column(row: Mapping[str, Any], column: str, name: str, place: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        problem = "is missing" if value is None else f"is a {type(value).__name__}"
        raise DataError(f"{name}, {place}: {column!r} {problem}; it must be text in every row")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = "holds half of a surrogate pair (\\ud800 to \\udfff), which is no text"
            raise DataError(f"{name}, {place}: {column!r} {half}") from error
    return value
