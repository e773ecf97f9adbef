"""How this process was started, told without importing PyTorch."""

import os


def launched_together() -> bool:
    """Whether torchrun or the like has started other processes beside this one."""
    return {"RANK", "MASTER_ADDR"} <= os.environ.keys() and int(os.environ.get("WORLD_SIZE", "1")) > 1
