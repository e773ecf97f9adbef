"""The HTML page: self-contained, escaped, complete."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from run_figures import importance, plan

from secateur.report import Page, Picture, Sample, Table, render, run_page, source_warnings
from secateur.report.page import _sample_note

SVG = "<svg><path/></svg>"


class Tags(HTMLParser):
    """Collects tags with their attributes, and checks that they close in order."""

    VOID = frozenset({"meta", "img", "br", "link", "source"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(autouse=True)
def nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Picture, "drawn", lambda title, _, caption="": Picture(title, SVG, SVG, caption))


@pytest.fixture
def page() -> Page:
    return Page(
        title="A <title>",
        summary=["One & two."],
        table=Table(["model", "perplexity"], [["<b>original</b>", "12.3"]], caption="On pydocs."),
        warnings=["Trained on it."],
        texts=[("perplexity", "pydocs, test split")],
        pictures=[Picture("Loss", SVG, SVG, "Falls.")],
        samples=[Sample("Once <i>", {"original": " upon a time", "pruned": " & again"})],
        sample_note="Greedy.",
        commands=[("All of it", "secateur run 'my recipe.yaml'")],
        settings="model: m\nratio: <0.2>",
        facts=[("torch", "2.13.0")],
    )


def test_everything_is_there(page: Page) -> None:
    html = render(page)
    for text in (
        "12.3",
        "On pydocs.",
        "Trained on it.",
        "pydocs, test split",
        "Falls.",
        "upon a time",
        "Greedy.",
        "2.13.0",
    ):
        assert text in html
    assert "secateur run &#39;my recipe.yaml&#39;" in html


def test_a_sample_is_its_prompt_once_and_the_models_in_columns(page: Page) -> None:
    html = render(page)
    assert html.count("Once &lt;i&gt;") == 1
    columns = re.search(r'<div class="samples">(.*?)</div>\n</div>', html, re.DOTALL)
    assert columns is not None
    assert re.findall(r'<div class="soft">(.*?)</div>\n<blockquote>(.*?)</blockquote>', columns[1]) == [
        ("original", " upon a time"),
        ("pruned", " &amp; again"),
    ]


@pytest.mark.parametrize(
    ("chat", "note"),
    [
        ([False, False], "Continuations, greedy, 8 tokens at most."),
        ([True, True], "Answers through the chat template, greedy"),
        ([True, False], "Answers through the chat template and continuations, greedy"),
    ],
)
def test_the_note_says_how_samples_are_made(chat: list[bool], note: str) -> None:
    models = [{"samples": [{"prompt": "Once", "continuation": "", "chat": value}]} for value in chat]
    assert _sample_note(models, 8).startswith(note)


def test_text_is_escaped(page: Page) -> None:
    html = render(page)
    for text in ("<b>", "<i>", "A <title>", "<0.2>"):
        assert text not in html
    assert "&lt;b&gt;original&lt;/b&gt;" in html


def test_it_needs_nothing_else(page: Page) -> None:
    html = render(page)
    tags = Tags(html).tags
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in tags)
    sources = [attributes[name] for _, attributes in tags for name in ("src", "srcset", "href") if name in attributes]
    assert len(sources) == 2
    assert all(source and source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(", html)


def test_sections_without_content_are_left_out() -> None:
    html = render(Page("t", ["s"], Table(["model"], [["m"]])))
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == ["The models side by side"]


def figures(name: str, perplexity: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": 1000,
        "perplexity": {"pydocs": perplexity},
        "windows": {"pydocs": 4},
        "corpora": {"pydocs": "pydocs, test split"},
        "seqlen": 32,
        "stride": None,
        "prefill_tokens_per_second": 100.0,
        "decode_tokens_per_second": 10.0,
        "samples": [{"prompt": "Once", "continuation": f" by {name}"}],
        **more,
    }


@pytest.fixture
def metrics() -> dict[str, Any]:
    return {
        "name": "demo",
        "model": "m",
        "seed": 0,
        "models": [
            figures("original", 10.0),
            figures("pruned", 40.0, parameters=800),
            figures("recovered", 20.0, parameters=800, recovers="pruned", prefill_tokens_per_second=125.0),
        ],
        "sample_tokens": 8,
        "texts": [
            text("evaluation", "pydocs", "pydocs, test split", name="pydocs", figure="perplexity on pydocs"),
            text("training", "pydocs", "pydocs, train split", figure="training"),
        ],
        "training": {
            "history": [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "eval_cross_entropy": 2.5}],
            "corpus": "pydocs, train split",
            "settings": {"teacher": "m"},
        },
        "commands": [{"purpose": "All", "command": "secateur run r.yaml"}],
        "seconds": {"prune": 61.0},
        "versions": {"torch": "2.13.0"},
        "machine": {"cores": 2},
    }


def text(role: str, source: str, description: str, **more: str) -> dict[str, str]:
    return {"role": role, "source": source, "amount": "4 windows", "description": description, **more}


def test_the_summary_has_the_figures(metrics: dict[str, Any]) -> None:
    summary = " ".join(run_page(metrics).summary)
    assert "1,000 parameters became 800: 20.0% were removed." in summary
    assert "from 10.00 to 40.00 by the cut, and to 20.00 by training: 50% of the rise" in summary
    assert "Reading a prompt went from 100 to 125 tokens per second" in summary


def test_a_training_that_made_it_worse_is_called_that(metrics: dict[str, Any]) -> None:
    metrics["models"][2] |= {"perplexity": {"pydocs": 50.0}}
    summary = " ".join(run_page(metrics).summary)
    assert "to 40.00 by the cut, and to 50.00 by training: training made it worse by 25.0%." in summary
    assert run_page(metrics).table.rows[2][2] == "25.0% worse than cut"


def test_the_page_of_a_run(metrics: dict[str, Any]) -> None:
    page = run_page(metrics, settings="model: m")
    assert page.table.rows[2][:3] == ["recovered", "20.00", "−50% of the rise"]
    assert page.samples == [Sample("Once", {name: f" by {name}" for name in ("original", "pruned", "recovered")})]
    assert [picture.title for picture in page.pictures] == ["Perplexity by stage", "Loss while training"]
    assert "from the teacher's" in page.pictures[1].caption
    assert page.texts[1] == ("training", "4 windows of pydocs, train split")
    assert ("all stages", "1 min 1 s") in page.facts
    Tags(render(page))


def test_without_training_or_cut(metrics: dict[str, Any]) -> None:
    metrics["models"] = metrics["models"][:2]
    metrics["training"] = None
    assert "from 10.00 to 40.00 by the cut." in " ".join(run_page(metrics).summary)
    metrics["models"] = metrics["models"][:1]
    page = run_page(metrics)
    assert page.summary == []
    assert page.pictures == []


def test_training_on_the_measured_source_is_said() -> None:
    measured = text("evaluation", "pydocs", "pydocs, test split", name="pydocs")
    (warning,) = source_warnings([measured, text("training", "pydocs", "pydocs, train split")])
    assert "the recovered model was trained on the same source (pydocs, train split)" in warning
    (warning,) = source_warnings([measured, text("calibration", "pydocs", "pydocs, test split")])
    assert "the pruned model was calibrated on this very text" in warning
    (warning,) = source_warnings([measured, text("rounding", "pydocs", "pydocs, test split")])
    assert "the quantised model was calibrated on this very text" in warning
    assert source_warnings([measured, text("training", "sha256:1", "a.txt")]) == []


def test_columns_that_do_not_fit_stand_in_a_second_table_with_the_same_labels() -> None:
    header = ["model", *(f"accuracy on task number {number}" for number in range(12))]
    table = Table(header, [["a-model", *("40.0%" for _ in header[1:])], ["another", *("50.0%" for _ in header[1:])]])
    parts = table.parts()
    assert len(parts) > 1
    assert [name for part in parts for name in part.header[1:]] == header[1:]
    assert all(part.header[0] == "model" and [row[0] for row in part.rows] == ["a-model", "another"] for part in parts)
    widths = [len(part.header) for part in parts]
    assert max(widths) - min(widths) <= 2
    assert Table(["model", "perplexity"], []).parts()[0].header == ["model", "perplexity"]


@pytest.mark.parametrize(("allocation", "shown"), [("global", False), ("inverse", True)])
def test_scores_of_layers_stand_there_where_the_cut_went_by_them(
    metrics: dict[str, Any], allocation: str, shown: bool
) -> None:
    metrics["texts"].append(text("importance", "", "pydocs", figure="layer importance"))
    page = run_page(metrics, plan=plan(3, allocation=allocation), importance=importance(3))
    assert ("layer importance" in [figure for figure, _ in page.texts]) == shown
    assert ("Layers scored on" in page.pictures[1].caption) == shown
