"""Layer by layer is the same as all at once; losses in chunks are the same as whole."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from secateur.calibration import chunked_loss, token_losses
from secateur.calibration.streaming import LayerStream, Offload
from secateur.errors import InputError
from secateur.models import adapter_of


@pytest.mark.parametrize("overrides", [{}, {"sliding_window": 6}])
def test_streaming_equals_the_model(
    tiny_model: Callable[..., PreTrainedModel], family: str, overrides: dict[str, int]
) -> None:
    if family.startswith("qwen") and overrides:
        overrides = {**overrides, "use_sliding_window": True, "max_window_layers": 2}
    model = tiny_model(family, **({} if family == "llama" else overrides))
    windows = torch.randint(0, 256, (5, 20))
    stream = LayerStream.start(model, windows, batch_size=2)
    for index in range(4):
        for half in stream.halves(index):
            stream.run(index, half)
    with torch.no_grad():
        expected = model.model(windows).last_hidden_state
        torch.testing.assert_close(adapter_of(model).final_norm(model)(torch.cat(stream.hidden)), expected)


def test_a_fork_goes_its_own_way(tiny_model: Callable[..., PreTrainedModel]) -> None:
    stream = LayerStream.start(tiny_model(), torch.randint(0, 256, (2, 8)))
    before = stream.hidden[0].clone()
    other = stream.fork()
    other.run(0, other.half(0, "attention"))
    assert torch.equal(stream.hidden[0], before)


@pytest.mark.parametrize("offload", ["none", "cpu", "disk"])
def test_the_inputs_of_a_projection_and_its_output_are_the_half(
    tiny_model: Callable[..., PreTrainedModel], offload: Offload
) -> None:
    model = tiny_model()
    stream = LayerStream.start(model, torch.randint(0, 256, (5, 8)), batch_size=2, offload=offload)
    other = stream.fork()
    half = stream.half(0, "mlp")
    inputs = stream.stored(stream.inputs(0, half, half.output))
    assert [batch.shape for batch in inputs] == [(2, 8, 96), (2, 8, 96), (1, 8, 96)]
    stream.add(half, inputs)
    other.run(0, half)
    for one, two in zip(stream.hidden, other.hidden, strict=True):
        torch.testing.assert_close(one, two)
    assert model(torch.arange(7)[None]).logits.isfinite().all(), "the hook is gone"


def test_losses_in_chunks_equal_the_whole(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model, tokens = tiny_model(), torch.randint(0, 256, (3, 11))
    labels = tokens.clone()
    labels[0, :4] = -100
    logits = model(tokens).logits[:, :-1].flatten(0, 1)
    whole = functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="none", ignore_index=-100)
    hidden = model.model(tokens).last_hidden_state
    torch.testing.assert_close(token_losses(model, hidden, labels, chunk_tokens=4), whole.view(3, 10))
    chunked_loss(model, hidden, labels, chunk_tokens=4).backward()
    chunked = model.model.layers[0].mlp.up_proj.weight.grad.clone()
    model.zero_grad()
    functional.cross_entropy(
        model(tokens).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum", ignore_index=-100
    ).backward()
    torch.testing.assert_close(chunked, model.model.layers[0].mlp.up_proj.weight.grad, rtol=1e-3, atol=1e-4)


def test_fewer_windows_than_processes(tiny_model: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(InputError, match="fewer windows of text than one each; start fewer, or give more windows="):
        LayerStream.start(tiny_model(), torch.zeros(0, 16, dtype=torch.long))
