"""What all commands share: options out of a config, quiet libraries, one line for an error, the exit status."""

import importlib
import inspect
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from pydantic import BaseModel
from typer.core import TyperCommand
from typer.main import get_command

from secateur.cli.next_step import tell_next
from secateur.cli.options import MAIN_PANEL, option_parameters, validated
from secateur.cli.output import complain, in_process_group
from secateur.console import configure_logging
from secateur.errors import OptionError, SecateurError
from secateur.files import require_writable
from secateur.files.input_text import shortened
from secateur.progress import phase
from secateur.wording import asked_by

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

ARGUMENTS = "secateur.arguments"
SUPPLIED = ("config", "command_line")
FILES = {"json", "plot"}
ARGUMENTS_PANEL = "Arguments"
FIRST_PANELS, LAST_PANEL = (ARGUMENTS_PANEL, MAIN_PANEL), "Terminal"
RARE = {"overwrite", "json", "plot", "help"}  # of the main panel they come last
COLUMNS = 78
TERMINAL = {
    "debug": Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=LAST_PANEL)
    ],
    "verbose": Annotated[bool, typer.Option("--verbose", help="Show the detailed log.", rich_help_panel=LAST_PANEL)],
    "quiet": Annotated[
        bool, typer.Option("--quiet", help="Show results and warnings only.", rich_help_panel=LAST_PANEL)
    ],
}


class GroupedHelp(TyperCommand):
    """Help as plain text of 80 columns: an example, the most used options, the others below their panels' headings."""

    example = ""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        names = [_argument_name(parameter) for parameter in self.get_params(ctx) if _is_argument(parameter)]
        return ["[OPTIONS]", *names]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        if self.example:
            formatter.write(f"\nExample:\n{example_lines(self.example)}\n")
        sections: dict[str, list[tuple[str, str]]] = {}
        parameters = cast(list[Any], self.get_params(ctx))
        for parameter in sorted(parameters, key=lambda parameter: parameter.name in RARE):
            if _is_argument(parameter):
                sections.setdefault(ARGUMENTS_PANEL, []).append((_argument_name(parameter), parameter.help))
                continue
            if parameter.hidden:
                continue
            panel = getattr(parameter, "rich_help_panel", None) or MAIN_PANEL
            sections.setdefault(panel, []).append(parameter.get_help_record(ctx))
        for panel in sorted(sections, key=lambda name: (name == LAST_PANEL, name not in FIRST_PANELS)):
            with formatter.section(panel):
                formatter.write_dl(sections[panel])


@dataclass(frozen=True)
class Command:
    """One command whose options are built when it is called, since its config's module takes seconds to import.

    Attributes:
        function: calls the library and prints; the docstring is its help, the first line its short help, the last
            paragraph an example, `secateur …`. It is given what its parameters name: its own options, `config`, and
            `command_line`, the text to repeat it.
        config: "module:Class" of the pydantic model that arrives as `config` and whose fields become options.
        panels: headings of the help text, and the fields of the config below each; "Options" are the most used.
        together: whether it works in several processes, under torchrun.
    """

    function: Callable[..., None]
    config: str | None = None
    panels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    together: bool = False

    @property
    def name(self) -> str:
        return self.function.__name__.replace("_", "-")

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").splitlines()[0]

    @property
    def example(self) -> str:
        """The command line that its help shows; nothing where the docstring ends without one."""
        *_, last = (inspect.getdoc(self.function) or "").split("\n\n")
        return " ".join(last.split()) if last.startswith("secateur ") else ""

    @property
    def description(self) -> str:
        """The docstring without the example."""
        text = inspect.getdoc(self.function) or ""
        return text.rpartition("\n\n")[0] if self.example else text

    def build(self) -> Any:
        """The Typer command with all its options."""
        config = _class_at(self.config) if self.config else None
        wanted = inspect.signature(self.function).parameters
        own = [parameter for name, parameter in wanted.items() if name not in SUPPLIED]
        from_config = option_parameters(config, self.panels) if config else []

        def callback(invocation: typer.Context, **values: Any) -> None:
            debug, verbose, quiet = (values.pop(name) for name in TERMINAL)
            configure_logging(verbose, quiet)
            given = {parameter.name: values.pop(parameter.name) for parameter in from_config}
            try:
                with asked_by("command line"), in_process_group(self.name, self.together) as first:
                    if config:
                        values["config"] = validated(config, given)
                    if "command_line" in wanted:
                        values["command_line"] = shlex.join(["secateur", *invocation.meta[ARGUMENTS]])
                    for name in FILES & values.keys():
                        if values[name] is not None:
                            require_writable(values[name], _names_in(values), _output_of(values))
                            values[name] = values[name] if first else None
                    quiet_libraries(verbose)
                    with phase(self.name, said=False):
                        self.function(**values)
                    if first and not quiet:
                        tell_next(" ".join(invocation.command_path.split()[1:]), values)
            except SecateurError as error:
                complain(str(error), traceback=debug)
                raise typer.Exit(WRONG_USAGE if isinstance(error, OptionError) else FAILED) from error
            except OSError as error:
                if error.filename is None:
                    raise
                # A name that the system does not take: too long, a loop of links, below a file, not to be read.
                named = shortened(os.fsdecode(error.filename))
                complain(f"{named}: {error.strerror}; check the path", traceback=debug)
                raise typer.Exit(FAILED) from error
            except KeyboardInterrupt as error:
                raise typer.Exit(INTERRUPTED) from error

        callback.__signature__ = _signature([*own, *from_config])  # type: ignore[attr-defined]
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        shown = type(GroupedHelp.__name__, (GroupedHelp,), {"example": self.example})
        app.command(self.name, cls=shown, help=self.description)(callback)
        return get_command(app)


def command(
    config: str | None = None, panels: Mapping[str, Sequence[str]] | None = None, *, together: bool = False
) -> Callable[[Callable[..., None]], Command]:
    """Make a function a `Command`. The arguments are its attributes."""
    return lambda function: Command(function, config, panels or {}, together)


def quiet_libraries(verbose: bool = False) -> None:
    """Keep the loading bars of Transformers, Datasets and the hub off the terminal, and warnings unless `verbose`."""
    import huggingface_hub
    import transformers

    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if "datasets" in sys.modules:  # which has read that already
        sys.modules["datasets"].disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    if not verbose:
        transformers.logging.set_verbosity_error()
        warnings.simplefilter("ignore")


def _names_in(values: Mapping[str, Any]) -> list[str]:
    """All texts among a command's values and its config's: the names of what it reads are among them."""
    config = values.get("config")
    given = [
        values.get("model"),
        values.get("models"),
        values.get("recipe"),
        values.get("results"),
        *(dict(config).values() if config else ()),
    ]
    lists = [value if isinstance(value, list) else [value] for value in given]
    return [str(item) for items in lists for item in items if isinstance(item, str | os.PathLike)]


def _output_of(values: Mapping[str, Any]) -> Path | None:
    """The directory that a command makes."""
    output = values.get("output")
    return output if isinstance(output, Path) else None


def _is_argument(parameter: Any) -> bool:
    return parameter.param_type_name == "argument"


def _argument_name(parameter: Any) -> str:
    return parameter.display_name_raw + ("..." if parameter.nargs != 1 else "")


def example_lines(line: str) -> str:
    """A command line as help shows it: in lines that a shell reads as one, broken before options where it is long."""
    lines = [""]
    for part in re.split(r" (?=-)", line):
        if lines[-1] and len(lines[-1]) + len(part) > COLUMNS - 4:
            lines.append("")
        lines[-1] += f" {part}" if lines[-1] else part
    return " \\\n    ".join(lines).join(["  ", ""])


def _class_at(path: str) -> type[BaseModel]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _signature(parameters: Sequence[inspect.Parameter]) -> inspect.Signature:
    keyword = inspect.Parameter.KEYWORD_ONLY
    terminal = [
        inspect.Parameter(name, keyword, default=False, annotation=annotation) for name, annotation in TERMINAL.items()
    ]
    context = inspect.Parameter("invocation", keyword, annotation=typer.Context)
    return inspect.Signature([context, *(p.replace(kind=keyword) for p in parameters), *terminal])
