"""Small random models of every supported family, a byte tokenizer, SmolLM2 itself, and a task of local files."""

import gc
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# The process that hands the tests out to others needs no PyTorch: what imports it stands in the functions.
if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# Triton reads this when it is imported, and PyTorch imports it.
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

BUDGET = 3.0  # seconds of a test that is neither `real` nor `slow`
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, and tests of several processes one after another: side by side they wait for each other."""
    for item in items:
        if {"torchrun", "two_processes"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("torchrun"))
    items.sort(key=lambda item: [item.get_closest_marker(mark) is None for mark in ("real", "slow")])


def pytest_collection_finish() -> None:
    """Take what is imported out of garbage collections: Accelerate starts one with each training, of half a second."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or what is written in C++ reports its objects as leaked


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that `make check` runs although they take long."""
    passed = [report for report in terminalreporter.stats.get("passed", []) if report.when == "call"]
    longer = [report for report in passed if report.duration > BUDGET and not {"real", "slow"} & set(report.keywords)]
    for report in sorted(longer, key=lambda report: -report.duration):
        line = f"{report.nodeid} took {report.duration:.1f} s, more than {BUDGET:.0f}: shorten it or mark it slow"
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _quiet_and_offline(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    import torch

    # Tiny models are faster on one thread than on two that wait for each other.
    beside = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    shared = max(1, (os.cpu_count() or 1) // beside)
    torch.set_num_threads(shared if request.node.get_closest_marker("real") else 1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    # A command that an earlier test ran keeps the log to itself.
    for name, value in (("propagate", True), ("handlers", []), ("level", logging.NOTSET)):
        monkeypatch.setattr(logging.getLogger("secateur"), name, value)


@pytest.fixture
def private_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache directory of this test's own."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny_model() -> "Callable[..., PreTrainedModel]":
    from tiny import make_tiny_model

    return make_tiny_model


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def tiny_tokenizer() -> "PreTrainedTokenizerFast":
    from tiny import make_tiny_tokenizer

    return make_tiny_tokenizer()


@pytest.fixture
def torchrun() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run a script, or `-m secateur …`, in two processes of one thread each."""

    def run(*arguments: object, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return subprocess.run(
            [*command, *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def two_processes(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., "list[subprocess.CompletedProcess[str]]"]:
    """Run a script, or `-m secateur …`, in two processes as `torchrun` does, but without torchrun: in less time."""
    from two_processes import run_together

    def run(*arguments: object, timeout: float = 300, count: int = 2) -> "list[subprocess.CompletedProcess[str]]":
        return run_together([*map(str, arguments)], tmp_path_factory.mktemp("processes"), timeout, count)

    return run


@pytest.fixture(scope="session")
def smollm2() -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
    """SmolLM2-135M-Instruct in float32. Tests that change it work on a deep copy."""
    from secateur.models import load

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return load("smollm2-135m", dtype="float32")


SUMS = """\
task: sums
dataset_path: json
dataset_kwargs:
  data_files: {test: sums.jsonl}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
QUESTIONS = [
    {"question": f"What is {i} plus {i + 1}?", "choices": [str(2 * i + 1), f"it is {3 * i}", "seven"], "answer": i % 3}
    for i in range(12)
]


@pytest.fixture
def task_directory(tmp_path: Path, private_cache: Path) -> Path:
    """A directory with the task `sums`: 12 questions of three answers."""
    root = tmp_path / "tasks"
    root.mkdir()
    (root / "sums.yaml").write_text(SUMS)
    (root / "sums.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    return root
