"""The console command's first step: until PyTorch and the rest are imported, an interruption is one line as well."""

import os
import signal
import sys


def main() -> None:
    """Run the command line and exit with its status."""
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
    from secateur.cli.main import main

    main()


def _interrupted(*_: object) -> None:
    os.write(2, b"Error: interrupted\n")
    sys.stdout.flush()
    os._exit(130)
