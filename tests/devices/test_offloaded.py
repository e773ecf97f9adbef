"""Weights that a device map has left outside of memory, fetched by Accelerate's hooks when they are needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from typed import COMMANDS, typed
from typer.testing import CliRunner

import secateur
from secateur.cli.main import app
from secateur.errors import ModelError
from secateur.models import loading

Models = Callable[..., PreTrainedModel]
Offload = Callable[[PreTrainedModel], PreTrainedModel]


def to_disk(model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """The second of two layers."""
    here = dict.fromkeys(("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    device_map = {**here, "model.layers.1": "disk"}
    return dispatch_model(model, device_map, main_device="cpu", offload_dir=str(directory))


def to_host(model: PreTrainedModel, _: Path) -> PreTrainedModel:
    """All of it."""
    return cpu_offload(model, torch.device("cpu"))


@pytest.fixture(params=[to_host, to_disk])
def offloaded(request: pytest.FixtureRequest, tmp_path: Path) -> Offload:
    return lambda model: request.param(model, tmp_path / "weights")


@pytest.mark.parametrize("command", [secateur.prune, secateur.sparsify, secateur.search, secateur.diagnose])
def test_weights_left_outside_are_refused_at_once(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, offloaded: Offload, command: Callable[..., object]
) -> None:
    model = offloaded(tiny_model(num_hidden_layers=2))
    with pytest.raises(ModelError, match=r"no room for model\..*; use device=.cpu."):
        command(model, tiny_tokenizer)


@pytest.mark.parametrize("tied", [True, False])
def test_evaluation_fetches_them(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, offloaded: Offload, tied: bool
) -> None:
    model = tiny_model(num_hidden_layers=2, tie_word_embeddings=tied)
    measured = {"windows": 2, "seqlen": 32, "prompt_tokens": 8, "new_tokens": 2, "repeats": 1}
    expected = secateur.evaluate(model, tiny_tokenizer, **measured)
    found = secateur.evaluate(offloaded(model), tiny_tokenizer, **measured)
    assert found.perplexity == expected.perplexity
    assert found.decode_tokens_per_second


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_so_in_one_line(
    made: dict[str, str], private_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    read = loading.read_model

    def outside(path: Path, device_map: str | None = None, **options: Any) -> PreTrainedModel:
        model = read(path, **options)
        return to_disk(model, tmp_path / "weights") if device_map == "auto" else model

    monkeypatch.setattr(loading, "read_model", outside)
    result = CliRunner().invoke(app, [*typed(name, made, tmp_path), "--device-map", "auto"])
    if name == "evaluate":
        assert result.exit_code == 0, result.output
        return
    assert result.exit_code == 1, result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "no room for model.layers.1." in line
    assert not (tmp_path / "out").exists()
