"""The commands of secateur on a small random model of each family: what is done, and what is refused and why."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from typer.testing import CliRunner

import secateur
from secateur.cli.main import app
from secateur.models import count_parameters, is_uneven, layer_widths
from tiny import make_tiny_model, make_tiny_tokenizer

DONE = "yes"
TEXT = " ".join(f"{number} squared is {number * number}." for number in range(300))
FLOAT32 = ("--device", "cpu", "--dtype", "float32")
WINDOWS = ("--samples", 4, "--seqlen", 32, *FLOAT32)
CALIBRATED = ("--calibration", "text.txt", "--own-text", 0, *WINDOWS)
SHARES = ("--attention-share", 0.4)  # some of both halves, whatever a random model's units are worth
BLOCKS = ("--query-block", 16, "--key-block", 16)


@dataclass(frozen=True)
class Outcome:
    """What came of a command.

    Attributes:
        said: `yes`, with what is left out after a comma; or `no`.
        why: of `no`: the one line that the command ended with.
    """

    said: str = DONE
    why: str = ""


class RefusedError(Exception):
    """A command ended with a line that says why it does not do what it was asked."""


class Place:
    """A directory with a model of a family, the text, and what the commands make of them."""

    def __init__(self, family: str, directory: Path) -> None:
        self.family = family
        self.directory = directory
        make_tiny_model(family).save_pretrained(directory / "model")
        make_tiny_tokenizer().save_pretrained(directory / "model")
        (directory / "text.txt").write_text(TEXT)

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    def run(self, *arguments: object) -> None:
        """Run a command. Names of what is in the directory stand for it. Raises `RefusedError`."""
        words = [str(self / word) if (self / word).exists() else word for word in map(str, arguments)]
        if "-o" in words:
            at = words.index("-o") + 1
            words[at] = str(self / words[at])
        result = CliRunner().invoke(app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if result.exit_code == 1:
            (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
            raise RefusedError(line.removeprefix("Error: "))
        assert result.exit_code == 0, result.output

    def prune(self, output: str, *options: object) -> Path:
        """A cut of the model, which is there once it was asked for."""
        if not (self / output).exists():
            self.run("prune", "model", "-o", output, "--ratio", 0.25, *SHARES, *CALIBRATED, *options)
        return self / output


def prune(place: Place) -> None:
    model, _ = secateur.load(str(place.prune("pruned")), dtype="float32")
    widths = layer_widths(model)
    assert is_uneven(model)
    assert min(width.num_attention_heads for width in widths) < 8
    assert min(width.intermediate_size for width in widths) < 96


def generate(place: Place) -> None:
    """What is loaded and saved again says the same, and generates the same with a cache and without."""
    model, tokenizer = secateur.load(str(place.prune("pruned")), dtype="float32")
    tokens = torch.arange(3, 40)[None]
    secateur.save(model, tokenizer, str(place / "again"))
    again, _ = secateur.load(str(place / "again"), dtype="float32")
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, again(tokens).logits)
    cached, plain = (
        model.generate(tokens, max_new_tokens=12, min_new_tokens=12, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert torch.equal(cached, plain)


def prune_streamed(place: Place) -> None:
    """The same weights come out when one layer after another is read from its file."""
    streamed, _ = secateur.load(str(place.prune("streamed", "--stream")), dtype="float32")
    whole, _ = secateur.load(str(place.prune("pruned")), dtype="float32")
    ours, theirs = streamed.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def prune_evenly(place: Place) -> None:
    """What comes out is of the family's own class, with smaller numbers in its config."""
    place.run("prune", "model", "-o", "even", "--ratio", 0.25, "--even", *CALIBRATED)
    model, _ = secateur.load(str(place / "even"), dtype="float32")
    whole, _ = secateur.load(str(place / "model"), dtype="float32")
    assert type(model) is type(whole)
    assert count_parameters(model) < 0.8 * count_parameters(whole)


def search(place: Place) -> None:
    place.run("search", "model", "-o", "found", "--ratio", 0.2, "--rounds", 1, *CALIBRATED)


def recover_lora(place: Place) -> None:
    place.prune("pruned")
    place.run("recover", "pruned", "-o", "lora", "--data", "text.txt", "--val-size", 0, "--merge", *WINDOWS)


def recover_full(place: Place) -> None:
    place.prune("pruned")
    place.run("recover", "pruned", "-o", "full", "--data", "text.txt", "--val-size", 0, "--method", "full", *WINDOWS)


def sparsify(*options: object) -> Callable[[Place], None]:
    def run(place: Place) -> None:
        name = "sparse-" + "-".join(map(str, options)).strip("-").replace(":", "")
        if not (place / name).exists():
            place.run("sparsify", "model", "-o", name, *options, *CALIBRATED)

    return run


def recover_masked(place: Place) -> None:
    """A sparse model stays as sparse."""
    sparsify("--method", "wanda")(place)
    place.run("recover", "sparse-method-wanda", "-o", "masked", "--data", "text.txt", "--val-size", 0, *WINDOWS)


def attention(place: Place) -> str:
    """Tunes thresholds and uses them. Says how many layers have some."""
    figures = place / "tuned.json"
    figures.touch()
    data = ("--data", "text.txt", "--seqlen", 256, *FLOAT32)
    options = ("--samples", 2, "--l1", 0.3, "--pv-l1", 0.4, *BLOCKS, "--json", "tuned.json")
    place.run("attention", "tune", "model", "-o", "profile.safetensors", *data, *options)
    more = ("--profile", "profile.safetensors", "--windows", 1, "--repeats", 1)
    place.run("attention", "compare", "model", *more, *data)
    tuned = len(json.loads(figures.read_text())["layers"])
    return DONE if tuned == 4 else f"{DONE}, in {tuned} of 4 layers"


def evaluate(place: Place) -> None:
    place.prune("pruned")
    speed = ("--prompt-tokens", 8, "--new-tokens", 2, "--repeats", 1)
    windows = ("--windows", 2, "--seqlen", 32, *FLOAT32)
    place.run("evaluate", "model", "pruned", "--data", "text.txt", *windows, *speed)


def diagnose(place: Place) -> None:
    """No text: a random model knows less of it than one that guesses."""
    model, _ = secateur.load(str(place.prune("pruned")), dtype="float32")
    assert secateur.diagnose(model).problems == []


def plan(place: Place) -> None:
    place.run("plan", "model", "--devices", "8xH100")


COMMANDS: dict[str, Callable[[Place], str | None]] = {
    "prune": prune,
    "generate": generate,
    "prune --stream": prune_streamed,
    "prune --even": prune_evenly,
    "search": search,
    "recover": recover_lora,
    "sparsify": sparsify("--method", "wanda"),
    "sparsegpt": sparsify("--method", "sparsegpt"),
    "admm": sparsify("--method", "admm"),
    "2:4": sparsify("--pattern", "2:4"),
    "recover sparse": recover_masked,
    "recover full": recover_full,
    "attention": attention,
    "evaluate": evaluate,
    "diagnose": diagnose,
    "plan": plan,
}


def outcome(command: str, place: Place) -> Outcome:
    """Run a command on a family's model."""
    try:
        return Outcome(COMMANDS[command](place) or DONE)
    except RefusedError as error:
        return Outcome("no", str(error))
