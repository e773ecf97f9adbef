"""The data of the Long Range Arena: prepared once, then read through a memory map."""

from secateur.longrange.data.config import TASKS, PrepareConfig, Task, TaskName
from secateur.longrange.data.prepare import prepare
from secateur.longrange.data.store import Batch, LongRangeData, Meta, Split, SplitStatistics

__all__ = [
    "TASKS",
    "Batch",
    "LongRangeData",
    "Meta",
    "PrepareConfig",
    "Split",
    "SplitStatistics",
    "Task",
    "TaskName",
    "prepare",
]
