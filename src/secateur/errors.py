"""The exceptions a user can meet. Each message says what is wrong and what to do about it, on one line."""

from secateur.wording import worded


class SecateurError(Exception):
    """Base of all errors that the command line prints as one line before it exits with status 1 or 2.

    Options in the message, written as flags, are put as whoever asked would write them.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(worded(str(message)))


class InputError(SecateurError):
    """An option or a value is outside what the command can work with."""


class OptionError(InputError):
    """An option or a recipe is wrong on its face, whatever the model and the files: exit status 2."""


class ModelError(SecateurError):
    """A model cannot be loaded, is damaged, or is of an unsupported architecture."""


class DataError(SecateurError):
    """A text or data set cannot be found, read or used."""


class OutputError(SecateurError):
    """A result cannot be written."""


class TrainingError(SecateurError):
    """Training cannot go on, a loss that is not finite for example."""
