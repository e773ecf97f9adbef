"""A model whose layers are read one at a time gives what it gives in memory, to the last bit."""

import json
import logging
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import secateur
from secateur.calibration.walks import Streams, Walks
from secateur.costs.times import shape_of_times
from secateur.errors import InputError, OutputError
from secateur.models import streamed
from secateur.models.loading import load
from secateur.pruning import PruneConfig
from secateur.quantization import QuantizeConfig
from secateur.recovery import RecoverConfig
from secateur.runs import steps
from secateur.runs.steps import prune_model, quantize_model, recover_model, sparsify_model
from secateur.sparsity import SparsifyConfig
from tiny import make_tiny_model, make_tiny_tokenizer

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux what is mapped")
TEXT = {"samples": 6, "seqlen": 32, "own_text": 0.0, "batch_size": 2}


def stored(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def require_same(one: Path, other: Path) -> None:
    ours, theirs = stored(one), stored(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(" ".join(f"the number {number} is followed by {number + 1}." for number in range(400)))
    return str(file)


def saved(directory: Path, **settings: Any) -> str:
    model: PreTrainedModel = make_tiny_model(**settings)
    model.save_pretrained(directory, max_shard_size="60KB")  # several files, with an index
    make_tiny_tokenizer().save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "tied")


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "untied", family="qwen2", tie_word_embeddings=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"even": True, "offload": "disk"},
        {"importance": "activation"},
        {"importance": "fisher"},
        {"compensate": False},
        {"layers": "2:4"},
        {"allocation": "inverse"},
    ],
    ids=str,
)
def test_pruned(model: str, text: str, tmp_path: Path, options: dict[str, Any]) -> None:
    for name, stream in (("memory", False), ("streamed", True)):
        config = PruneConfig(ratio=0.3, calibration=text, dtype="float32", stream=stream, **TEXT, **options)
        prune_model(model, tmp_path / name, config, command_line="")
    require_same(tmp_path / "memory", tmp_path / "streamed")
    plans = [json.loads((tmp_path / name / "pruning_plan.json").read_text()) for name in ("memory", "streamed")]
    assert plans[0]["layers"] == plans[1]["layers"]
    assert not (tmp_path / "streamed.partial").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"method": "wanda"},
        {"method": "wanda", "allocation": "owl"},
        {"method": "sparsegpt", "pattern": "2:4"},
        {"method": "admm", "allocation": "uniform", "offload": "disk"},
        {"method": "magnitude", "layers": "1:3"},
    ],
    ids=str,
)
def test_made_sparse(untied: str, text: str, tmp_path: Path, options: dict[str, Any]) -> None:
    for name, stream in (("memory", False), ("streamed", True)):
        config = SparsifyConfig(calibration=text, dtype="float32", stream=stream, **TEXT, **options)
        sparsify_model(untied, tmp_path / name, config, command_line="")
    require_same(tmp_path / "memory", tmp_path / "streamed")


@pytest.mark.parametrize("stride", [None, 16])
def test_perplexity(model: str, untied: str, text: str, stride: int | None) -> None:
    for name in (model, untied):
        found = []
        for stream in (False, True):
            loaded, tokenizer = load(name, dtype="float32", stream=stream)
            settings = {"data": [text], "seqlen": 32, "windows": 7, "batch_size": 3, "stride": stride, "speed": False}
            found.append(secateur.evaluate(loaded, tokenizer, **settings).perplexity)
        assert found[0] == found[1]


def test_by_itself_where_the_model_is_large(
    model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert streamed.streamed(load(model, dtype="float32", stream=None)[0]) is None
    monkeypatch.setattr(streamed, "MOST_OF_MEMORY", 1e-9)
    with caplog.at_level(logging.INFO):
        loaded, tokenizer = load(model, dtype="float32", stream=None)
    assert streamed.streamed(loaded)
    assert "stream=True" in caplog.text
    with pytest.raises(InputError, match="own_text=0"):
        secateur.prune(loaded, tokenizer, own_text=0.5)
    assert streamed.streamed(load(model, dtype="bfloat16", stream=None)[0]) is None  # converted: in memory, with a word
    with pytest.raises(InputError, match="taylor"):
        secateur.prune(loaded, tokenizer, importance="taylor", own_text=0.0, samples=2, seqlen=32)
    with pytest.raises(InputError, match="uniform or owl"):
        secateur.sparsify(loaded, tokenizer)


def test_refused_where_weights_are_converted(model: str) -> None:
    with pytest.raises(InputError, match="pass dtype="):
        load(model, dtype="bfloat16", stream=True)


@pytest.mark.slow
def test_killed_it_goes_on_at_its_layer(model: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PruneConfig(ratio=0.3, calibration=text, dtype="float32", stream=True, **TEXT)
    program = f"""
import os, signal, torch
from pathlib import Path
from secateur.calibration.walks import Walks
from secateur.pruning import PruneConfig
from secateur.runs.steps import prune_model
torch.set_num_threads(1)  # as here: sums over more of them differ in their last bits
done = Walks.done
def until(self, walk, index, streams):
    done(self, walk, index, streams)
    if (walk, index) == ("cut", 1):
        os.kill(os.getpid(), signal.SIGKILL)
Walks.done = until
config = PruneConfig(**{config.model_dump(exclude_unset=True)!r})
prune_model({model!r}, Path({str(tmp_path / "out")!r}), config, command_line="")
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == -signal.SIGKILL
    assert (tmp_path / "out.partial").is_dir() and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="seed: 0, now 1"):
        prune_model(model, tmp_path / "out", config.model_copy(update={"seed": 1}), command_line="")
    assert goes_on(model, tmp_path / "out", config, monkeypatch) == [("cut", 2), ("cut", 3)]
    prune_model(model, tmp_path / "memory", config.model_copy(update={"stream": False}), command_line="")
    require_same(tmp_path / "memory", tmp_path / "out")


class StoppedError(Exception):
    """In place of a kill."""


@pytest.mark.slow
def test_stopped_while_scoring_it_goes_on_at_its_layer(
    untied: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Walks.done

    def until(self: Walks, walk: str, index: int, streams: Streams) -> None:
        done(self, walk, index, streams)
        if (walk, index) == ("scores", 2):
            raise StoppedError

    config = PruneConfig(ratio=0.3, calibration=text, dtype="float32", stream=True, **TEXT)
    with monkeypatch.context() as stopping, pytest.raises(StoppedError):
        stopping.setattr(Walks, "done", until)
        prune_model(untied, tmp_path / "out", config, command_line="")
    walks = goes_on(untied, tmp_path / "out", config, monkeypatch)
    assert walks == [("scores", 3), ("cut", 0), ("cut", 1), ("cut", 2), ("cut", 3)]
    prune_model(untied, tmp_path / "memory", config.model_copy(update={"stream": False}), command_line="")
    require_same(tmp_path / "memory", tmp_path / "out")


def goes_on(model: str, output: Path, config: PruneConfig, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Start a cut that was stopped again, and say which layers of which walk it has done."""
    done, walked = Walks.done, []

    def noting(self: Walks, walk: str, index: int, streams: Streams) -> None:
        walked.append((walk, index))
        done(self, walk, index, streams)

    with monkeypatch.context() as watching:
        watching.setattr(Walks, "done", noting)
        prune_model(model, output, config, command_line="")
    assert not output.with_name(f"{output.name}.partial").exists()
    return walked


@pytest.mark.slow
@pytest.mark.parametrize("step", ["quantize", "prune", "sparsify"])
def test_rounding_that_was_stopped_goes_on_at_its_layer(untied: str, text: str, tmp_path: Path, step: str) -> None:
    given = {"data": text, "dtype": "float32", "stream": True, "windows": 6, "seqlen": 32, "batch_size": 2}
    config, work, walk = {
        "quantize": (QuantizeConfig(quantize_head=True, **given), quantize_model, "round"),
        "prune": (PruneConfig(ratio=0.3, quantize=4, own_text=0.0, **given), prune_model, "cut"),
        "sparsify": (SparsifyConfig(sparsity=0.5, allocation="uniform", quantize=8, **given), sparsify_model, "cut"),
    }[step]
    done = Walks.done

    def until(self: Walks, name: str, index: int, streams: Streams) -> None:
        done(self, name, index, streams)
        if (name, index) == (walk, 1):
            raise StoppedError

    with pytest.MonkeyPatch.context() as stopping, pytest.raises(StoppedError):
        stopping.setattr(Walks, "done", until)
        work(untied, tmp_path / "out", config, command_line="")
    assert (tmp_path / "out.partial").is_dir() and not (tmp_path / "out").exists()
    work(untied, tmp_path / "out", config, command_line="")
    assert not (tmp_path / "out.partial").exists()
    work(untied, tmp_path / "through", config, command_line="")
    work(untied, tmp_path / "memory", config.model_copy(update={"stream": False}), command_line="")
    require_same(tmp_path / "through", tmp_path / "out")
    require_same(tmp_path / "memory", tmp_path / "out")


def test_other_times_of_widths_are_another_cut(model: str, text: str, tmp_path: Path) -> None:
    place = {"cpu": "c", "threads": 1, "gpu": "none", "engine": "transformers", "version": "1", "dtype": "float32"}
    shape = shape_of_times(make_tiny_model())
    times = {"place": {**place, "context": 8, "shape": shape}, "layers": 4, "fixed": 2.0, "spread": 0.0, "seconds": 1.0}
    curves = {"attention": [[0, 0.0], [4, 4.0]], "mlp": [[0, 0.0], [96, 3.0]]}
    file = tmp_path / "times.json"
    file.write_text(json.dumps({**times, **curves}))
    asked = {"target_latency": "20ms", "target_device": str(file)}
    config = PruneConfig(calibration=text, dtype="float32", stream=True, **asked, **TEXT)
    stop(model, tmp_path / "out", config, Walks, "done", lambda walk, index, streams: (walk, index) == ("cut", 1))
    file.write_text(json.dumps({**times, **curves, "fixed": 5.0}))
    with pytest.raises(InputError, match=r"with other settings \(content of times\.json: .*, now .*\)"):
        prune_model(model, tmp_path / "out", config, command_line="")
    file.unlink()
    with pytest.raises(InputError, match=r"times\.json cannot be read"):
        prune_model(model, tmp_path / "out", config, command_line="")


@pytest.fixture(scope="module")
def stopped(model: str, text: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PruneConfig]:
    """What is kept of a cut that was stopped after its second layer."""
    output = tmp_path_factory.mktemp("stopped") / "out"
    config = PruneConfig(ratio=0.3, calibration=text, dtype="float32", stream=True, **TEXT)
    stop(model, output, config, Walks, "done", lambda walk, index, streams: (walk, index) == ("cut", 1))
    return output.with_name("out.partial"), config


def stop(model: str, output: Path, config: PruneConfig, owner: Any, name: str, when: Callable[..., bool]) -> None:
    """Prune until a function that `when` holds for has done its work."""
    function = getattr(owner, name)

    def until(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        if when(*arguments[1:]):
            raise StoppedError
        return result

    with pytest.MonkeyPatch.context() as stopping, pytest.raises(StoppedError):
        stopping.setattr(owner, name, until)
        prune_model(model, output, config, command_line="")


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20])


def of_something_else(file: Path) -> None:
    if file.suffix == ".json":
        file.write_text('[{"attention": "x"}]')
    else:
        save_file({name: torch.zeros(7) for name in list(load_file(file))[:1]}, file)


def of_other_units(file: Path) -> None:
    """Indices of units that the layer does not have, in tensors of the right names and sizes."""
    tensors = load_file(file)
    save_file({name: t if t.is_floating_point() else t + 1000 for name, t in tensors.items()}, file)


@pytest.mark.parametrize("damage", [cut_short, of_something_else, of_other_units, Path.unlink])
@pytest.mark.parametrize("kept", ["layer-0001", "cut-0001", "cut-before-0002", "scores-0001", "sensitivity"])
def test_damage_is_told_in_a_line(
    model: str, stopped: tuple[Path, PruneConfig], tmp_path: Path, kept: str, damage: Callable[[Path], None]
) -> None:
    if damage is Path.unlink and kept in ("sensitivity", "cut-before-0002"):
        pytest.skip("is made anew")
    if damage is of_other_units and kept not in ("cut-0001", "scores-0001"):
        pytest.skip("names no units")
    partial, config = stopped
    copy = shutil.copytree(partial, tmp_path / "out.partial")
    (file,) = copy.glob(f"walk-{kept}.*")
    damage(file)
    with pytest.raises(InputError, match=rf"walk-{kept}.* is damaged.*delete .*out.partial to begin anew"):
        prune_model(model, tmp_path / "out", config, command_line="")


def test_work_of_other_commands_is_kept(model: str, stopped: tuple[Path, PruneConfig], tmp_path: Path) -> None:
    partial, config = stopped
    shutil.copytree(partial, tmp_path / "out.partial")
    with pytest.raises(InputError, match="unfinished work of another command"):
        recover_model(model, tmp_path / "out", RecoverConfig(data=config.data, seqlen=32, val_size=2), command_line="")
    sparsify = SparsifyConfig(method="magnitude", dtype="float32", stream=True)
    with pytest.raises(InputError, match="unfinished work of another command"):
        sparsify_model(model, tmp_path / "out", sparsify, command_line="")
    assert len(list((tmp_path / "out.partial").iterdir())) == len(list(partial.iterdir()))


def test_a_finished_cut_makes_way_for_no_other_in_memory(model: str, text: str, tmp_path: Path) -> None:
    config = PruneConfig(ratio=0.3, calibration=text, dtype="float32", stream=True, **TEXT)
    stop(model, tmp_path / "out", config, steps, "save", lambda *_: True)
    other = config.model_copy(update={"stream": False, "ratio": 0.1})
    with pytest.raises(OutputError, match="already holds something"):
        prune_model(model, tmp_path / "out", other, command_line="")
    assert goes_on(model, tmp_path / "out", config, pytest.MonkeyPatch()) == []


def test_magnitude_reads_no_text(model: str, tmp_path: Path) -> None:
    config = SparsifyConfig(method="magnitude", dtype="float32", stream=True, calibration="nowhere.txt")
    sparsify_model(model, tmp_path / "out", config, command_line="")
    assert (tmp_path / "out" / "sparsity.json").is_file()


def test_linked_as_in_the_hubs_cache_and_in_one_file(text: str, tmp_path: Path) -> None:
    model, tokenizer = make_tiny_model(), make_tiny_tokenizer()
    model.save_pretrained(tmp_path / "blobs")
    tokenizer.save_pretrained(tmp_path / "blobs")
    (tmp_path / "blobs" / "model.safetensors").rename(tmp_path / "blobs" / "0123")
    (tmp_path / "blobs" / "model.safetensors").symlink_to(tmp_path / "blobs" / "0123")
    for name, stream in (("memory", False), ("streamed", True)):
        config = SparsifyConfig(method="wanda", calibration=text, dtype="float32", stream=stream, **TEXT)
        sparsify_model(str(tmp_path / "blobs"), tmp_path / name, config, command_line="")
    require_same(tmp_path / "memory", tmp_path / "streamed")
