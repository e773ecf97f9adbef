"""A full disk, and two commands at once: one line, and the same command then goes on."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_commands import QUICK_PRUNE, QUICK_RECOVER, done, failed, recipe_at, secateur

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv[:2] = ["secateur"]
from secateur.cli.main import main
main()
"""


@pytest.fixture
def tiny(tiny_model, tiny_tokenizer, tmp_path: Path, private_cache: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prune", "recover", "run"])
def test_a_disk_that_takes_no_more(tiny: Path, tmp_path: Path, command: str, two_processes: Callable[..., Any]) -> None:
    options = {
        "prune": ["prune", tiny, *QUICK_PRUNE],
        "recover": ["recover", tiny, "--merge", "--checkpoint-steps", "1", *QUICK_RECOVER],
        "run": ["run", recipe_at(tmp_path / "recipe.yaml", tiny)],
    }[command]
    line = [*options, "-o", tmp_path / "out"]
    (tmp_path / "limited.py").write_text(LIMITED)
    (result,) = two_processes(tmp_path / "limited.py", 100_000, *line, count=1)
    assert result.returncode == 1
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "could not be written" in error and "unexpected" not in error and "Traceback" not in result.stderr
    done(secateur(*line))
    assert not [path for path in tmp_path.rglob("*") if "secateur-" in path.name or path.suffix == ".partial"]


@pytest.mark.slow
def test_the_second_of_two_is_refused_before_any_work(tiny: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "sys.argv[0] = 'secateur'\n"  # which does not import PyTorch at once
        "from secateur.files import claimed\n"
        "with claimed(Path(sys.argv[1])): print('held', flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        line = failed(secateur("prune", tiny, "-o", tmp_path / "out", *QUICK_PRUNE))
        other.kill()
    assert "is being written by another secateur" in line
    done(secateur("prune", tiny, "-o", tmp_path / "out", *QUICK_PRUNE))
