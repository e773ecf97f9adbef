"""Showing results: tables, plots, the HTML page."""

from secateur.report.html import Page, Picture, Sample, Table, render
from secateur.report.page import comparison_rows, run_page, source_warnings
from secateur.report.plots import attention_map, loss_curve, perplexity_plot, pruning_strategy, sparsity_map, stage_plot
from secateur.report.tables import (
    Column,
    attention_table,
    comparison_columns,
    comparison_markdown,
    comparison_table,
    health_table,
    memory_table,
    share_of_rise,
    text_notes,
    weights_table,
)

__all__ = [
    "Column",
    "Page",
    "Picture",
    "Sample",
    "Table",
    "attention_map",
    "attention_table",
    "comparison_columns",
    "comparison_markdown",
    "comparison_rows",
    "comparison_table",
    "health_table",
    "loss_curve",
    "memory_table",
    "perplexity_plot",
    "pruning_strategy",
    "render",
    "run_page",
    "share_of_rise",
    "source_warnings",
    "sparsity_map",
    "stage_plot",
    "text_notes",
    "weights_table",
]
