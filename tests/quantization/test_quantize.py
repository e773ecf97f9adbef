"""quantize on tiny models: what it leaves, what is stored, what other commands make of it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.errors import InputError, ModelError, OptionError
from secateur.evaluation import perplexity
from secateur.exporting import opening_in
from secateur.models.adapters import adapter_of
from secateur.models.packed_config import quantization_config
from secateur.models.rounded import Rounded, is_rounded, rounded_linears, rounded_of
from secateur.planning import estimate
from uneven import cut_unevenly

EVEN_GROUPS = ((4, 96), (3, 64), (1, 32), (2, 64))
TOKENS = torch.arange(40).view(2, 20)
Maker = Callable[..., PreTrainedModel]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("the quick brown fox jumps over the lazy dog, and then some. " * 40)
    return {"data": str(file), "windows": 6, "seqlen": 32, "batch_size": 3}


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(TOKENS).logits


def stored(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, place: Path) -> Path:
    secateur.save(model, tokenizer, place)
    return place


@pytest.mark.parametrize(("kind", "bits"), [("stock", 4), ("uneven", 4), ("stock", 8)])
def test_what_is_stored_opens_in_transformers_with_the_same_logits(
    tiny_model: Maker,
    tiny_tokenizer: PreTrainedTokenizerFast,
    text: dict[str, object],
    tmp_path: Path,
    kind: str,
    bits: int,
) -> None:
    model = tiny_model("llama").eval()
    if kind == "uneven":
        cut_unevenly(model, EVEN_GROUPS)
    result = secateur.quantize(model, tiny_tokenizer, bits=bits, **text)
    assert result.bytes_after < result.bytes_before
    assert {matrix.bits for matrix in result.matrices} == {bits}
    directory = stored(model, tiny_tokenizer, tmp_path / "rounded")
    size = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    assert 0 < size - result.bytes_after < 40_000  # the header, and the shapes
    where = {"stock": "Transformers, vLLM", "uneven": "Transformers, vLLM (remote code)"}[kind]
    assert opening_in(directory).line == f"Opens in {where}; by export: llama.cpp"
    expected = logits(model)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=True)
    assert torch.equal(logits(plain), expected)
    again, _ = secateur.load(directory, dtype="float32")
    assert torch.equal(logits(again), expected)
    assert len(rounded_linears(again)) == len(result.matrices)
    assert quantization_config(again) == quantization_config(model)


def test_less_is_lost_than_by_8_bits_less_than_by_4(
    tiny_model: Maker, tiny_tokenizer: PreTrainedTokenizerFast, text: dict[str, object]
) -> None:
    model = tiny_model("llama").eval()
    off = {}
    for bits in (4, 8):
        made = copy.deepcopy(model)
        secateur.quantize(made, tiny_tokenizer, bits=bits, **text)
        off[bits] = float((logits(made) - logits(model)).square().mean())
    assert off[8] < 0.05 * off[4]


def test_the_grid_is_noted_and_the_rest_stays(
    tiny_model: Maker, tiny_tokenizer: PreTrainedTokenizerFast, text: dict[str, object], tmp_path: Path
) -> None:
    model = tiny_model("llama", tie_word_embeddings=False).eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    secateur.quantize(model, tiny_tokenizer, quantize_head=True, layers="1:3", group=32, **text)
    layers = adapter_of(model).layers(model)
    rounded = {name.split(".")[2] for name in rounded_linears(model) if "layers" in name}
    assert rounded == {"1", "2"}
    assert rounded_of(model.lm_head) is not None
    assert torch.equal(model.model.embed_tokens.weight, before["model.embed_tokens.weight"])
    assert torch.equal(layers[0].mlp.up_proj.weight, before["model.layers.0.mlp.up_proj.weight"])
    directory = stored(model, tiny_tokenizer, tmp_path / "rounded")
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    assert torch.equal(logits(plain), logits(model))
    assert torch.equal(logits(secateur.load(directory, dtype="float32")[0]), logits(model))


def test_zeros_of_a_sparse_model_stay(
    tiny_model: Maker, tiny_tokenizer: PreTrainedTokenizerFast, text: dict[str, object]
) -> None:
    model = tiny_model("llama").eval()
    secateur.sparsify(model, tiny_tokenizer, method="magnitude", pattern="2:4")
    zeros = {name: weight == 0 for name, weight in model.named_parameters() if "proj" in name}
    secateur.quantize(model, tiny_tokenizer, **text)
    assert all((dict(model.named_parameters())[name][mask] == 0).all() for name, mask in zeros.items())


@pytest.mark.parametrize("cut", ["prune", "sparsify"])
def test_cut_and_rounded_in_one_pass(
    tiny_model: Maker, tiny_tokenizer: PreTrainedTokenizerFast, text: dict[str, object], tmp_path: Path, cut: str
) -> None:
    model = tiny_model("llama").eval()
    if cut == "prune":
        result = secateur.prune(model, tiny_tokenizer, ratio=0.2, quantize=4, own_text=0.0, **text)
        assert result.plan.settings["channel_multiple"] == 32
    else:
        zeros = secateur.sparsify(model, tiny_tokenizer, sparsity=0.5, quantize=4, allocation="uniform", **text)
        assert zeros.reached >= 0.5
    projections = [name for name, _ in model.named_parameters() if name.endswith("_proj.weight")]
    assert {f"{name}.weight" for name in rounded_linears(model)} == set(projections)
    directory = stored(model, tiny_tokenizer, tmp_path / "rounded")
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=True)
    assert torch.equal(logits(plain), logits(model))
    assert torch.equal(logits(secateur.load(directory, dtype="float32")[0]), logits(model))


@pytest.fixture(scope="module")
def rounded(text: dict[str, object]) -> PreTrainedModel:
    from tiny import make_tiny_model, make_tiny_tokenizer

    model = make_tiny_model("llama").eval()
    secateur.quantize(model, make_tiny_tokenizer(), **text)
    return model


def test_what_would_change_the_weights_is_refused(
    rounded: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, text: dict[str, object], tmp_path: Path
) -> None:
    for change in (secateur.quantize, secateur.prune, secateur.sparsify, secateur.search):
        with pytest.raises(InputError, match="rounded to 4 bits"):
            change(rounded, tiny_tokenizer, **text)
    for options in ({"method": "full"}, {"method": "masked"}, {"method": "lora", "merge": True}):
        with pytest.raises(InputError, match="rounded to 4 bits"):
            secateur.recover(rounded, tiny_tokenizer, tmp_path / "trained", **options)
    changed = copy.deepcopy(rounded)
    changed.model.layers[0].mlp.up_proj.weight.data += 0.01
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.up_proj have been changed since they were rounded"):
        secateur.save(changed, tiny_tokenizer, tmp_path / "changed")


def test_lora_beside_rounded_weights_and_merge(
    rounded: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, text: dict[str, object], tmp_path: Path
) -> None:
    directory, adapter = stored(rounded, tiny_tokenizer, tmp_path / "rounded"), tmp_path / "adapter"
    model, _ = secateur.load(directory, dtype="float32")
    trained = {"data": text["data"], "samples": 6, "seqlen": 32, "batch_size": 2, "eval_steps": 10, "lora_r": 2}
    secateur.recover(model, tiny_tokenizer, adapter, **trained)
    assert (adapter / "adapter_config.json").is_file()
    base, _ = secateur.load(directory, dtype="float32")
    with pytest.raises(InputError, match="--dequantize"):
        secateur.merge(base, adapter)
    with pytest.raises(ModelError):
        secateur.merge(base, directory, dequantize=True)
    assert is_rounded(base)
    assert torch.equal(logits(base), logits(rounded))
    merged = secateur.merge(base, adapter, dequantize=True)
    assert not is_rounded(merged)
    again = stored(merged, tiny_tokenizer, tmp_path / "merged")
    assert "quantization_config" not in json.loads((again / "config.json").read_text())
    assert perplexity(secateur.load(again, dtype="float32")[0], TOKENS) == pytest.approx(perplexity(merged, TOKENS))


def test_diagnose_says_bits_and_bytes(rounded: PreTrainedModel) -> None:
    assert "rounded to 4 bits in groups of 32 and 64 and 128" in secateur.diagnose(rounded, TOKENS).rounding


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": 3}, OptionError, "bits can be 4 or 8"),
        ({"group": 100}, OptionError, "a group is a multiple of 32 columns, or auto"),
        ({"group": 128}, InputError, "does not divide the 64 inputs of q_proj in layer 0; use 64 or 32"),
        ({"quantize_head": True}, InputError, "tied"),
    ],
)
def test_options_that_do_not_fit(
    tiny_model: Maker,
    tiny_tokenizer: PreTrainedTokenizerFast,
    text: dict[str, object],
    options: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    with pytest.raises(error, match=message):
        secateur.quantize(model, tiny_tokenizer, **text, **options)


def test_widths_that_no_group_divides(
    tiny_model: Maker, tiny_tokenizer: PreTrainedTokenizerFast, text: dict[str, object]
) -> None:
    model = cut_unevenly(tiny_model("llama"))
    with pytest.raises(InputError, match="down_proj in layer 1 has 40 inputs, which no group of 32 divides; cut"):
        secateur.quantize(model, tiny_tokenizer, **text)
    with pytest.raises(InputError, match="8 leaves widths that no group of 32 divides"):
        secateur.prune(tiny_model("llama"), tiny_tokenizer, quantize=4, channel_multiple=8, **text)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16, torch.float16])
def test_levels_are_found_again_in_every_number_format(bits: int, weights: torch.dtype, scales: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).repeat(64, 1).to(torch.int8)
    scale = (0.001 + torch.rand(64, len(levels[0]) // 16, generator=generator)).to(scales)
    note = Rounded(bits, 16, scale)
    found = note.levels(note.weights(levels, weights))
    assert found is not None and torch.equal(found, levels)


def test_a_checkpoint_in_float32_is_rounded_in_bfloat16(
    tiny_model: Maker, tiny_tokenizer: PreTrainedTokenizerFast, text: dict[str, object], tmp_path: Path
) -> None:
    """As a CPU that is fast in bfloat16 has it by itself: scales are stored in float32, and weights are not there."""
    directory = stored(tiny_model("llama"), tiny_tokenizer, tmp_path / "uncut")
    model, _ = secateur.load(directory, dtype="bfloat16")
    secateur.quantize(model, tiny_tokenizer, bits=8, **text)
    rounded = stored(model, tiny_tokenizer, tmp_path / "rounded")
    assert torch.equal(logits(secateur.load(rounded, dtype="bfloat16")[0]), logits(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(96, 64)}, r"holds both model\.layers\.1\.mlp\.up_proj\.weight and weight_packed"),
        ({"weight_scale": torch.full((96, 1), torch.nan)}, r"infinite scales in .*up_proj\.weight_scale; restore"),
        ({"weight_scale": None}, r"lacks model\.layers\.1\.mlp\.up_proj\.weight_scale; restore"),
        ({"weight_scale": torch.ones(96, 3)}, "do not fit each other"),
        ({"weight_packed": torch.ones(96, 7, dtype=torch.int32)}, "do not fit each other"),
        ({"weight_shape": torch.tensor([64, 96])}, r"of shape \(64, 96\) where its config\.json asks for \(96, 64\)"),
    ],
)
def test_damaged_weights_are_named(
    rounded: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    change: dict[str, Tensor | None],
    message: str,
) -> None:
    directory = stored(rounded, tiny_tokenizer, tmp_path / "rounded")
    tensors = load_file(directory / "model.safetensors")
    for part, tensor in change.items():
        tensors[f"model.layers.1.mlp.up_proj.{part}"] = tensor
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=message):
        secateur.load(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "nvfp4-pack-quantized"}, "only pack-quantized is read"),
        ({"weights": {"symmetric": False}}, "symmetric integers of 4 or 8 bits"),
        ({"weights": {"num_bits": 3}}, "symmetric integers of 4 or 8 bits"),
        ({"input_activations": {"num_bits": 8}}, "rounds activations as well"),
    ],
)
def test_other_formats_of_compressed_tensors_are_refused(
    rounded: PreTrainedModel,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    change: dict[str, object],
    message: str,
) -> None:
    directory = stored(rounded, tiny_tokenizer, tmp_path / "rounded")
    content = json.loads((directory / "config.json").read_text())
    scheme = content["quantization_config"]["config_groups"]["group_0"]
    for name, value in change.items():
        scheme[name] = {**scheme[name], **value} if name == "weights" and isinstance(value, dict) else value
    (directory / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message):
        secateur.load(directory)


def test_no_cut_is_planned_of_rounded_weights(
    rounded: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    directory = stored(rounded, tiny_tokenizer, tmp_path / "rounded")
    for options in ({"fit": "200kB"}, {"target_memory": "200kB"}):
        with pytest.raises(InputError, match="rounded to a few bits, and no cut is made of such a model"):
            estimate(directory, **options)
    assert estimate(directory, devices="24GB").phases
