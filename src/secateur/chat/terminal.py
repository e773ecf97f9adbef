"""Conversations in a terminal or a pipe: what is read, and how answers are shown."""

import re
import sys
from collections.abc import Iterator, Sequence
from io import TextIOWrapper

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from secateur.chat.conversation import Answer, Conversation
from secateur.console import printable
from secateur.errors import SecateurError

SIDE_BY_SIDE = 100  # columns from which two answers stand beside each other
PROMPT = "> "
HELP = "/reset forgets what was said, /exit ends (Ctrl-D too), Ctrl-C stops an answer"


class Terminal:
    """Shows answers on one console, and what is about them on another.

    Args:
        conversations: with one model or several.
        answers: where answers go.
        notes: where everything else goes.
    """

    def __init__(self, conversations: Sequence[Conversation], answers: Console, notes: Console) -> None:
        self.conversations, self.answers, self.notes = conversations, answers, notes

    def run(self) -> None:
        """Read what the user says, line by line, until the end."""
        self.say_what_they_are()
        if sys.stdin.isatty():
            self._note(HELP)
        for line in _lines():
            text = line.strip()
            if text == "/exit":
                return
            if text == "/reset":
                for conversation in self.conversations:
                    conversation.reset()
                self._note("Forgotten.")
            elif text.startswith("/"):
                self._note(HELP)
            elif text:
                try:
                    self.answer(text)
                except SecateurError as error:
                    self.notes.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)

    def say_what_they_are(self) -> None:
        """Name the models that only continue text."""
        for conversation in self.conversations:
            if not conversation.has_template:
                self._note(f"{conversation.name} has no chat template: it continues the text as it stands")

    def answer(self, text: str) -> None:
        """Have every model answer, and show it. Raises what `Conversation.reply` raises."""
        if len(self.conversations) > 1 and self.answers.is_terminal and self.answers.width >= SIDE_BY_SIDE:
            self._in_columns(text)
            return
        for conversation in self.conversations:
            if len(self.conversations) > 1:
                self.answers.print(Text(f"{conversation.name}:", style="bold"))
            writer = Writer(self.answers)
            answer = conversation.reply(text, writer.write)
            writer.end()
            self._note(_speed(answer))

    def _in_columns(self, text: str) -> None:
        texts = ["" for _ in self.conversations]
        speeds = ["" for _ in self.conversations]

        def table() -> Table:
            shown = Table.grid(padding=(0, 2), expand=True)
            for _ in self.conversations:
                shown.add_column(ratio=1, overflow="fold")
            shown.add_row(*(Text(conversation.name, style="bold") for conversation in self.conversations))
            shown.add_row(*(Text(printable(answer)) for answer in texts))
            shown.add_row(*(Text(speed, style="dim") for speed in speeds))
            return shown

        with Live(table(), console=self.answers, refresh_per_second=8, vertical_overflow="ellipsis") as live:
            for index, conversation in enumerate(self.conversations):

                def add(piece: str, index: int = index) -> None:
                    texts[index] += piece
                    live.update(table())

                speeds[index] = _speed(conversation.reply(text, add))
                live.update(table())

    def _note(self, text: str) -> None:
        self.notes.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


class Writer:
    """Writes text as it comes; in a terminal, lines break between words."""

    def __init__(self, console: Console) -> None:
        self.console, self.column, self.gap = console, 0, ""

    def write(self, piece: str) -> None:
        """Write some more."""
        for part in re.findall(r"\n| +|[^\n ]+", printable(piece)):
            if part == "\n":
                self._out(part)
                self.column, self.gap = 0, ""
            elif part[0] == " ":
                self.gap += part  # written with the word that follows, or not at all where the line breaks
            else:
                wide = self.column + len(self.gap) + cell_len(part) > self.console.width
                if self.console.is_terminal and wide and self.column and self.gap:
                    self.column, self.gap = 0, "\n"
                self._out(self.gap + part)
                self.column += len(self.gap.strip("\n")) + cell_len(part)
                self.gap = ""

    def end(self) -> None:
        """End the last line."""
        if self.column:
            self._out("\n")
        self.column, self.gap = 0, ""

    def _out(self, text: str) -> None:
        self.console.file.write(text)
        self.console.file.flush()


def _lines() -> Iterator[str]:
    """What the user types, or what comes through a pipe."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # what is not UTF-8 is no reason to end
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401  (arrow keys and history in `input`)

    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            print()  # noqa: T201  (after the prompt)
            return


def _speed(answer: Answer) -> str:
    tokens = "1 token" if answer.tokens == 1 else f"{answer.tokens:,} tokens"
    stopped = ", stopped" if answer.stopped else ""
    return f"[{tokens}, {answer.tokens_per_second:,.1f} tokens/s{stopped}]"
