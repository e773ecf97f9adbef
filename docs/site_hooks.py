"""What the site has beside the pages' text: formulas as MathML, and a page of all commands as `--help` prints them."""

import html
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

INTRODUCTION = """# Commands

What `secateur COMMAND --help` prints. Exit status: 0 done, 2 an option, argument or recipe that is wrong on its face, 1
everything else that fails, 130 interrupted. Errors are one line; `--debug` shows the traceback.
"""

FORMULA = re.compile(
    r'<span class="arithmatex">\\\((?P<inline>.*?)\\\)</span>|<div class="arithmatex">\\\[(?P<block>.*?)\\\]</div>',
    re.DOTALL,
)

OPTION = re.compile(r"<code>(-[^<]{1,33})</code>")
PICTURES = {"first-result.svg": 7.4, "first-result-narrow.svg": 3.7}  # inches
INDEX = Path(__file__).parent / "index.md"


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add `commands.md` and the picture of the first page in two widths."""
    for name, width in PICTURES.items():
        files.append(File.generated(config, name, content=first_picture(width)))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Formulas become MathML, and options are not broken in two."""
    content = FORMULA.sub(_formula, content)
    return OPTION.sub(r'<code class="option">\1</code>', content)


def _formula(found: re.Match[str]) -> str:
    return mathml(html.unescape(found["inline"] or found["block"]), block=bool(found["block"]))


def mathml(latex: str, block: bool = False) -> str:
    """A formula in LaTeX as a MathML element.

    Raises:
        latex2mathml's errors for what is no formula.
    """
    from latex2mathml.converter import convert

    return convert(" ".join(latex.split()), display="block" if block else "inline")


def first_figures() -> list[dict[str, Any]]:
    """The models of the table on the first page, as the tables of reports have them."""
    table = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d,]+) \|", INDEX.read_text(encoding="utf-8"), re.MULTILINE)
    return [
        {"name": name, "perplexity": {"pydocs": float(perplexity)}, "parameters": int(parameters.replace(",", ""))}
        for name, perplexity, parameters in table
    ]


def first_picture(width: float) -> str:
    """The same drawn, as a run's report draws it: an SVG image, light or dark."""
    from secateur.report.plots import stage_figure
    from secateur.report.style import svg

    return svg(stage_figure(first_figures(), width))


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
