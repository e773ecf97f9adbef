"""How commands print: lines as they are on standard output, one line per error on standard error."""

from secateur.console import stderr, stdout


def say(text: str) -> None:
    """Print a line on standard output as it is: no markup, no line breaks added."""
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)


def complain(message: str) -> None:
    """Print an error as one line on standard error."""
    stderr.print(f"Error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
