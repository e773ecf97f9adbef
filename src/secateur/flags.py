"""The spelling of a config on the command line."""

import shlex
from typing import Any

from pydantic import BaseModel

RENAMED = {"from_directory": "--from"}


def flag(field: str) -> str:
    """The option of a field: `max_rate` is `--max-rate`."""
    return RENAMED.get(field, "--" + field.replace("_", "-"))


def command_text(*words: str, config: BaseModel | None = None) -> str:
    """A command that can be pasted into a shell.

    Args:
        words: the command and its arguments.
        config: its options; those that have their default value are left out.
    """
    return shlex.join([*words, *(_options(config) if config else [])])


def _options(config: BaseModel) -> list[str]:
    options: list[str] = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if value is None or value == field.get_default(call_default_factory=True):
            continue
        options += _option(name, value)
    return options


def _option(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name) if value else f"--no-{flag(name)[2:]}"]
    values = value if isinstance(value, list | tuple) else [value]
    return [flag(name), ",".join(str(item).removesuffix(".0") for item in values)]
