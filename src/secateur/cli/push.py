"""`secateur push`: a model to the Hugging Face hub."""

from typing import Annotated

import typer

from secateur.cli.command import command
from secateur.cli.output import say
from secateur.console import counted


@command()
def push(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The directory of a model or an adapter.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Where it goes on the hub: USER/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository one for its owner alone.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="Push to this branch. [default: main]")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", metavar="TEXT", help="The commit's message.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be sent, and send nothing.")] = False,
) -> None:
    """Send a model and its card to the Hugging Face hub.

    Weights, tokenizer, code and card go there, and what secateur recorded of the cut, with paths as names only. Logs,
    command.txt, .secateur.json, optimizer states and everything else stay. The token is that of `hf auth login`.

    secateur push out/merged me/my-model --private
    """
    from secateur.handover.push import push, upload_of

    upload = upload_of(model, repository)
    if dry_run:
        for name, size in upload.files.items():
            say(f"{_bytes(size):>10}  {name}")
        if upload.left:
            say(f"Stays here: {', '.join(upload.left)}")
        say(f"Would send {counted(len(upload.files), 'file')}, {_bytes(upload.size)}, to {repository}")
        return
    say(f"Sending {counted(len(upload.files), 'file')}, {_bytes(upload.size)}, to {repository}")
    say(push(upload, private=private, revision=revision, message=message))


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
