"""How results show themselves: one line, a table in a notebook, a data frame, a figure."""

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.errors import InputError
from secateur.showing import MOST_ROWS, Drawn, Shown, figure_text, html_table

SMALL: dict[str, Any] = {"seqlen": 32, "samples": 4, "own_text": 0.0}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "a<b.txt"
    file.write_text("the quick brown fox jumps over the lazy dog. " * 100)
    return file


@pytest.fixture(scope="module")
def results(text: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> dict[str, Shown]:
    """One result of each kind."""
    from tiny import make_tiny_model

    model: PreTrainedModel = make_tiny_model("llama")
    given: dict[str, Any] = {"calibration": str(text), **SMALL}
    uncut = secateur.evaluate(model, tiny_tokenizer, data=str(text), seqlen=32, speed=False)
    found = secateur.search(model, tiny_tokenizer, ratio=0.2, rounds=1, measured=4, channel_multiple=1, **given)
    pruned = secateur.prune(model, tiny_tokenizer, ratio=0.2, importance="magnitude", channel_multiple=1, **given)
    cut = secateur.evaluate(model, tiny_tokenizer, data=str(text), seqlen=32, speed=False)
    return {
        "plan": secateur.plan(model, devices="1xRTX4090"),
        "diagnose": secateur.diagnose(model, tiny_tokenizer, data=str(text), seqlen=32),
        "tune": secateur.attention.tune(model, tiny_tokenizer, data=str(text), seqlen=256, samples=1),
        "search": found,
        "prune": pruned,
        "evaluate": cut,
        "compare": secateur.compare({"uncut": uncut, "cut": cut}),
        "sparsify": secateur.sparsify(model, tiny_tokenizer, method="magnitude"),
        "recover": secateur.recover(model, tiny_tokenizer, data=str(text), seqlen=32, samples=8, batch_size=4),
    }


KINDS = ["plan", "diagnose", "tune", "search", "prune", "evaluate", "compare", "sparsify", "recover"]


@pytest.mark.parametrize("kind", KINDS)
def test_results_show_themselves(results: dict[str, Shown], kind: str) -> None:
    result = results[kind]
    assert repr(result).startswith(type(result).__name__) and len(repr(result)) < 250 and "\n" not in repr(result)
    frame = result.to_pandas()
    assert len(frame) == len(result.rows_of_figures()) > 0
    page = result._repr_html_()
    assert "<table>" in page and "a<b" not in page, "what comes from outside is escaped"
    assert isinstance(result, Drawn)
    figure = result.plot()
    assert isinstance(figure, Figure) and figure.axes
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_frames_hold_what_results_say(results: dict[str, Any]) -> None:
    layers = results["prune"].to_pandas()
    assert list(layers["layer"]) == [0, 1, 2, 3]
    assert (layers["intermediate_size"] <= layers["intermediate_size before"]).all()
    assert list(results["compare"].to_pandas()["name"]) == ["uncut", "cut"]
    history = results["recover"].to_pandas()
    assert history["step"].iloc[-1] == results["recover"].steps


def test_pandas_that_is_missing_is_one_line(results: dict[str, Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"^to_pandas needs the package pandas; run: pip install pandas$"):
        results["prune"].to_pandas()


def test_long_tables_say_that_there_is_more() -> None:
    page = html_table([{"layer": number, "rate": 0.5} for number in range(MOST_ROWS + 3)])
    assert page.count("<tr>") == MOST_ROWS + 1 and "3 more rows" in page


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (1234567, "1,234,567"), (0.123456, "0.1235"), (1e6, "1,000,000"), (True, "True")]
)
def test_figures_in_tables(value: Any, text: str) -> None:
    assert figure_text(value) == text
