"""Memory and time of phases: against what secateur's own code counts and holds, and as properties of the formula."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from secateur.costs.devices import named_devices
from secateur.costs.known_devices import GB, GPUS, all_names
from secateur.errors import InputError
from secateur.models import supported_model_types
from secateur.models.adapters import adapter_of
from secateur.planning import ModelEstimate, PlanConfig, estimate
from secateur.planning.calibration import removal, removal_rounds
from secateur.planning.phase import Setting
from secateur.planning.running import recover_phases
from secateur.planning.shape import shape_of
from secateur.pruning.obs import removal_order
from secateur.recovery import RecoverConfig
from secateur.recovery.lora import add_lora

SHAPES = {"8b": (4096, 14_336, 32, 32), "70b": (8192, 28_672, 80, 64)}


@pytest.fixture
def llama(tmp_path: Path) -> Callable[[str], Path]:
    """The directory of a Llama 3 that consists of its config."""

    def write(size: str) -> Path:
        hidden, channels, layers, heads = SHAPES[size]
        content: dict[str, Any] = {"model_type": "llama", "vocab_size": 128_256, "hidden_size": hidden}
        content |= {"intermediate_size": channels, "num_hidden_layers": layers, "num_attention_heads": heads}
        content |= {"num_key_value_heads": 8, "tie_word_embeddings": False, "dtype": "bfloat16"}
        (tmp_path / size).mkdir(exist_ok=True)
        (tmp_path / size / "config.json").write_text(json.dumps(content))
        return tmp_path / size

    return write


def by_name(found: ModelEstimate) -> dict[str, Any]:
    return {phase.phase: phase for phase in found.phases}


def test_defaults_are_those_of_the_commands() -> None:
    from secateur.pruning import PruneConfig

    config, prune = PlanConfig(devices="cpu"), PruneConfig()
    assert (config.windows, config.seqlen, config.own_text, config.batch_size, config.ratio) == (
        prune.windows,
        prune.seqlen,
        prune.own_text,
        prune.batch_size,
        prune.ratio,
    )


def test_what_fits_where(llama) -> None:
    one = by_name(estimate(llama("8b"), devices="1xH100"))
    assert one["load"].memory_bytes == 2 * 8_030_261_248
    assert one["recover: lora"].fits
    assert not one["recover: full"].fits
    assert one["recover: full"].seconds is None
    eight = by_name(estimate(llama("8b"), devices="8xH100"))
    assert eight["recover: full"].options == "torchrun --fsdp"
    assert eight["recover: lora"].options == "torchrun"
    assert eight["recover: lora"].seconds < one["recover: lora"].seconds / 3
    large = by_name(estimate(llama("70b"), devices="8xH100"))
    assert large["prune: scores"].options == "--device-map auto"
    alone = by_name(estimate(llama("70b"), devices="1xH100"))
    assert alone["sparsify: admm"].options == "--layer-by-layer --offload cpu"
    assert not large["recover: full"].fits


def test_advice_names_devices_that_are_enough(llama) -> None:
    found = estimate(llama("8b"), devices="1xH100")
    (advice,) = [line for line in found.advice if line.startswith("you cannot: recover --method full --teacher, which")]
    assert advice.endswith("; 4 of them are enough with torchrun --fsdp")
    assert by_name(estimate(llama("8b"), devices="4xH100"))["recover: full, teacher"].fits
    small = estimate(llama("70b"), devices="1xRTX4090")
    assert any("no number of these devices is enough" in line for line in small.advice)


def test_sharding_counts_the_whole_model_that_is_loaded_first(llama) -> None:
    for devices in ("64xH100", "1024xH100"):
        assert not by_name(estimate(llama("70b"), devices=devices))["recover: full"].fits


def test_each_process_has_a_window_of_the_batch(llama) -> None:
    found = by_name(estimate(llama("8b"), devices="64xH100"))
    assert found["recover: lora"].options == "torchrun --batch-size 64"


def test_more_to_do_takes_longer(llama) -> None:
    base = by_name(estimate(llama("8b"), devices="1xH100"))
    more = by_name(estimate(llama("8b"), devices="1xH100", windows=128, recover_samples=40_000, evaluate_windows=128))
    for name in ("evaluate", "prune: own text", "prune: scores", "prune: cut and re-fit", "sparsify: admm"):
        assert more[name].seconds > base[name].seconds
    assert more["recover: lora"].seconds == pytest.approx(2 * base["recover: lora"].seconds)
    assert base["recover: lora"].seconds < base["recover: lora, teacher"].seconds


def test_every_device_of_the_table_is_planned_with(tiny_model, tmp_path: Path) -> None:
    tiny_model().config.save_pretrained(tmp_path)
    for name in all_names():
        found = estimate(tmp_path, devices=f"8x{name}")
        assert all(phase.fits and phase.seconds > 0 for phase in found.phases)
        assert found.utilisation == "assumed"
        assert found.device.startswith(name)


def test_figures_of_devices_are_of_their_order() -> None:
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    for gpu in GPUS:
        assert gpu.name.endswith(f"-{gpu.memory / 1e9:.0f}") or not re.search(r"-\d+$", gpu.name)
        assert gpu.float64 <= gpu.float32 <= gpu.products <= 40 * gpu.float32
        assert gpu.link < gpu.bandwidth < gpu.products


def test_a_device_without_bfloat16_is_faster_in_float16(llama) -> None:
    stored, half = (by_name(estimate(llama("8b"), devices="8xT4", dtype=dtype)) for dtype in ("auto", "float16"))
    assert stored["sparsify: wanda"].seconds > 2 * half["sparsify: wanda"].seconds


def test_flops_of_the_removal_order() -> None:
    torch.manual_seed(0)
    inputs, outputs = 64, 24
    factor = torch.randn(inputs, 2 * inputs, dtype=torch.float64)
    inverse = torch.linalg.inv(factor @ factor.T)
    weight = torch.randn(outputs, inputs)

    def in_place(_: Any, left: Any, right: Any, **__: Any) -> int:
        return 2 * left[0] * left[1] * right[1]

    def of_blocks(_: Any, left: Any, right: Any, **__: Any) -> int:
        return 2 * left[0] * left[1] * left[2] * right[2]

    mapping = {torch.ops.aten.addmm_: in_place, torch.ops.aten.baddbmm_: of_blocks}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        removal_order(inverse, weight, block_size=1, limit=48)
    # The counter does not see the triangular solves.
    solves = sum(going**2 * (outputs + inputs - done - going) for going, done in removal_rounds(1, 48))
    assert removal(inputs, outputs, 1, 48).float32 == pytest.approx(counter.get_total_flops() + solves)


@pytest.mark.parametrize("family", supported_model_types())
def test_every_family_is_planned_from_its_config(tiny_model, tmp_path: Path, family: str) -> None:
    tiny_model(family).config.save_pretrained(tmp_path)
    found = estimate(tmp_path, devices="2xH100")
    assert found.family == family
    assert all(phase.fits and phase.seconds > 0 for phase in found.phases)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", supported_model_types())
def test_parameters_of_an_adapter(tiny_model, tied: bool, family: str) -> None:
    model = tiny_model(family, tie_word_embeddings=tied)
    shape = shape_of(model.config.to_dict())
    config = PlanConfig(devices="8xH100", recover_batch_size=1, recover_samples=20)
    (lora, *_), *_ = recover_phases(Setting(shape, config, 4, on_cpu=False))
    adapted = add_lora(model, RecoverConfig())
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    steps = 20 * 0.95
    assert lora.sent == pytest.approx(8 * trained * steps)


# Seed-OSS drops out a tenth of attention and of what is added to the residual stream unless its config says not to.
WITHOUT_DROPOUT = {"seed_oss": {"attention_dropout": 0.0, "residual_dropout": 0.0}}


def saved_bytes(model: torch.nn.Module, tokens: torch.Tensor) -> int:
    """Bytes of what a forward pass keeps for the backward pass, weights not counted."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        adapter_of(model).body(model)(input_ids=tokens, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("family", supported_model_types())
def test_activations_of_full_training(tiny_model, family: str) -> None:
    model = tiny_model(family, hidden_size=128, intermediate_size=256, **WITHOUT_DROPOUT.get(family, {})).train()
    shape = shape_of(model.config.to_dict())

    def saved(seqlen: int) -> int:
        return saved_bytes(model, torch.zeros(2, seqlen, dtype=torch.long))

    config = PlanConfig(devices="8xH100", recover_batch_size=2, seqlen=128)
    full = recover_phases(Setting(shape, config, 2, on_cpu=False))[2][0]
    # Without what is the same for any length: weights in bfloat16 are kept as well.
    real = saved(128) - (3 * saved(64) - 3 * saved(128) + saved(192))
    # GPT-NeoX has two projections that read the residual stream where others have five, and a copy of it for each.
    assert full.activations == pytest.approx(real, rel={"gpt_neox": 0.25, "cohere2": 0.12}.get(family, 0.1))


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("8xH100", 8, "H100"),
        ("H100", 1, "H100"),
        ("2 x a100", 2, "A100-80"),
        ("64×H200", 64, "H200"),
        ("1xRTX4090", 1, "RTX4090"),
        ("4090", 1, "RTX4090"),
        ("rtx4090", 1, "RTX4090"),
        ("2 x NVIDIA GeForce RTX 4090", 2, "RTX4090"),
        ("rtx 3060", 1, "RTX3060"),
        ("4060 Ti", 1, "RTX4060-Ti-16"),
        ("RTX 5060 Ti 8GB", 1, "RTX5060-Ti-8"),
        ("Tesla T4", 1, "T4"),
        ("V100 16GB", 1, "V100-16"),
        ("A100 40 GB", 1, "A100-40"),
        ("rtx a6000", 1, "A6000"),
        ("RTX 6000 Ada", 1, "RTX6000-Ada"),
        ("8xMI300X", 8, "MI300X"),
        ("M1 8GB", 1, "M1-8GB"),
        ("MacBook Pro M4 Max 64GB", 1, "M4-Max-64GB"),
        ("m3-ultra-512", 1, "M3-Ultra-512GB"),
        ("cpu", 1, "cpu"),
    ],
)
def test_texts_that_name_devices(text: str, count: int, name: str) -> None:
    found, device = named_devices(text)
    assert (found, device.name) == (count, name)
    assert device.memory > 0


@pytest.mark.parametrize(
    ("text", "count", "memory", "like"),
    [
        ("24GB", 1, 24, "L4"),
        ("2 x 48 gb", 2, 48, "A6000"),
        ("13G", 1, 13, "RTX4060-Ti-16"),
        ("500GiB", 1, 500, "MI300X"),
    ],
)
def test_a_memory_alone_is_a_device(text: str, count: int, memory: float, like: str) -> None:
    found, device = named_devices(text)
    assert (found, device.name) == (count, f"{memory}GB (as fast as {like})")
    assert device.memory == memory * GB
    assert device == replace(named_devices(like)[1], name=device.name, memory=device.memory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0GB", "a device has some memory; write 24GB for example"),
        ("8xH10O", "did you mean H100"),
        ("8xTPU", "the device 'TPU' is unknown"),
        ("RTX 4900", "did you mean RTX4090"),
        ("MI300", "did you mean MI300X"),
        ("M4 Mxa 64GB", "did you mean M4-Max"),
        ("M3 Max", "say its memory as well"),
        ("M4 Ultra 64GB", "say its memory as well"),
        ("0xH100", "between 1 and"),
        ("8 H100", "is no number of devices"),
        ("", "is no number of devices"),
        ("-1xH100", "is no number of devices"),
    ],
)
def test_texts_that_name_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        named_devices(text)


def test_a_device_of_ones_own(llama) -> None:
    found = estimate(llama("8b"), devices="2xmine", memory_gb=24, tflops=100)
    assert (found.devices, found.device, found.device_memory_bytes) == (2, "mine", 24e9)
    half = estimate(llama("8b"), devices="2xmine", memory_gb=24, tflops=50)
    assert by_name(half)["recover: lora"].seconds > 1.5 * by_name(found)["recover: lora"].seconds
    with pytest.raises(InputError, match="unknown"):
        estimate(llama("8b"), devices="2xmine", memory_gb=24)


def test_a_search_takes_what_its_cuts_take_and_measures_them(llama) -> None:
    found = by_name(estimate(llama("8b"), devices="1xH100"))
    cut, scores, search = found["prune: cut and re-fit"], found["prune: scores"], found["search"]
    # A first cut and seven more to half of the text, and one to all of it.
    assert search.seconds > scores.seconds / 2 + (8 / 2 + 1) * cut.seconds
    assert search.seconds < scores.seconds + 3 * 9 * cut.seconds
    assert search.memory_bytes > cut.memory_bytes
    shared = by_name(estimate(llama("8b"), devices="8xH100"))["search"]
    assert shared.options == "torchrun"
    assert shared.seconds < search.seconds


def test_streams_of_parallel_blocks_keep_what_a_layer_was_given(tiny_model) -> None:
    parallel, serial = (
        shape_of(tiny_model("gpt_neox", use_parallel_residual=value).config.to_dict()) for value in (True, False)
    )
    assert (parallel.stream_width, serial.stream_width) == (128, 64)
