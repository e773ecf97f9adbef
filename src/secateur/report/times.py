"""The table of times of widths."""

from collections.abc import Mapping, Sequence
from typing import Any

from secateur.report.layout import Column, TextTable


def times_table(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """Half, units, milliseconds of a layer; the rest of the model last."""
    units = ["" if row["units"] is None else f"{row['units']:,}" for row in rows]
    return TextTable(
        [
            Column("half", [row["half"] for row in rows], "left"),
            Column("groups, channels", units),
            Column("ms", [f"{row['ms']:.4f}" for row in rows]),
        ]
    )
