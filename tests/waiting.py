"""A worker of two: it joins the other, writes down who it is, and waits until the test has seen to that one."""

import os
import sys
import time
from pathlib import Path

from secateur.distributed import barrier, process_number, several_processes
from secateur.errors import SecateurError

place = Path(sys.argv[1])
try:
    with several_processes():
        (place / str(process_number())).write_text(str(os.getpid()), encoding="utf-8")
        while not (place / "go").exists():
            time.sleep(0.05)
        barrier()
except SecateurError as error:
    (place / f"said by {os.environ['RANK']}").write_text(str(error), encoding="utf-8")
    raise
