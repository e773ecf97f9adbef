"""A page of the site that no file holds: all commands with their options, as `--help` prints them."""

import os
from typing import Any

from mkdocs.structure.files import File, Files

INTRODUCTION = """# Commands

What `secateur COMMAND --help` prints. Exit status: 0 done, 2 an option or argument that is wrong on its face, 1
everything else that fails, 130 interrupted. Errors are one line; `--debug` shows the traceback.
"""


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add `commands.md`."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def commands_page() -> str:
    """Every command's help, in Markdown."""
    from secateur.cli.group import Group
    from secateur.cli.main import COMMANDS

    sections = [INTRODUCTION]
    for name, command in COMMANDS.items():
        sections.append(f"## secateur {name}\n\n{_help_of(name)}")
        if isinstance(command, Group):
            sections += [f"### secateur {name} {each}\n\n{_help_of(f'{name} {each}')}" for each in command.commands]
    return "\n".join(sections)


def _help_of(words: str) -> str:
    from typer.testing import CliRunner

    from secateur.cli.main import app

    printed = CliRunner().invoke(app, [*words.split(), "--help"], env={**os.environ, "COLUMNS": "80"})
    return f"```text\n{printed.output.strip()}\n```\n"
