"""What the benchmarks share: where their text lies, the options of all of them, and perplexity on text not cut by."""

import argparse
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.data import load_corpus, token_windows
from secateur.evaluation import perplexity

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ("wikitext2", "pydocs")
WIKITEXT = ROOT.parent / "shared" / "data" / "wikitext2-valid.txt"


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with `--data` and `--seed`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=existing_file, default=str(WIKITEXT), help="WikiText-2 validation split")
    made.add_argument("--seed", type=int, default=0)
    return made


def existing_file(path: str) -> Path:
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{path} is missing; give WikiText-2's validation split as a text file")
    return Path(path)


def perplexities(
    tokenizer: PreTrainedTokenizerBase, data: Path, limit: int
) -> Callable[[PreTrainedModel], dict[str, float]]:
    """A measure of models by `TEXTS`: the last 20 % of `data` and the test split of `pydocs`, `limit` windows each."""
    names = dict(zip(TEXTS, (f"{data}[80%:]", "pydocs"), strict=True))
    windows = {
        name: token_windows(tokenizer, load_corpus(text, "test"), 512, limit=limit) for name, text in names.items()
    }
    return lambda model: {name: perplexity(model, tokens) for name, tokens in windows.items()}
