"""Showing results: tables, plots, the HTML page."""

from secateur.report.comparison import comparison_page, size_plot, sweep_plot
from secateur.report.drawings import plan_plot, weights_plot
from secateur.report.figures import figure_of
from secateur.report.html import Page, Picture, Sample, Table, render
from secateur.report.layout import Column, TextTable
from secateur.report.longrange import longrange_table, pattern_plot, prepared_table, switch_plot
from secateur.report.maps import attention_map, sparsity_map
from secateur.report.page import comparison_rows, run_page, source_warnings
from secateur.report.planning import cuts_table, plan_markdown, plan_summary, plan_table
from secateur.report.plots import loss_curve, perplexity_plot, stage_plot
from secateur.report.search import search_plot, search_table
from secateur.report.strategy import pruning_strategy
from secateur.report.tables import (
    attention_table,
    comparison_columns,
    comparison_markdown,
    comparison_table,
    health_table,
    markdown_text,
    memory_table,
    share_of_rise,
    text_notes,
    weights_table,
)
from secateur.report.task_tables import task_table
from secateur.report.times import times_table

__all__ = [
    "Column",
    "Page",
    "Picture",
    "Sample",
    "Table",
    "TextTable",
    "attention_map",
    "attention_table",
    "comparison_columns",
    "comparison_markdown",
    "comparison_page",
    "comparison_rows",
    "comparison_table",
    "cuts_table",
    "figure_of",
    "health_table",
    "longrange_table",
    "loss_curve",
    "markdown_text",
    "memory_table",
    "pattern_plot",
    "perplexity_plot",
    "plan_markdown",
    "plan_plot",
    "plan_summary",
    "plan_table",
    "prepared_table",
    "pruning_strategy",
    "render",
    "run_page",
    "search_plot",
    "search_table",
    "share_of_rise",
    "size_plot",
    "source_warnings",
    "sparsity_map",
    "stage_plot",
    "sweep_plot",
    "switch_plot",
    "task_table",
    "text_notes",
    "times_table",
    "weights_plot",
    "weights_table",
]
