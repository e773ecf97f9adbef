"""The table of a plan: every phase's memory and time. Figures are what `ModelEstimate.to_dict()` gives."""

import re
from collections.abc import Mapping
from typing import Any

from secateur.report.layout import NO_BREAK, Column, TextTable
from secateur.report.tables import markdown

GB = 1e9
NOT_FITTING = "does not fit"


def plan_summary(figures: Mapping[str, Any]) -> str:
    """Two lines: the model and the devices."""
    model = f"{figures['family']}, {figures['parameters']:,} parameters, {figures['weights_bytes'] / GB:,.1f} GB in "
    if not figures["devices"]:
        return f"{model}{figures['dtype']}"
    memory = figures["device_memory_bytes"] / GB
    assumed = figures["utilisation"] == "assumed"
    rates = "their utilisation is assumed" if assumed else "its rates as measured on one core"
    return f"{model}{figures['dtype']}\n{figures['devices']} × {figures['device']} of {memory:,.0f} GB, {rates}"


def plan_columns(figures: Mapping[str, Any]) -> list[Column]:
    """Phase, the options that the layout needs, memory of a device, time."""
    phases = figures["phases"]
    return [
        Column("phase", [phase["phase"] for phase in phases], "left"),
        Column("options", [phase["options"] for phase in phases], "left"),
        Column("GB a device", [f"{phase['memory_bytes'] / GB:,.1f}" for phase in phases]),
        Column("time", [duration(phase["seconds"]) for phase in phases]),
    ]


def plan_table(figures: Mapping[str, Any]) -> TextTable:
    """The phases for the terminal. An option and its value stay on one line."""
    phase, options, *figured = plan_columns(figures)
    kept = [re.sub(r" (?!--)", NO_BREAK, cell) for cell in options.cells]
    return TextTable([phase, Column(options.header, kept, "left"), *figured])


def cuts_table(figures: Mapping[str, Any]) -> TextTable:
    """The smallest cuts that fit or meet a target."""
    cuts = figures["cuts"]

    def ratio(cut: Mapping[str, Any]) -> str:
        return "none is enough" if cut["ratio"] is None else f"{cut['ratio']:.1%}" if cut["ratio"] else "none"

    def loss(cut: Mapping[str, Any]) -> str:
        return "not known" if cut["expected_loss"] is None else f"{cut['expected_loss']:.3f} nats"

    return TextTable(
        [
            Column("bits", ["stored" if cut["bits"] is None else str(cut["bits"]) for cut in cuts]),
            Column("uncut", [cut["before"] for cut in cuts]),
            Column("fits", ["yes" if cut["fits"] else "no" for cut in cuts], "left"),
            Column("smallest cut", [ratio(cut) for cut in cuts]),
            Column("which takes", [cut["after"] for cut in cuts]),
            Column("loss of the cut", [loss(cut) if cut["ratio"] else "" for cut in cuts]),
        ]
    )


def plan_markdown(figures: Mapping[str, Any]) -> str:
    """The phases as a Markdown table."""
    return markdown(plan_columns(figures))


def duration(seconds: float | None) -> str:
    """A time in two figures or so, in the unit that suits it; where there is none, that the phase does not fit."""
    if seconds is None:
        return NOT_FITTING
    for limit, size, unit in ((100, 1, "s"), (6000, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return _number(seconds / size, unit)
    return _number(seconds / 86400, "d")


def _number(value: float, unit: str) -> str:
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"
