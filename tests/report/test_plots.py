"""Plots: what is drawn, that axes are labelled, that odd data do not stop them."""

import io
import math

import pytest
from matplotlib import image
from matplotlib.text import Text

from secateur.report import (
    attention_map,
    comparison,
    longrange,
    loss_curve,
    perplexity_plot,
    plots,
    pruning_strategy,
    sparsity_map,
    stage_plot,
)


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn, in order."""
    drawn = []
    made = plots.png
    monkeypatch.setattr(plots, "png", lambda figure: drawn.append(figure) or made(figure))
    return drawn


def size(png):
    height, width, _ = image.imread(io.BytesIO(png), format="png").shape
    return width, height


def plan(layers, frozen=()):
    return {
        "ratio": 0.25,
        "reached": 0.2487,
        "parameters_before": 134515008,
        "parameters_after": 101052008,
        "layers": [
            {
                "layer": layer,
                "importance": None,
                "num_key_value_heads": [4, 4 if layer in frozen else 3],
                "num_attention_heads": [8, 8 if layer in frozen else 6],
                "intermediate_size": [96, 96 if layer in frozen else 60 + layer % 7],
                "rate": 0.0 if layer in frozen else 0.3,
                "attention_rate": 0.0 if layer in frozen else 0.25,
                "mlp_rate": 0.0 if layer in frozen else 0.35,
                "frozen": layer in frozen,
            }
            for layer in range(layers)
        ],
    }


def importance(layers, scale=1.0):
    scores = [scale * (1 + layer) for layer in range(layers)]
    return {"method": "removal", "unit": "rise of log-perplexity", "importance": scores}


def rows(*perplexities):
    return [
        {"name": f"model-{index}", "perplexity": perplexity, "parameters": 1000 + index}
        for index, perplexity in enumerate(perplexities)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 4, 30, 80])
def test_the_strategy_has_three_labelled_panels(figures, layers):
    png = pruning_strategy(plan(layers, frozen=(0,)), importance(layers))
    score, removed, kept, channels = figures[0].axes
    assert "rise of log-perplexity" in score.get_ylabel()
    assert "share of parameters" in removed.get_ylabel()
    assert (kept.get_ylabel(), channels.get_ylabel()) == ("KV groups kept", "MLP channels kept")
    assert kept.get_xlabel() == "decoder layer"
    assert [bar.get_height() for bar in kept.containers[1]] == [4] + [3] * (layers - 1)
    assert [bar.get_height() for bar in removed.containers[1]] == [0] + [0.35] * (layers - 1)
    assert "frozen" in [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert "asked 25.0%, removed 24.9%" in figures[0].get_suptitle()
    assert size(png)[0] <= 15 * plots.DOTS_PER_INCH


def test_the_strategy_without_importance(figures):
    pruning_strategy(plan(6))
    assert len(figures[0].axes) == 3
    assert "frozen" not in [text.get_text() for text in figures[0].legends[0].get_texts()]


def test_importance_comes_from_the_plan_where_it_stands_there(figures):
    content = plan(3)
    for layer in content["layers"]:
        layer["importance"] = 0.5
    pruning_strategy(content)
    assert [bar.get_height() for bar in figures[0].axes[0].containers[0]] == [0.5] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "scale"), [([0.1, 0.2, 9], "log"), ([1, 2, 3], "linear"), ([-0.1, 0.2, 9], "linear")]
)
def test_importance_is_logarithmic_where_one_layer_dwarfs_the_rest(figures, scores, scale):
    pruning_strategy(plan(3), {**importance(3), "importance": scores})
    assert figures[0].axes[0].get_yscale() == scale


def test_perplexity_of_several_texts(figures):
    perplexity_plot(rows({"a": 10.0, "/data/b.txt": 20.0}, {"a": 12.0, "/data/b.txt": 30.0}))
    axes = figures[0].axes[0]
    assert [[bar.get_height() for bar in bars] for bars in axes.containers] == [[10, 12], [20, 30]]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["a", "b.txt"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("model", "perplexity", "linear")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["model-0", "model-1"]


@pytest.mark.parametrize("plot", [perplexity_plot, stage_plot])
def test_what_is_not_finite_is_said(figures, plot):
    plot(rows({"a": 10.0}, {"a": None}, {"a": 3000.0}, {"a": math.inf}, {"a": 1e304}))
    axes = figures[0].axes[0]
    assert sum(text.get_text() == "not finite" for text in axes.texts) == 3
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "perplexity on a (log scale)"


def test_plain_numbers_and_nothing_finite_at_all(figures):
    perplexity_plot(rows(10.0, 12.0))
    stage_plot(rows(None, None))
    assert figures[0].axes[0].get_ylabel() == "perplexity"


def test_stages_are_in_order_with_their_parameters(figures):
    stage_plot(rows({"a": 10.0}, {"a": 16.0}, {"a": 12.0}))
    upper, lower = figures[0].axes
    assert upper.lines[0].get_ydata().tolist() == [10, 16, 12]
    assert [bar.get_height() for bar in lower.containers[0]] == pytest.approx([0.001, 0.001001, 0.001002])
    assert (lower.get_xlabel(), lower.get_ylabel()) == ("stage", "parameters (millions)")


def test_the_loss_curve_has_both_losses(figures):
    history = [
        {"step": 1, "loss": 2.5, "cross_entropy": 4.0, "kl_divergence": 1.0},
        {"step": 2, "loss": 2.1, "cross_entropy": 3.5, "kl_divergence": 0.7, "eval_cross_entropy": 3.6},
        {"step": 3, "eval_kl_divergence": 0.8},
    ]
    loss_curve(history)
    above, below = figures[0].axes
    assert [line.get_xydata().tolist() for line in above.lines] == [[[1, 4.0], [2, 3.5]], [[2, 3.6]]]
    assert [line.get_xydata().tolist() for line in below.lines] == [[[1, 1.0], [2, 0.7]], [[3, 0.8]]]
    assert (below.get_xlabel(), above.get_ylabel()) == ("optimiser step", "cross entropy (nats per token)")
    assert below.get_ylabel() == "KL from the teacher (nats per token)"


def test_the_loss_curve_without_a_teacher_and_of_an_earlier_version(figures):
    loss_curve([{"step": 1, "loss": 4.0, "cross_entropy": 4.0, "eval_cross_entropy": 3.9}])
    loss_curve([{"step": 1, "loss": 4.0, "eval_cross_entropy": 3.9}])
    labels = [[axes.get_ylabel() for axes in figure.axes] for figure in figures]
    assert labels == [["cross entropy (nats per token)"], ["loss (nats per token)"]]


def test_an_empty_history_gives_an_empty_plot():
    assert size(loss_curve([])) == (840, 480)


def test_the_same_data_give_the_same_image():
    assert pruning_strategy(plan(5), importance(5)) == pruning_strategy(plan(5), importance(5))


def test_the_map_of_zeros_has_layers_across_and_projections_down(figures):
    matrices = [
        {"layer": layer, "name": name, "sparsity": 0.4 + 0.1 * (name == "q_proj") + 0.01 * layer}
        for layer in (3, 4, 5)
        for name in ("q_proj", "down_proj")
        if (layer, name) != (4, "q_proj")
    ]
    png = sparsity_map({"matrices": matrices, "asked": 0.5, "reached": 0.473, "zeros": 12345})
    axes, bar = figures[0].axes
    drawn = axes.images[0].get_array()
    assert drawn.shape == (2, 3)
    assert drawn[0][0] == pytest.approx(0.53) and drawn[1][2] == pytest.approx(0.45) and math.isnan(drawn.data[0][1])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["q_proj", "down_proj"]
    assert axes.xaxis.get_major_formatter()(0) == "3"
    assert (axes.get_xlabel(), bar.get_ylabel()) == ("layer", "zeros (share of weights)")
    assert axes.get_title() == "12,345 zeros, 47.3% of these weights"
    assert size(png)[0] >= 600


def test_attention_map_has_a_row_for_each_head(figures):
    layers = [{"layer": layer, "sparsity": [0.1 * layer] * (4 if layer == 3 else 6)} for layer in (2, 3, 5)]
    png = attention_map({"layers": layers, "mean_sparsity": 0.3})
    (figure,) = figures
    drawn = figure.axes[0].images[0].get_array().filled(math.nan)
    assert drawn.shape == (6, 4)
    assert drawn[0, 1] == pytest.approx(0.3)
    assert math.isnan(drawn[5, 1])
    assert math.isnan(drawn[0, 2])
    assert figure.axes[0].get_xlabel() == "layer"
    assert figure.axes[0].get_ylabel() == "query head"
    assert size(png)[0] > 500


STRANGE = ["cost_$5", "$x^$", r"\frac{a}", "_hidden", "a\nb\tc", "x" * 300, "半\ud800", "$", ""]


def text_of(figure):
    return [text.get_text().strip() for text in figure.findobj(Text)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", STRANGE)
def test_names_are_drawn_as_they_are(monkeypatch, name):
    """`$` is no formula, `_` hides nothing from a legend, and a long name leaves room for the plot."""
    figures = []
    made = plots.png
    for module in (plots, comparison, longrange):
        monkeypatch.setattr(module, "png", lambda figure: figures.append(figure) or made(figure))
    texts = {f"/data/{name}.txt": 10.0, "other": 3000.0}
    models = [
        {**row, "name": label, "tasks": {}, "values": {"prune.calibration": label} if index else {}}
        for index, (label, row) in enumerate(zip([name, f"2 {name}", "plain"], rows(texts, texts, texts), strict=True))
    ]
    matrices = [{"layer": 0, "name": name, "sparsity": 0.5}]
    history = [{"step": 1, "layers": [{"skewness": 1.0, "change_percent": 0.1}]}]
    switch = {"history": history, "evaluations": [], "skewness": 1, "distance": 1, "switched": 1, "reason": name}
    images = [
        perplexity_plot(models),
        stage_plot(models),
        comparison.size_plot(models),
        comparison.sweep_plot(models, "prune.calibration"),
        pruning_strategy(plan(3), {**importance(3), "unit": name}),
        sparsity_map({"matrices": matrices, "asked": 0.5, "reached": 0.5, "zeros": 1}),
        longrange.switch_plot(switch),
    ]
    for image_of, figure in zip(images, figures, strict=True):
        assert size(image_of)[0] > 500
        assert not any(text.get_parse_math() for text in figure.findobj(Text))
        assert figure.axes[0].get_position().width > 0.2
    label = plots.plain_label(f"{name}.txt").strip()
    for figure in figures[:2]:
        assert label in text_of(figure) and len(figure.legends[0].get_texts()) == 2
    if name == "$x^$":
        assert label == "$x^$.txt"
