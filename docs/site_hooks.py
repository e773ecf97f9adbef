"""What the site has beside the pages' text: formulas as MathML, and a page of all commands as `--help` prints them."""

import html
import os
import re
from typing import Any

from mkdocs.structure.files import File, Files

INTRODUCTION = """# Commands

What `secateur COMMAND --help` prints. Exit status: 0 done, 2 an option or argument that is wrong on its face, 1
everything else that fails, 130 interrupted. Errors are one line; `--debug` shows the traceback.
"""

FORMULA = re.compile(
    r'<span class="arithmatex">\\\((?P<inline>.*?)\\\)</span>|<div class="arithmatex">\\\[(?P<block>.*?)\\\]</div>',
    re.DOTALL,
)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add `commands.md`."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Formulas, which arithmatex has marked, become MathML: a browser draws it by itself."""
    return FORMULA.sub(lambda found: mathml(html.unescape(found["inline"] or found["block"]), bool(found["block"])), content)


def mathml(latex: str, block: bool = False) -> str:
    """A formula in LaTeX as a MathML element.

    Raises:
        latex2mathml's errors for what is no formula.
    """
    from latex2mathml.converter import convert

    return convert(" ".join(latex.split()), display="block" if block else "inline")


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

    environment = {**os.environ, "COLUMNS": "80"}
    printed = CliRunner().invoke(app, [*words.split(), "--help"], prog_name="secateur", env=environment)
    return f"```text\n{printed.output.strip()}\n```\n"
