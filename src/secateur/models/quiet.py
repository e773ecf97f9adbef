"""Libraries without their bars, warnings and reports."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import transformers


@contextlib.contextmanager
def natively_silent() -> Iterator[None]:
    """Without what compiled libraries write on standard error past Python, such as the report of a panic in Rust."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    _flush()
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        _flush()
        os.dup2(kept, 2)
        os.close(kept)


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Transformers' loading bars and warnings."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
