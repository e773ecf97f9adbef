"""Plots: what is drawn, that axes say what they show, that nothing is cut off, that odd data do not stop them."""

import io
import math

import pytest
from matplotlib import image, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from run_figures import importance, metrics, plan, sweep_rows, zeros

from secateur.report import attention_map, loss_curve, perplexity_plot
from secateur.report.comparison import size_figure, sweep_figure
from secateur.report.longrange import pattern_figure, switch_figure
from secateur.report.maps import attention_figure, sparsity_figure
from secateur.report.plots import loss_figure, perplexity_figure, stage_figure
from secateur.report.search import search_figure
from secateur.report.strategy import strategy_figure
from secateur.report.style import DOTS_PER_INCH, NARROW, STYLE, WIDE, plain_label, svg

PROFILE = {
    "layers": [{"layer": layer, "sparsity": [0.1 * layer] * (4 if layer == 3 else 6)} for layer in (2, 3, 5)],
    "mean_sparsity": 0.3,
}
ROUNDS = [{"divergence": 0.6 - 0.01 * index, "attention_share": 0.2 + 0.1 * index} for index in range(4)]
HISTORY = [{"step": step, "loss": 4.0 - step / 20} for step in range(1, 30)] + [{"step": 29, "eval_loss": 3.6}]
SWITCH = {
    "history": [
        {"step": step, "layers": [{"skewness": 1.0, "change_percent": 100 / step}] * 4} for step in (10, 20, 90)
    ],
    "evaluations": [{"step": 50, "accuracy": 0.5}],
    "skewness": 1,
    "distance": 1.5,
    "switched": 50,
    "reason": "settled",
}


def rows(*perplexities, name="model"):
    return [
        {"name": f"{name}-{index}", "perplexity": perplexity, "parameters": 1000 + index}
        for index, perplexity in enumerate(perplexities)
    ]


def size(png):
    height, width, _ = image.imread(io.BytesIO(png), format="png").shape
    return width, height


def title(axes):
    """What a panel says that it shows."""
    return " ".join(axes.get_title(loc="left").split())


def legend(figure):
    return [text.get_text() for found in figure.legends for text in found.get_texts()]


def widths(axes):
    return [bar.get_width() for bars in axes.containers for bar in bars]


def heights(axes, number):
    return [bar.get_height() for bar in axes.containers[number]]


DRAWN = {
    "perplexity": lambda width: perplexity_figure(metrics()["models"], width),
    "stages": lambda width: stage_figure(metrics()["models"], width),
    "stages far apart": lambda width: stage_figure(rows({"a": 10.0}, {"a": 3000.0}), width),
    "loss": lambda width: loss_figure(HISTORY, width),
    "strategy": lambda width: strategy_figure(plan(8, allocation="inverse"), importance(8), width),
    "zeros": lambda width: sparsity_figure(zeros(8, None), width),
    "attention": lambda width: attention_figure(PROFILE, width),
    "sizes": lambda width: size_figure(sweep_rows(3), width),
    "sweep": lambda width: sweep_figure(sweep_rows(3), "prune.ratio", width),
    "search": lambda width: search_figure({"rounds": ROUNDS, "best": 2}, width),
    "switch": lambda width: switch_figure(SWITCH, width),
    "patterns": lambda width: pattern_figure([[[True, False], [False, True]]] * 2, 64, width),
}


@pytest.mark.parametrize("width", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("name", DRAWN)
def test_no_text_is_cut_off_and_every_axis_says_what_it_is(name, width):
    figure = DRAWN[name](width)
    with rc_context(STYLE):
        FigureCanvasAgg(figure).draw()
        box = figure.get_tightbbox()  # of all that is drawn, in inches
        texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
    assert box.x0 > -0.02 and box.y0 > -0.02
    assert box.x1 < width + 0.02 and box.y1 < figure.get_figheight() + 0.02
    assert min(text.get_fontsize() for text in texts) >= 9
    for axes in figure.axes:
        assert axes.get_title(loc="left") or axes.get_ylabel() or axes.get_label() == "<colorbar>"
        assert not any(line.get_linestyle() == "-" for line in axes.lines) or name in ("loss", "sweep", "switch")


def test_the_strategy_has_labelled_panels():
    figure = strategy_figure(plan(4, frozen=(0,), allocation="inverse"), importance(4))
    score, removed, groups, channels = figure.axes
    assert "which the cut went by: rise of log-perplexity" in title(score)
    assert title(removed) == "removed (share of parameters)" and removed.get_ylim() == (0, 1)
    assert "KV groups kept" in title(groups) and "MLP channels kept" in title(channels)
    assert channels.get_xlabel() == "decoder layer"
    assert heights(groups, 1) == [3, 2, 2, 2]
    assert heights(removed, 0) == [0, 1 / 3, 1 / 3, 1 / 3]
    assert "frozen" in legend(figure) and "--max-rate 80%" in legend(figure)
    assert "asked 20.0%, removed 19.9%" in figure.get_suptitle()


@pytest.mark.parametrize("settings", [{}, {"allocation": "inverse", "even": True}, {"plan": "x/pruning_plan.json"}])
def test_scores_that_the_cut_did_not_go_by_are_not_drawn(settings):
    figure = strategy_figure(plan(3, **settings), importance(3))
    assert [title(axes).split(" (")[0] for axes in figure.axes] == ["removed", "KV groups kept", "MLP channels kept"]


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"max_rate": 0.6, "min_rate": 0.1}, ["--max-rate 60%, --min-rate 10%"]),
        ({"max_rate": 0.5}, []),
        ({"max_rate": 1.0}, []),
        ({"plan": "x"}, []),
        ({"target": "depth"}, []),
    ],
)
def test_the_limits_of_rates_are_drawn_where_there_were_any(settings, shown):
    figure = strategy_figure(plan(3, **settings))
    assert [text for text in legend(figure) if "rate" in text] == shown
    assert len(figure.axes[0].lines) == (2 if "min_rate" in settings else len(shown))


def test_a_plan_without_settings_and_importance_in_the_plan():
    content = plan(3)
    del content["settings"]
    assert len(strategy_figure(content).axes) == 3
    content["settings"] = {"allocation": "proportional"}
    figure = strategy_figure(content)
    assert heights(figure.axes[0], 0) == [layer["importance"] for layer in content["layers"]]


@pytest.mark.parametrize(
    ("scores", "scale"), [([0.1, 0.2, 9], "log"), ([1, 2, 3], "linear"), ([-0.1, 0.2, 9], "linear")]
)
def test_importance_is_logarithmic_where_one_layer_dwarfs_the_rest(scores, scale):
    figure = strategy_figure(plan(3, allocation="inverse"), {**importance(3), "importance": scores})
    assert figure.axes[0].get_yscale() == scale
    assert ("log scale, 0.1 to 9" in title(figure.axes[0])) == (scale == "log")


def test_perplexity_of_several_texts():
    figure = perplexity_figure(rows({"a": 10.0, "/data/b.txt": 20.0}, {"a": 12.0, "/data/b.txt": 30.0}))
    one, other = figure.axes
    assert (widths(one), widths(other)) == ([10, 12], [20, 30])
    assert title(one) == "perplexity on a; dotted: model-0" and title(other).startswith("perplexity on b.txt")
    assert one.get_xlim()[0] == 0
    assert {"model-0", "model-1", "12.0"} <= {text.get_text() for text in one.texts}


@pytest.mark.parametrize("draw", [perplexity_figure, stage_figure])
def test_what_is_not_finite_is_said(draw):
    axes = draw(rows({"a": 10.0}, {"a": None}, {"a": 3000.0}, {"a": math.inf}, {"a": 1e304})).axes[0]
    assert sum(text.get_text() == "not finite" for text in axes.texts) == 3
    assert axes.get_xscale() == "log" and title(axes).endswith("(log scale, 10 to 3,000)")


def test_plain_numbers_and_nothing_finite_at_all():
    assert title(perplexity_figure(rows(10.0, 12.0)).axes[0]) == "perplexity; dotted: model-0"
    assert widths(stage_figure(rows(None, None)).axes[0]) == []


def test_stages_are_in_order_with_their_parameters():
    upper, lower = stage_figure(rows({"a": 10.0}, {"a": 16.0}, {"a": 12.0})).axes
    assert widths(upper) == [10, 16, 12]
    assert widths(lower) == pytest.approx([0.001, 0.001001, 0.001002])
    assert title(lower) == "parameters (millions)" and upper.get_ylim()[0] > upper.get_ylim()[1]


def test_the_loss_curve_has_both_losses():
    history = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.5}, {"step": 2, "eval_loss": 3.6}, {"step": 3}]
    axes = loss_figure(history).axes[0]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 4.0], [2, 3.5]], [[2, 3.6]]]
    assert axes.get_xlabel() == "optimiser step"
    assert title(axes) == "loss (nats per token); the axis goes from 3.4 to 4.1"


def test_each_part_of_a_loss_has_a_panel():
    history = [
        {"step": 1, "loss": 2.5, "cross_entropy": 4.0, "kl_divergence": 1.0},
        {"step": 2, "loss": 2.1, "cross_entropy": 3.5, "kl_divergence": 0.7, "eval_cross_entropy": 3.6},
        {"step": 3, "eval_kl_divergence": 0.8},
    ]
    above, below = loss_figure(history).axes
    assert [line.get_xydata().tolist() for line in above.lines] == [[[1, 4.0], [2, 3.5]], [[2, 3.6]]]
    assert [line.get_xydata().tolist() for line in below.lines] == [[[1, 1.0], [2, 0.7]], [[3, 0.8]]]
    assert title(above).startswith("cross entropy (nats per token)") and title(below).startswith("KL from the teacher")
    (axes,) = loss_figure([{"step": 1, "loss": 4.0, "eval_cross_entropy": 3.9}]).axes
    assert len(axes.lines) == 2 and title(axes).startswith("loss (nats per token)")


def test_an_empty_history_gives_an_empty_plot():
    assert size(loss_curve([]))[0] == WIDE * DOTS_PER_INCH


def test_the_same_data_give_the_same_image():
    assert perplexity_plot(rows(10.0, 12.0)) == perplexity_plot(rows(10.0, 12.0))
    assert svg(perplexity_figure(rows(10.0, 12.0))) == svg(perplexity_figure(rows(10.0, 12.0)))


def test_the_map_of_zeros_has_layers_across_and_projections_down():
    matrices = [
        {"layer": layer, "name": name, "sparsity": 0.4 + 0.1 * (name == "q_proj") + 0.01 * layer}
        for layer in (3, 4, 5)
        for name in ("q_proj", "down_proj")
        if (layer, name) != (4, "q_proj")
    ]
    figure = sparsity_figure({"matrices": matrices, "asked": 0.5, "reached": 0.473, "zeros": 12345})
    axes, _ = figure.axes
    drawn = axes.collections[0].get_array()
    assert drawn.shape == (2, 3)
    assert drawn[0][0] == pytest.approx(0.53) and drawn[1][2] == pytest.approx(0.45) and math.isnan(drawn.data[0][1])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["q_proj", "down_proj"]
    assert axes.xaxis.get_major_formatter()(0) == "3" and axes.get_xlabel() == "decoder layer"
    assert title(axes) == "share of weights that are zero; colours from 43.0% to 55.0%"
    assert figure.get_suptitle() == "12,345 zeros, 47.3% of these weights"


def test_zeros_in_a_pattern_are_drawn_by_what_they_took():
    figure = sparsity_figure(zeros(3, "2:4"))
    axes, _ = figure.axes
    assert "share of the squared norm" in title(axes) and "from 0.0% to 11.4%" in title(axes)
    assert axes.collections[0].get_array()[6][2] == pytest.approx(0.05 + 0.004 + 0.06)
    assert "2 of every 4 neighbours" in figure.get_suptitle()
    assert len(sparsity_figure(zeros(3, None)).axes) == 4


def test_attention_map_has_a_row_for_each_head():
    figure = attention_figure(PROFILE)
    drawn = figure.axes[0].collections[0].get_array().filled(math.nan)
    assert drawn.shape == (6, 4)
    assert drawn[0, 1] == pytest.approx(0.3)
    assert math.isnan(drawn[5, 1])
    assert math.isnan(drawn[0, 2])
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("decoder layer", "query head")
    assert size(attention_map(PROFILE))[0] > 500


def test_categories_are_not_joined_by_a_line():
    given = [{**row, "values": {"prune.importance": name}} for row, name in zip(sweep_rows(1), "abc", strict=True)]
    assert {line.get_linestyle() for line in sweep_figure(given, "prune.importance").axes[0].lines} == {"None"}
    assert "-" in {line.get_linestyle() for line in sweep_figure(sweep_rows(2), "prune.ratio").axes[0].lines}


def test_an_axis_that_does_not_begin_at_nothing_says_so():
    (axes,) = size_figure(rows(10.0, 10.5)).axes
    assert "the axis goes from 9.9 to 10.6" in title(axes) and "the axis goes from" in axes.get_xlabel()
    (axes,) = size_figure(rows(10.0, 40.0)).axes
    assert title(axes) == "perplexity" and axes.get_ylim()[0] == 0


STRANGE = ["cost_$5", "$x^$", r"\frac{a}", "_hidden", "a\nb\tc", "x" * 300, "半\ud800", "$", ""]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_are_drawn_as_they_are():
    """`$` is no formula, `_` hides nothing from a legend, and a long name leaves room for the plot."""
    texts = {"/data/$x^$.txt": 10.0, "/data/_hidden": 3000.0, f"/data/{'x' * 300}": 20.0}
    models = [
        {**row, "name": name, "tasks": {}, "values": {"prune.calibration": name} if index else {}}
        for index, (name, row) in enumerate(zip(STRANGE, rows(*[texts] * len(STRANGE)), strict=True))
    ]
    matrices = [{"layer": 0, "name": name, "sparsity": 0.5} for name in STRANGE]
    figures = [
        perplexity_figure(models),
        stage_figure(models),
        size_figure(models),
        sweep_figure(models, "prune.calibration"),
        strategy_figure(plan(3, allocation="inverse"), {**importance(3), "unit": STRANGE[0]}),
        sparsity_figure({"matrices": matrices, "asked": 0.5, "reached": 0.5, "zeros": 1}),
        switch_figure({**SWITCH, "reason": STRANGE[1]}),
    ]
    for figure in figures:
        with rc_context(STYLE):
            FigureCanvasAgg(figure).draw()
            assert not any(text.get_parse_math() for text in figure.findobj(Text))
        assert figure.axes[0].get_position().width > 0.2
    for figure in figures[:2]:
        assert "$x^$.txt" in title(figure.axes[0])
        assert {plain_label(name) for name in STRANGE} <= {text.get_text() for text in figure.axes[0].texts}
    assert any("_hidden" in text.get_text() for text in figures[3].axes[0].get_legend().get_texts())


@pytest.mark.parametrize("name", STRANGE)
def test_labels_stay_on_one_line_and_short(name):
    label = plain_label(name)
    assert len(label) <= 49 and not set(label) & set("\n\t\ud800") and not label.startswith("_")
    assert label.strip() in (name, "a b c", "半") or "…" in label
