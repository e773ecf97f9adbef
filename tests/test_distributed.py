"""Cuts and measurements in two processes under torchrun give what one process gives."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.distributed import several_processes
from secateur.errors import InputError
from secateur.models import save

WORKER = Path(__file__).with_name("cuts.py")
WAITING = Path(__file__).with_name("waiting.py")
# 7 windows are 4 and 3 of two processes.
TEXT = {"seqlen": 48, "batch_size": 2, "samples": 7}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "obs": ("prune", {"ratio": 0.3, "own_text": 0.4}),
    "fisher": ("prune", {"ratio": 0.3, "importance": "fisher"}),
    "taylor": ("prune", {"ratio": 0.3, "importance": "taylor", "layer_importance": "activation"}),
    "activation": ("prune", {"ratio": 0.3, "importance": "activation", "layer_importance": "similarity"}),
    "by layer": ("prune", {"ratio": 0.2, "allocation": "inverse", "compensate": False}),
    "search": ("search", {"ratio": 0.25, "rounds": 2, "measured": 3}),
    # Few layers: where two scores are all but equal, the order of sums decides, and what is re-solved follows from it.
    "admm": ("sparsify", {"own_text": 0.4, "layers": "0:1"}),
    # Rounding decides where weights are nearly as dispensable as others, and everything behind follows: one layer here.
    "sparsegpt": ("sparsify", {"method": "sparsegpt", "pattern": "2:4", "offload": "disk", "layers": "0:1"}),
    "wanda": ("sparsify", {"method": "wanda", "allocation": "owl", "layer_by_layer": True, "device": "cpu"}),
    "magnitude": ("sparsify", {"method": "magnitude"}),
    "perplexity": ("perplexity", {"windows": 7}),
    "perplexity of one window": ("perplexity", {"windows": 1}),
}


@pytest.mark.slow
def test_two_processes_find_what_one_finds(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerBase,
    private_cache: Path,
    tmp_path: Path,
    two_processes: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(tiny_model(), tiny_tokenizer, tmp_path / "model")
    (tmp_path / "text.txt").write_text(" ".join(map(str, range(400))), encoding="utf-8")

    def cases(directory: str) -> list[dict[str, Any]]:
        text = {**TEXT, "calibration": str(tmp_path / "text.txt")}
        return [
            {
                "work": work,
                "model": str(tmp_path / "model"),
                "output": str(tmp_path / directory / name),
                "options": own if work == "perplexity" else {**text, **own},
            }
            for name, (work, own) in CASES.items()
        ]

    cut = runpy.run_path(str(WORKER))["cut"]
    expected = [cut(case) for case in cases("one")]
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "another cache"))
    together = cases("two")
    (tmp_path / "cases.json").write_text(json.dumps(together), encoding="utf-8")
    for process in two_processes(WORKER, tmp_path / "cases.json"):
        assert process.returncode == 0, process.stderr
    for case, figures in zip(together, expected, strict=True):
        name = Path(case["output"]).name
        found = json.loads(Path(f"{case['output']}.json").read_text(encoding="utf-8"))
        for rounded in ("importance", "perplexity"):
            values, others = (side.pop(rounded, None) or [] for side in (found, figures))
            assert values == pytest.approx(others, rel=1e-6, abs=1e-6), name
        assert found == figures, name
        if case["work"] != "perplexity":
            one, two = (load_file(tmp_path / side / name / "model.safetensors") for side in ("one", "two"))
            assert one.keys() == two.keys()
            for weight in one:
                assert float((two[weight] - one[weight]).norm() / one[weight].norm()) < 1e-4, (name, weight)


@contextmanager
def two_waiting(place: Path, minutes: str) -> Iterator[tuple["subprocess.Popen[bytes]", list[psutil.Process]]]:
    """Two workers under torchrun that have met, and torchrun itself."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SECATEUR_TIMEOUT": minutes}
    launcher = subprocess.Popen([*command, str(WAITING), str(place)], env=environment, stderr=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    try:
        wait_for(lambda: all((place / number).is_file() and (place / number).read_text() for number in "01"))
        workers = [psutil.Process(int((place / number).read_text())) for number in "01"]
        yield launcher, workers
    finally:
        for process in (launcher, *workers):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        launcher.wait()


def wait_for(happened: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_workers_end_when_torchrun_is_killed(tmp_path: Path) -> None:
    with two_waiting(tmp_path, "30") as (launcher, workers):
        launcher.kill()
        launcher.wait()
        wait_for(lambda: all(map(gone, workers)), 20)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    with two_waiting(tmp_path, "30") as (launcher, workers):
        workers[1].kill()
        assert launcher.wait(60) != 0
        assert all(map(gone, workers))


@pytest.mark.slow
def test_a_worker_that_is_stopped_ends_the_others(tmp_path: Path) -> None:
    with two_waiting(tmp_path, "0.05") as (launcher, workers):
        workers[1].suspend()
        (tmp_path / "go").touch()
        wait_for((tmp_path / "said by 0").is_file)
        assert "another process has not answered for 0.05 minutes" in (tmp_path / "said by 0").read_text()
        assert launcher.wait(90) != 0
        assert all(map(gone, workers))


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "1e9"])
def test_a_time_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("SECATEUR_TIMEOUT", text)):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="give minutes"), several_processes():
        pass
