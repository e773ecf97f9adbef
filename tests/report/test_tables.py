"""The comparison table at 80 columns, its changes, and its Markdown."""

import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from secateur.report import (
    Column,
    TextTable,
    comparison_columns,
    comparison_markdown,
    comparison_table,
    health_table,
    memory_table,
    share_of_rise,
    text_notes,
    weights_table,
)
from secateur.report.layout import split
from secateur.report.planning import plan_table
from secateur.report.tables import baselines
from secateur.report.task_tables import task_table


def row(name, perplexity, parameters=134_515_008, prefill=712.3, decode=16.24, **more):
    return {
        "name": name,
        "perplexity": perplexity,
        "parameters": parameters,
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
        **more,
    }


@pytest.fixture
def rows():
    return [
        row("original", {"pydocs": 18.42}),
        row("pruned", {"pydocs": 31.77}, 107_012_345, 880.1, 19.7),
        row("recovered", {"pydocs": 22.9}, 107_012_345, 884.1, 19.6, recovers="pruned"),
    ]


def rendered(table, width=80):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(table, soft_wrap=True)
    return console.file.getvalue().splitlines()


WORDS = st.sampled_from(
    ["a", "of", "the", "12,345.67", "−60%", "半半", "out/experiments/pruned-25", "x" * 40, "y" * 70]
)
PHRASES = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)


@st.composite
def tables(draw):
    """Columns as tables have them: labels, phrases and figures, some of which belong to the one before."""
    rows = draw(st.integers(1, 4))
    labels = draw(st.integers(1, 2))
    columns = [
        Column(
            draw(PHRASES),
            [draw(PHRASES if index < labels else st.one_of(PHRASES, WORDS)) for _ in range(rows)],
            "left" if index < labels or draw(st.booleans()) else "right",
            index > labels and draw(st.booleans()),
        )
        for index in range(labels + draw(st.integers(0, 6)))
    ]
    return columns, labels


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from([60, 80, 120]))
def test_every_cell_is_whole_at_every_width(drawn, width):
    columns, labels = drawn
    lines = TextTable(columns, labels=labels).lines(width)
    shown = [word for line in lines for word in line.split()]
    parts = split(columns, width, labels)
    for column in columns:
        headers = [] if parts is None and column in columns[:labels] else [column.header]
        assert {*" ".join([*headers, *column.cells]).split()} <= {*shown}
    longest = max(cell_len(word) for word in shown)
    right = [cell for column in columns if column.justify == "right" for cell in [*column.cells]]
    assert max(map(cell_len, lines)) <= max(width, 2 + longest, 4 + max(map(cell_len, right), default=0) + longest)
    if parts is not None:
        assert max(map(cell_len, lines)) <= width
        for column in columns:
            found = [part for part in parts if any(one.cells is column.cells for one in part)]
            assert len(found) == (len(parts) if column in columns[:labels] else 1)
        for cell in right:
            assert any(cell in line for line in lines)


def test_off_a_terminal_a_table_is_wide(rows):
    console = Console(file=io.StringIO())
    console.print(comparison_table(rows), soft_wrap=True)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 1 + len(rows) and "prefill tok/s  decode tok/s" in lines[0]
    assert lines[3].startswith("recovered       22.90  −60% of the rise  107,012,345")


def test_what_does_not_fit_stands_below_with_the_same_labels(rows):
    assert rendered(comparison_table(rows), 60) == [
        "model      perplexity  change        parameters  change",
        "original        18.42  baseline     134,515,008  baseline",
        "pruned          31.77  +72.5%       107,012,345  −20.4%",
        "recovered       22.90  −60% of the  107,012,345  −20.4%",
        "                       rise",
        "",
        "model      prefill tok/s  decode tok/s",
        "original             712          16.2",
        "pruned               880          19.7",
        "recovered            884          19.6",
    ]


def test_a_label_that_leaves_no_room_stands_above_its_figures(rows):
    rows[1]["name"] = "/data/" + "long" * 16
    lines = rendered(comparison_table(rows[:2]), 60)
    assert lines[7:9] == [rows[1]["name"], "  perplexity 31.77"]
    assert lines[0] == "original" and "  parameters 134,515,008" in lines


def test_a_change_that_is_parted_from_its_figure_names_it(rows):
    for old in rows:
        old["perplexity"] = {"/data/a-long-text.txt[80%:]": 5.0, "b": 6.0}
        old["name"] = "out/experiments/pruned-25-taylor"
    lines = rendered(comparison_table(rows), 60)
    assert "change of perplexity" in " ".join(" ".join(lines).split())


def test_an_option_and_its_value_stay_together():
    phases = [
        {"phase": "recover", "options": "--devices 8 --micro-batch-size 4", "memory_bytes": 7e10, "seconds": None},
        {"phase": "prune, by fisher", "options": "", "memory_bytes": 1e9, "seconds": 60.0},
    ]
    lines = rendered(plan_table({"phases": phases}), 56)
    assert lines[2].endswith("does not fit") and "--devices 8 " in lines[2]
    assert lines[3].strip() == "--micro-batch-size 4"


def test_models_are_compared_with_the_uncut_one_of_their_family():
    rows = [
        row("a-pruned", 30.0, 80, family="a"),
        row("a", 10.0, 100, family="a"),
        row("b", 20.0, 200, family="b"),
        row("b-sparse", 25.0, 200, family="b", sparsity=0.5),
        row("b-recovered", 21.0, 210, family="b", sparsity=0.5, recovers="b-sparse"),
    ]
    assert baselines(rows) == [1, 1, 2, 2, 2]
    perplexity, parameters = (comparison_columns(rows)[index].cells for index in (2, 5))
    assert perplexity == ["+200%", "baseline", "baseline", "+25.0%", "−78% of the rise"]
    assert parameters == ["−20.0%", "baseline", "baseline", "0.0%", "+5.0%"]
    assert baselines(rows, baseline=0) == [0, 0, 2, 2, 2]
    named = [row("run/original", 10.0, 100), row("other", 9.0, 300), row("original (2)", 10.0, 100)]
    assert baselines(named) == [0, 0, 0]


def test_points_of_a_task_are_against_the_same_family():
    score = {"stderr": {"acc": 0.01}, "n": 100, "n_shot": 0, "prompts": "p"}
    rows = [
        {**row(name, 1.0, family=name[0]), "tasks": {"arc": {**score, "metrics": {"acc": accuracy}}}}
        for name, accuracy in (("a", 0.5), ("b", 0.7), ("b2", 0.6))
    ]
    assert [line.split()[-3] for line in task_table(rows).lines(80)[1:]] == ["–", "–", "−10.0"]
    assert [line.split()[0] for line in task_table(rows).lines(80)[1:]] == ["arc", "b", "b2"]


def test_the_demos_table(rows):
    assert rendered(comparison_table(rows)) == [
        "                                                                prefill  decode",
        "model      perplexity  change             parameters  change      tok/s   tok/s",
        "original        18.42  baseline          134,515,008  baseline      712    16.2",
        "pruned          31.77  +72.5%            107,012,345  −20.4%        880    19.7",
        "recovered       22.90  −60% of the rise  107,012,345  −20.4%        884    19.6",
    ]


@pytest.mark.parametrize("texts", [1, 2, 3])
def test_nothing_is_cut_short_at_80_columns(rows, texts):
    names = ["pydocs", "wikitext2", "/data/texts/garden_text.txt[80%:]"][:texts]
    names_of_models = ["smollm2-135m", "out/experiments/pruned-25-taylor", "recovered-25-taylor + adapter"]
    rows = [
        {**old, "name": name, "perplexity": dict.fromkeys(names, 12345.678)}
        for old, name in zip(rows, names_of_models, strict=True)
    ]
    rows[2]["recovers"] = names_of_models[1]
    lines = rendered(comparison_table(rows))
    text = "\n".join(lines)
    assert "…" not in text and max(map(len, lines)) <= 80
    assert text.count("12,346") == 3 * texts
    assert text.count("107,012,345") == 2 and "baseline" in text
    assert all(name in text for name in names_of_models)


def test_a_column_for_each_text(rows):
    for index, old in enumerate(rows):
        old["perplexity"] = {"pydocs": 18.0 + index, "wikitext2": 30.0}
    del rows[1]["perplexity"]["wikitext2"]
    columns = comparison_columns(rows)
    assert [column.header for column in columns[1:5]] == [
        "perplexity (pydocs)",
        "change",
        "perplexity (wikitext2)",
        "change",
    ]
    assert columns[3].cells == ["30.00", "–", "30.00"]
    assert columns[4].cells == ["baseline", "–", "0.0%"]
    assert re.search("perplexity +perplexity", rendered(comparison_table(rows))[0])


def test_perplexity_may_be_a_plain_number():
    columns = comparison_columns([row("a", 20.0), row("b", 25.0)])
    assert columns[1].header == "perplexity"
    assert columns[1].cells == ["20.00", "25.00"] and columns[2].cells == ["baseline", "+25.0%"]


def test_the_share_of_the_rise_is_of_log_perplexity(rows):
    assert share_of_rise(10, 40, 20) == pytest.approx(0.5)
    assert share_of_rise(10, 40, 10) == 1
    assert share_of_rise(10, 40, 80) == pytest.approx(-0.5)
    assert share_of_rise(10, 9, 8) is None
    gone = math.log(31.77 / 22.9) / math.log(31.77 / 18.42)
    assert comparison_columns(rows)[2].cells[2] == f"−{100 * gone:.0f}% of the rise"


@pytest.mark.parametrize(
    ("pruned", "recovered", "change"),
    [(40.0, 50.0, "+16% of the rise"), (10.0, 9.0, "−10.0%"), (None, 12.0, "+20.0%"), (40.0, None, "–")],
)
def test_a_recovered_model_where_there_is_no_plain_share(pruned, recovered, change):
    rows = [row("a", 10.0), row("b", pruned), row("c", recovered, recovers="b")]
    assert comparison_columns(rows)[2].cells[2] == change


def test_what_is_not_finite_or_not_measured():
    rows = [
        row("a", {"t": 10.0}, prefill=None, decode=None),
        row("b", {"t": None}, prefill=None, decode=None),
    ]
    columns = comparison_columns(rows)
    assert [column.header for column in columns] == ["model", "perplexity", "change", "parameters", "change"]
    assert columns[1].cells == ["10.00", "not finite"]
    rows[0]["prefill_tokens_per_second"] = 5.0
    assert comparison_columns(rows)[5].cells == ["5", "–"]


@pytest.mark.parametrize(
    ("value", "figure"), [(9.996, "10.00"), (1234.5, "1,234.50"), (43210.9, "43,211"), (2.5e9, "2.5e+09")]
)
def test_large_perplexities_stay_short(value, figure):
    assert comparison_columns([row("a", value)])[1].cells == [figure]


def test_another_row_can_be_the_baseline(rows):
    columns = comparison_columns(rows, baseline=1)
    assert columns[2].cells[:2] == ["−42.0%", "baseline"]
    assert columns[4].cells == ["+25.7%", "baseline", "0.0%"]


def test_markdown_has_the_same_cells(rows):
    lines = comparison_markdown(rows).splitlines()
    assert lines[0] == "| model | perplexity | change | parameters | change | prefill tok/s | decode tok/s |"
    assert lines[1] == "| --- | ---: | --- | ---: | --- | ---: | ---: |"
    assert lines[4] == "| recovered | 22.90 | −60% of the rise | 107,012,345 | −20.4% | 884 | 19.6 |"
    rows[0]["name"] = "a|b"
    assert "| a\\|b |" in comparison_markdown(rows)


def test_memory(rows):
    rows[0].update(size_bytes=269_060_552, peak_memory_bytes=1_234_567_890)
    rows[1].update(size_bytes=214_000_000, peak_memory_bytes=None)
    assert rendered(memory_table(rows[:2])) == [
        "model     size on disk  change    peak memory  change",
        "original      269.1 MB  baseline      1.23 GB  baseline",
        "pruned        214.0 MB  −20.5%              –  –",
    ]


def test_memory_that_was_not_measured_has_no_column(rows):
    for old in rows:
        old.update(size_bytes=214_000_000, peak_memory_bytes=None)
    assert rendered(memory_table(rows))[0] == "model      size on disk  change"


def test_names_end_at_spaces_only(rows):
    for old, name in zip(rows, ("original", "smollm2-prune/original (2)", "smollm2-prune/recovered"), strict=True):
        old.update(name=name, recovers=None, sparsity=0.5)
    text = "\n".join(rendered(comparison_table(rows)))
    assert "smollm2-prune/recovered" in text and "smollm2-prune/original" in text


def test_notes_name_each_text_once(rows):
    for old in rows:
        old.update(corpora={"pydocs": "pydocs, test split"}, windows={"pydocs": 40}, seqlen=512, stride=256)
    rows[1]["windows"] = {"other": 1}
    rows[1]["corpora"] = {"other": "a file"}
    notes = text_notes(rows)
    assert notes[1] == "perplexity on a file; 1 window of 512 tokens, one every 256"
    assert notes[:1] == ["perplexity on pydocs, test split; 40 windows of 512 tokens, one every 256"]


def test_health():
    long_name = "model.layers.10.post_attention_layernorm.weight"
    report = {
        "problems": [
            {"where": "layer 1 [x]", "what": "3 of 96 rows are zero", "severity": "warning"},
            {"where": long_name, "what": "1 of 64 values are NaN", "severity": "error"},
        ],
        "tensors": [
            {"name": f"model.layers.{layer}.mlp.up_proj.weight", "zeros": zeros, "largest": largest}
            for layer, zeros, largest in ((0, 0.0, 1.5), (1, 0.03125, 0.5))
        ],
    }
    lines = rendered(health_table(report))
    assert lines[1].split()[:2] == ["error", long_name]
    assert any(line.startswith("warning   layer 1 [x] ") for line in lines)
    assert rendered(weights_table(report))[1].split() == [
        "model.layers.*.mlp.up_proj",
        "2",
        *["0.00%", "to", "3.12%", "1.5"],
    ]


def test_zeros_have_a_column_where_a_model_has_some(rows):
    assert "zeros" not in [column.header for column in comparison_columns(rows)]
    sparse = [*rows[:1], {**rows[0], "name": "sparse", "sparsity": 0.5}]
    (zeros,) = [column for column in comparison_columns(sparse) if column.header == "zeros"]
    assert zeros.cells == ["–", "50.0%"]
    recovered = {**rows[2], "parameters": 134_515_008, "recovers": "sparse", "sparsity": 0.5}
    assert max(map(len, rendered(comparison_table([*sparse, recovered])))) <= 80


def test_a_model_below_the_original_is_compared_with_it(rows):
    rows[2]["perplexity"] = {"pydocs": 16.87}
    assert rendered(comparison_table(rows))[-1].split()[2] == "−8.4%"
