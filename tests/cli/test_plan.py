"""`secateur plan`: what it prints and writes, and that docs/scale.md shows just that."""

import functools
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from json_docs import require_written
from secateur.cli.main import COMMANDS, app
from secateur.costs.known_devices import GPUS
from secateur.planning import PlanConfig, estimate
from secateur.report.planning import duration, plan_table

SCALE = Path(__file__).parents[2] / "docs" / "scale.md"
LLAMA = {"model_type": "llama", "vocab_size": 128_256, "num_key_value_heads": 8, "tie_word_embeddings": False}
SIZES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70b": {"hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
SHOWN = [
    (match["size"], match["devices"], match["table"])
    for match in re.finditer(
        r"`secateur plan llama-3-(?P<size>\w+) --devices (?P<devices>\w+)`\n\n```\n(?P<table>.*?)```",
        SCALE.read_text(encoding="utf-8"),
        re.DOTALL,
    )
]


def secateur(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, words)
    if result.exit_code == 0:
        require_written(words)
    return result


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def directory(tmp_path: Path, size: str) -> Path:
    return written(tmp_path, size)


def written(place: Path, size: str) -> Path:
    (place / "config.json").write_text(json.dumps({**LLAMA, **SIZES[size], "dtype": "bfloat16"}))
    return place


@pytest.mark.parametrize("devices", ["1xH100", "8xRTX4090", "64xA100-80", "cpu"])
def test_it_fits_80_columns(directory: Path, devices: str, tmp_path: Path) -> None:
    result = secateur("plan", directory, "--devices", devices, "--json", tmp_path / "plan.json")
    assert result.exit_code == 0, result.output
    assert "prune: cut and re-fit" in result.output
    table = plan_table(json.loads((tmp_path / "plan.json").read_text()))
    assert max(map(len, table.lines(80))) <= 80 and len(table.lines(None)) == 1 + len(table.columns[0].cells)


def test_figures_as_json(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    assert secateur("plan", directory, "--devices", "8xH100", "--json", file).exit_code == 0
    found = json.loads(file.read_text())
    assert found["devices"] == 8
    assert found["utilisation"] == "assumed"
    assert {phase["phase"] for phase in found["phases"]} >= {"load", "sparsify: admm", "recover: lora"}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--devices", "8xH10O"], 2, "did you mean H100?"),
        (["--devices", "H100", "--ratio", "2"], 2, "--ratio 2"),
        (["--devices", "H100", "--windows", "9" * 30], 2, "--windows"),
        (["--devices", "H100", "--tflops", "nan"], 2, "--tflops nan"),
        ([], 2, "--devices"),
    ],
)
def test_bad_options(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    result = secateur("plan", written(tmp_path, "8b"), *arguments)
    assert result.exit_code == status
    assert message in result.output


def test_a_hub_that_cannot_be_reached_is_one_line() -> None:
    result = secateur("plan", "some/model", "--devices", "H100")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "the hub cannot be reached; give a directory that holds its config.json" in result.stderr


def test_all_sizes_and_counts_are_in_the_docs() -> None:
    assert [(size, devices) for size, devices, _ in SHOWN] == [
        (size, devices) for size in SIZES for devices in ("1xH100", "8xH100", "64xH100")
    ]


@pytest.mark.parametrize(("size_shown", "devices", "table"), SHOWN)
def test_the_docs_show_what_the_command_prints(tmp_path: Path, size_shown: str, devices: str, table: str) -> None:
    result = secateur("plan", directory := written(tmp_path, size_shown), "--devices", devices)
    assert [
        line.rstrip() for line in result.stdout.replace(str(directory), f"llama-3-{size_shown}").splitlines()
    ] == table.splitlines()


OF_THE_PLAN = {
    "evaluate": {"windows": "evaluate_windows"},
    "recover": {"samples": "recover_samples", "epochs": "recover_epochs", "batch_size": "recover_batch_size"},
}


@pytest.mark.parametrize("devices", ["1xRTX4090", "2x3060", "8xH100", "1xT4", "M2 16GB"])
def test_what_you_can_do_is_a_command_line_that_fits(
    tmp_path: Path, devices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ["--devices", devices, "--ratio", "0.3", "--windows", "48", "--recover-samples", "500"]
    lines = secateur("plan", written(tmp_path, "8b"), *told).stdout.splitlines()
    can = [line.removeprefix("you can: ") for line in lines if line.startswith("you can: ")]
    cannot = [line for line in lines if line.startswith("you cannot: ")]
    assert len(can) + len(cannot) == 11 and lines[-11:] == [*(line for line in lines if "you can" in line)]
    called: list[dict[str, Any]] = []
    for name in ("evaluate", "prune", "search", "sparsify", "recover"):
        stub = functools.wraps(COMMANDS[name].function)(lambda **values: called.append(values))
        monkeypatch.setitem(COMMANDS, name, replace(COMMANDS[name], function=stub))
    for line in can:
        # Started as it is written, its options are the command's own.
        words = shlex.split(line.partition("secateur ")[2])
        result = secateur(*words)
        assert result.exit_code == 0, (line, result.output)
        # A plan that is told these options as asked needs no others.
        config = called[-1]["config"]
        renamed = OF_THE_PLAN.get(words[0], {})
        given = {renamed.get(name, name): getattr(config, name) for name in config.model_fields_set}
        plan = PlanConfig(
            devices=devices, **{name: value for name, value in given.items() if name in PlanConfig.model_fields}
        )
        method = f": {config.method}" if hasattr(config, "method") else ""
        teacher = ", teacher" if getattr(config, "teacher", None) else ""
        phases = [
            phase
            for phase in estimate(tmp_path, plan).phases
            if phase.phase.startswith(f"{words[0]}{method}") and (", teacher" in phase.phase) == bool(teacher)
        ]
        assert phases and all(phase.fits for phase in phases), line
        assert not any("--batch-size" in phase.options or "--windows" in phase.options for phase in phases), line


def test_smaller_batches_and_windows_are_tried_before_it_does_not_fit(tmp_path: Path) -> None:
    model = written(tmp_path, "8b")
    options = {phase.phase: phase.options for phase in estimate(model, devices="RTX4090").phases if phase.fits}
    assert options["search"] == "--batch-size 4"
    # Samples are the last to be given up.
    tight = estimate(model, devices="mine", memory_gb=21.2, tflops=100, windows=512)
    found = {phase.phase: phase for phase in tight.phases}
    assert found["prune: scores"].fits and "--windows" in found["prune: scores"].options
    assert found["prune: scores"].options == found["prune: cut and re-fit"].options


def test_what_comes_next_is_a_cut_that_fits(tmp_path: Path) -> None:
    model = written(tmp_path, "8b")
    small = secateur("plan", model / "config.json", "--devices", "3070").stderr
    wanda = f"sparsify {model} -o out/wanda --method wanda --layer-by-layer --offload cpu"
    assert small.splitlines()[-1] == f"next: secateur {wanda}"


def test_the_docs_name_every_device() -> None:
    text = SCALE.read_text(encoding="utf-8")
    assert all(f"`{gpu.name}`" in text for gpu in GPUS)


def test_durations() -> None:
    times = [0.04, 8.69, 64, 99.9, 101, 7200, 200_000, None]
    assert [duration(time) for time in times] == [
        "0.0 s", "8.7 s", "64 s", "100 s", "1.7 min", "2.0 h", "2.3 d", "does not fit",
    ]  # fmt: skip


def test_what_fits_a_memory_and_what_a_target_needs(tmp_path: Path, private_cache: Path) -> None:
    directory = written(tmp_path, "8b")
    result = secateur("plan", directory, "--fit", "12GB", "--context", "2048", "--json", tmp_path / "fit.json")
    assert result.exit_code == 0, result.output
    sixteen, eight, four = json.loads((tmp_path / "fit.json").read_text())["cuts"]
    assert sixteen["bits"] == 16 and not sixteen["fits"] and 0.2 < sixteen["ratio"] < 0.6
    assert not eight["fits"] if eight["ratio"] else eight["fits"]
    assert four["fits"] and four["ratio"] == 0
    assert four["command"] == f"secateur quantize {directory} -o out/quantized --bits 4"
    assert f"you can: {sixteen['command']}" in result.stdout and "not known" in result.stdout
    least = min((sixteen, eight, four), key=lambda cut: cut["ratio"])
    assert f"next: {least['command']}\n" in result.stderr
    assert "--target-memory 12GB --context 2048 --bits 16" in sixteen["command"]
    small = secateur("plan", directory, "--fit", "4GB", "--context", "2048", "--json", tmp_path / "small.json")
    assert small.exit_code == 0, small.output
    *_, cut = json.loads((tmp_path / "small.json").read_text())["cuts"]
    assert "--target-memory 4GB --context 2048 --quantize 4" in cut["command"]
    device = ("--target-throughput", "30", "--target-device", "RTX4090")
    timed = secateur("plan", directory, *device)
    assert timed.exit_code == 0 and "ms a token" in timed.stdout and "you can: secateur prune" in timed.stdout
    tiny_memory = secateur("plan", directory, "--fit", "1GB")
    assert "none is enough" in tiny_memory.stdout and tiny_memory.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fit", "6 GX"], "--fit 6 GX: is no size"),
        (["--fit", "6GB", "--target-memory", "6GB"], "leave out --target-memory"),
        (["--target-latency", "1ms"], "no times of widths are kept for transformers"),
        (["--target-latency", "1ms", "--target-device", "H10O"], "did you mean H100?"),
    ],
)
def test_bad_targets(tmp_path: Path, private_cache: Path, arguments: list[str], message: str) -> None:
    result = secateur("plan", written(tmp_path, "8b"), *arguments)
    assert result.exit_code in (1, 2) and message in " ".join(result.stderr.split())
