"""Groups of commands: each lists all of its own and builds only the one that is called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_command

from secateur.cli.command import ARGUMENTS, Command, example_lines
from secateur.cli.output import announce


class LazyGroup(TyperGroup):
    """Builds a command when it is called. Subclasses say which there are."""

    listed: ClassVar[Mapping[str, "Command | Group"]]
    examples: ClassVar[Sequence[str]]

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        formatter.write("\n".join(["\nExamples:", *map(example_lines, self.examples), ""]))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta.setdefault(ARGUMENTS, list(args))
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        chosen = self.listed[str(name)]
        if isinstance(chosen, Command) and not {"--help", "--quiet"} & set(rest):
            announce(f"{ctx.command_path} {name}")
        return name, chosen.build(), rest


@dataclass(frozen=True)
class Group:
    """Commands below a name of their own: `secateur attention tune`. The summary is the help of them all."""

    name: str
    summary: str
    commands: Mapping[str, Command]

    def build(self) -> Any:
        """The Typer group."""
        app = listing(self.commands, LazyGroup, [each.example for each in self.commands.values()])
        app.callback(help=self.summary)(lambda: None)
        return get_command(app)


def listing(commands: "Mapping[str, Command | Group]", kind: type[LazyGroup], examples: Sequence[str]) -> typer.Typer:
    """An app that names commands, with examples; the group puts the built one in the place of what it lists."""
    own = type(kind.__name__, (kind,), {"listed": commands, "examples": examples})
    app = typer.Typer(cls=own, add_completion=False, rich_markup_mode=None)
    for command in commands.values():
        app.command(command.name, help=command.summary)(lambda: None)
    return app
