"""`secateur chat`: talk with a model, or with two side by side."""

from typing import TYPE_CHECKING, Annotated

import typer

from secateur.cli.command import command
from secateur.cli.options import Model

if TYPE_CHECKING:
    from secateur.chat import ChatConfig

PANELS = {
    "The answer": ("system", "chat_template", "max_new_tokens", "temperature", "top_p", "seed"),
    "The model": ("adapter",),
}


@command("secateur.chat:ChatConfig", PANELS)
def chat(
    model: Model,
    config: "ChatConfig",
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="MODEL", help="A second model, which answers the same.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="Answer this once, and end.")] = None,
) -> None:
    """Talk with a model in the terminal.

    With --compare two models answer, side by side where the terminal has 100 columns. A model without a chat template
    continues the text. Lines of a pipe are answered one by one. /reset forgets what was said, /exit or Ctrl-D ends.

    secateur chat out/merged --compare smollm2-135m
    """
    from secateur.chat.conversation import Conversation
    from secateur.chat.terminal import Terminal
    from secateur.console import stderr, stdout
    from secateur.models import attach_adapter, load, model_label

    conversations = []
    names = [name for name in (model, compare) if name is not None]
    labels = [model_label(name) for name in names]
    for name, label in zip(names, labels if len(set(labels)) == len(names) else names, strict=True):
        loaded, tokenizer = load(name, **config.load_arguments())
        adapted = attach_adapter(loaded, config.adapter) if config.adapter and name == model else loaded
        conversations.append(Conversation(label, adapted, tokenizer, config))
    terminal = Terminal(conversations, stdout, stderr)
    if prompt is None:
        terminal.run()
    else:
        terminal.say_what_they_are()
        terminal.answer(prompt)
