"""Pydantic fields as command-line options."""

import shlex
from typing import Literal

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from secateur.cli.command import Command
from secateur.cli.options import Model, UsageError, validated
from secateur.console import command_text


class Base(BaseModel, extra="forbid"):
    """Where it runs."""

    device: str = Field("auto", description="The device.")


class Settings(Base):
    """Everything a command can be told."""

    ratio: float = Field(0.25, gt=0, lt=1, description="Share to remove.")
    method: Literal["fast", "exact"] = Field("exact", description="How.")
    layers: list[int] = Field(default_factory=list, description="Layers.")
    corpora: list[str] = Field(["pydocs"], description="Texts.")
    compensate: bool = Field(True, description="Re-fit.")
    limit: int | None = Field(None, description="At most so many.")


class Needy(BaseModel):
    adapter: str = Field(description="The adapter.")


class Shown:
    """A command that keeps what it was given."""

    def __init__(self, config: str = "test_options:Settings") -> None:
        self.config: Settings | None = None
        self.line = ""

        def show(model: Model, config: Settings, command_line: str) -> None:
            """Show it."""
            self.config, self.line = config, command_line

        command = Command(show, config, {"What is cut": ("ratio", "layers")})
        self.app = command.build()

    def __call__(self, *arguments: str) -> "typer.testing.Result":
        return CliRunner().invoke(_group(self.app), ["show", *arguments])


def _group(command: object) -> typer.Typer:
    from secateur.cli.main import CommandGroup

    class One(CommandGroup):
        def resolve_command(self, ctx, args):
            return "show", command, args[1:]

    app = typer.Typer(cls=One, add_completion=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    app.command("show")(lambda: None)
    return app


def test_defaults_are_those_of_the_model() -> None:
    shown = Shown()
    assert shown("m").exit_code == 0
    assert shown.config == Settings()


def test_options_of_every_kind() -> None:
    shown = Shown()
    arguments = "m --ratio 0.5 --method fast --layers 0,1 --layers 31 --corpora a,b.txt[:80%] --no-compensate --limit 3"
    assert shown(*arguments.split()).exit_code == 0
    assert shown.config == Settings(
        ratio=0.5, method="fast", layers=[0, 1, 31], corpora=["a", "b.txt[:80%]"], compensate=False, limit=3
    )


def test_the_command_line_can_be_repeated() -> None:
    shown = Shown()
    shown("my model", "--limit", "3")
    assert shown.line == "secateur show 'my model' --limit 3"


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(ratio=0.5, layers=[0, 31], corpora=["my text.txt", "b"], compensate=False, device="cuda:1"),
        Settings(limit=3, method="fast"),
    ],
)
def test_settings_written_as_a_command_come_back(settings: Settings) -> None:
    shown = Shown()
    text = command_text("show", "m", config=settings)
    assert shown(*shlex.split(text)[1:]).exit_code == 0
    assert shown.config == settings
    assert command_text("show", "m", config=Settings()) == "show m"


def test_help_has_defaults_choices_and_panels() -> None:
    text = Shown()("--help").output
    assert max(map(len, text.splitlines())) <= 80
    assert text.index("What is cut:") < text.index("--ratio NUMBER") < text.index("Where it runs:")
    assert text.index("Where it runs:") < text.index("--device TEXT")
    assert "--method fast|exact" in text
    assert "--layers NUMBER,…" in text
    assert "--compensate / --no-compensate" in text
    assert "Share to remove. [default: 0.25]" in text
    assert "[default: on]" in text
    assert "[default: pydocs]" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ratio", "1.5"], "--ratio 1.5: input should be less than 1"),
        (["--ratio", "much"], "--ratio much: input should be a valid number"),
        (["--method", "slow"], "--method slow: input should be 'fast' or 'exact'"),
        (["--layers", "0,x"], "--layers x: input should be a valid integer"),
        (["--ration", "1"], "No such option: --ration"),
        ([], "Missing argument 'MODEL'"),
    ],
)
def test_a_wrong_command_line_is_status_2_and_one_line(arguments: list[str], message: str) -> None:
    result = Shown()(*(["m", *arguments] if arguments else []))
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_field_without_default_is_required() -> None:
    result = Shown("test_options:Needy")("m")
    assert result.exit_code == 2
    assert "Missing option '--adapter'" in result.stderr


def test_every_refused_value_is_named() -> None:
    with pytest.raises(UsageError, match=r"--ratio 0.*; --limit x"):
        validated(Settings, {"ratio": "0", "limit": "x"})
