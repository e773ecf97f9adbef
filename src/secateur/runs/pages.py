"""The page of a finished run, out of the files in its directory."""

from pathlib import Path

from secateur.errors import InputError, OutputError
from secateur.files import write_text
from secateur.files.input_text import read_input_text
from secateur.files.result_files import IMPORTANCE, LONGRANGE, METRICS, PLAN, RECIPE, REPORT
from secateur.report import render, run_page
from secateur.runs.steps import ZEROS
from secateur.runs.stored import ImportanceFile, MetricsFile, PlanFile, ZerosFile, read_run_file, require_same_layers


def write_report(directory: str | Path) -> Path:
    """Write `report.html` from what a run directory holds.

    Raises:
        InputError: it is not a run directory, or the run has not come to its end.
    """
    path = Path(directory)
    if (path / LONGRANGE).is_file():
        raise InputError(
            f"{path} is a run of longrange, which has no page; see results.json and switch.png of its runs"
        )
    if not (path / METRICS).is_file():
        raise InputError(f"{path} holds no {METRICS}: it is not a run directory, or the run is not finished")
    advice = "; run the same recipe again, which writes it anew"
    plan, importance, zeros = (
        read_run_file(path / name, kind, advice) if (path / name).is_file() else None
        for name, kind in ((PLAN, PlanFile), (IMPORTANCE, ImportanceFile), (ZEROS, ZerosFile))
    )
    require_same_layers(plan, importance, path / IMPORTANCE, advice)
    settings = read_input_text(path / RECIPE, OutputError, advice=advice) if (path / RECIPE).is_file() else ""
    metrics = read_run_file(path / METRICS, MetricsFile, advice)
    page = run_page(metrics, plan=plan, importance=importance, zeros=zeros, settings=settings)
    write_text(path / REPORT, render(page))
    return path / REPORT
