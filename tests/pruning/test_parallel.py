"""Parallel blocks: halves that both read what their layer is given."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, GptOssConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention

from secateur.calibration.gradients import only_gradients_of
from secateur.calibration.sensitivity import residual_streams
from secateur.calibration.streaming import LayerStream
from secateur.files import write_json
from secateur.files.json_text import read_json
from secateur.models import HalfNames, adapter_of, declare_widths, is_uneven, load, save
from secateur.models.halves import PARTS, Half, blocks_of
from secateur.pruning.cutting import Counts, cut_and_refit, halves_towards_uncut
from secateur.pruning.units import keep_units, part_shape
from uneven import cut_unevenly

PARALLEL = ("cohere", "cohere2", "gpt_neox")
WINDOWS = torch.randint(0, 256, (6, 24), generator=torch.Generator().manual_seed(0))
Models = Callable[..., PreTrainedModel]
Small = PreTrainedTokenizerFast


def halves_of(model: PreTrainedModel, layer: int) -> list[Half]:
    adapter = adapter_of(model)
    return [adapter.half(adapter.layers(model)[layer], part) for part in PARTS]


def inputs_of_mlp(model: PreTrainedModel, layer: int) -> Tensor:
    """What goes into the output projection of a layer's MLP when the model itself is run."""
    seen: list[Tensor] = []
    output = halves_of(model, layer)[1].output
    handle = output.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        model(WINDOWS)
    handle.remove()
    return seen[0]


@torch.no_grad()
def stream_after(model: PreTrainedModel, layer: int) -> Tensor:
    """What a layer gives when the model itself is run."""
    seen: list[Tensor] = []
    handle = adapter_of(model).layers(model)[layer].register_forward_hook(lambda _, __, output: seen.append(output))
    model(WINDOWS)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("parallel", [True, False])
def test_a_cut_of_attention_is_seen_by_the_mlp_where_that_stands_behind_it(tiny_model: Models, parallel: bool) -> None:
    """Of the first layer, whose input no cut has changed."""
    model = tiny_model("gpt_neox", use_parallel_residual=parallel)
    whole = inputs_of_mlp(model, 0)
    halves, left = halves_towards_uncut(model, WINDOWS, 6), torch.arange(2)
    attention = next(halves)
    attention.columns = blocks_of(left, attention.half.block_size)
    keep_units(attention.half, left)
    mlp = next(halves)
    flat = whole.flatten(0, 1)
    assert torch.allclose(mlp.gram.inputs, flat.T @ flat, rtol=1e-4, atol=1e-4) == parallel


@pytest.mark.parametrize("family", PARALLEL)
def test_the_mlp_is_fitted_to_what_the_cut_attention_lacks(tiny_model: Models, family: str) -> None:
    """Though nothing of it is cut, and none of its inputs is another."""
    goal = stream_after(tiny_model(family), 0)

    def error(counts: Counts) -> float:
        model = tiny_model(family)
        weight = halves_of(model, 0)[1].output.weight.clone()
        cut_and_refit(model, None, counts, WINDOWS, 6, 1e-3)
        missing = [(stream_after(model, 0) - goal).square().mean()]
        with torch.no_grad():
            halves_of(model, 0)[1].output.weight.copy_(weight)
        missing.append((stream_after(model, 0) - goal).square().mean())
        return float(missing[0] / missing[1])

    assert error({(0, "attention"): 2}) < 0.8


@pytest.mark.parametrize("family", PARALLEL)
def test_what_stands_where_is_the_models(tiny_model: Models, family: str) -> None:
    """The streams between halves, absent ones among them, end in what the layers themselves give."""
    model = tiny_model(family)
    for layer, part in ((0, 0), (2, 1)):
        keep_units(halves_of(model, layer)[part], torch.empty(0, dtype=torch.long))
    declare_widths(model)
    expected = [stream_after(model, layer) for layer in range(3)]
    with only_gradients_of(model, []):
        found, _ = residual_streams(model, WINDOWS)
    for layer in range(3):
        torch.testing.assert_close(found[2 * layer + 1].detach(), expected[layer], rtol=1e-5, atol=1e-5)
    stream = LayerStream.start(model, WINDOWS, 2)
    other = stream
    for layer in range(3):
        for half in stream.halves(layer):
            other.run(layer, half)
            other = other.fork()
    torch.testing.assert_close(torch.cat(list(other.hidden)), expected[2], rtol=1e-5, atol=1e-5)
    assert other.given is None


@pytest.mark.parametrize("family", ["cohere", "cohere2"])
def test_a_shared_norm_stays_with_the_half_that_stays(tiny_model: Models, family: str) -> None:
    model = tiny_model(family)
    attention, mlp = halves_of(model, 1)
    norm = attention.norm
    assert norm is mlp.norm
    keep_units(attention, torch.empty(0, dtype=torch.long))
    assert halves_of(model, 1)[1].norm is norm


@pytest.mark.parametrize("family", PARALLEL)
def test_what_stands_before_a_gap_is_fitted_to_what_comes_after_it(tiny_model: Models, family: str) -> None:
    """The attention before an MLP that leaves: to the stream after that, in the same layer."""
    goal, fitted, plain = stream_after(tiny_model(family), 1), tiny_model(family), tiny_model(family)
    cut_and_refit(fitted, None, {(1, "mlp"): 96}, WINDOWS, 6, 0.01)
    keep_units(halves_of(plain, 1)[1], torch.empty(0, dtype=torch.long))
    error, unfitted = (float((stream_after(model, 1) - goal).square().mean()) for model in (fitted, plain))
    assert error < 0.9 * unfitted


@pytest.mark.parametrize("bias", [True, False])
def test_gpt_neox_with_fewer_heads_than_make_up_the_hidden_size(
    tiny_model: Models, tiny_tokenizer: Small, bias: bool, tmp_path: Path
) -> None:
    """Its own class cannot hold such heads, even ones: the file beside the weights builds them."""
    model = cut_unevenly(tiny_model("gpt_neox", attention_bias=bias), [(3, 64)] * 4)
    assert is_uneven(model)
    assert model.config.square_attention == ["attention", "query_key_value", "dense"]
    save(model, tiny_tokenizer, tmp_path / "m")
    loaded, _ = load(tmp_path / "m", dtype="float32")
    with torch.no_grad():
        assert torch.equal(loaded(WINDOWS).logits, model(WINDOWS).logits)
    whole = cut_unevenly(tiny_model("gpt_neox"), [(4, 64)] * 4)
    assert type(whole) is type(tiny_model("gpt_neox"))


def test_a_checkpoint_like_pythias(tiny_model: Models, tiny_tokenizer: Small, tmp_path: Path) -> None:
    """Rotary settings under names of GPT-NeoX's own, a head called embed_out, and masks beside the weights."""
    model = tiny_model("gpt_neox", tie_word_embeddings=False)
    save(model, tiny_tokenizer, tmp_path / "m")
    config, weights = (
        read_json(tmp_path / "m" / "config.json", "is no config"),
        load_file(tmp_path / "m" / "model.safetensors"),
    )
    for name in ("rope_parameters", "rope_theta", "partial_rotary_factor", "head_dim", "num_key_value_heads", "dtype"):
        config.pop(name, None)
    assert (config["rotary_pct"], config["rotary_emb_base"]) == (0.5, 10000.0)
    assert "embed_out.weight" in weights
    of_a_layer = "gpt_neox.layers.0.attention"
    weights[f"{of_a_layer}.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    weights[f"{of_a_layer}.masked_bias"] = torch.tensor(-1e9)
    weights[f"{of_a_layer}.rotary_emb.inv_freq"] = torch.ones(4)
    write_json(tmp_path / "m" / "config.json", {**config, "torch_dtype": "float32"})
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    loaded, _ = load(tmp_path / "m", dtype="float32")
    with torch.no_grad():
        assert torch.equal(loaded(WINDOWS).logits, model(WINDOWS).logits)
        save(cut_unevenly(loaded, [(4, 96), (3, 40), (1, 33), (2, 64)]), tiny_tokenizer, tmp_path / "cut")
        cut, _ = load(tmp_path / "cut", dtype="float32")
        assert torch.equal(cut(WINDOWS).logits, loaded(WINDOWS).logits)


def test_names_of_a_file_that_are_no_projections_are_refused(
    tiny_model: Models, tiny_tokenizer: Small, tmp_path: Path
) -> None:
    model = cut_unevenly(tiny_model("gpt_neox"), [(3, 64)] * 4)
    save(model, tiny_tokenizer, tmp_path / "m")
    config = AutoConfig.from_pretrained(tmp_path / "m")
    config.square_attention = ["attention", "config", "dense"]
    with pytest.raises(ValueError, match="square_attention names config, which is no projection"):
        type(model)(config)


def test_sinks_leave_with_their_heads() -> None:
    """A learned logit for each query head, as gpt-oss has it."""
    names = HalfNames(
        part="attention",
        mixer="self_attn",
        inputs={"q_proj": ("query",), "k_proj": ("key",), "v_proj": ("value",)},
        output="o_proj",
        norm=None,
        per_head={"sinks": "query"},
    )
    config = GptOssConfig(hidden_size=32, num_attention_heads=8, num_key_value_heads=4, head_dim=8, num_hidden_layers=1)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    layer = nn.Module()
    layer.self_attn = GptOssAttention(config, 0).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    half, hidden = names.of(layer), torch.randn(2, 10, 32)
    arguments = {
        "position_embeddings": (torch.ones(1, 10, 4), torch.zeros(1, 10, 4)),
        "attention_mask": torch.full((10, 10), -torch.inf).triu(1)[None, None],
    }
    with torch.no_grad():
        half.output.weight[:, blocks_of(torch.tensor([0, 2]), half.block_size)] = 0
        expected, before = half.mixed(hidden, arguments), part_shape(half).unit_parameters
        keep_units(half, torch.tensor([1, 3]))
        found = half.mixed(hidden, arguments)
    assert layer.self_attn.sinks.shape == (4,)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert before == 4 * 16 * 32 - 2 * 8 * 32 + 2 * 16 + 2  # q, k, v, o; biases of q, k, v; two sinks
