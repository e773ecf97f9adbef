"""`export --format nemotron-nas`: what vLLM, SGLang and mlx-lm make of it by their formulas, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting_helpers import command, done, failed
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

import secateur
from secateur.errors import InputError, ModelError, OutputError
from secateur.exporting import opening_of
from secateur.exporting.engines import WITHOUT_ATTENTION
from secateur.exporting.nemotron_nas import ffn_mult, require_held_widths
from secateur.models import adapter_of, declare_widths
from secateur.models.adapters import adapter_for
from secateur.models.widths import keep_columns, keep_rows
from secateur.runs.recipe import parse_recipe
from secateur.runs.stages import run_recipe

WIDTHS = (256, 768, 512, 768)
PROMPT = torch.tensor([[3, 70, 80, 90, 100]])
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def next_multiple(number: int) -> int:
    return -(-number // 256) * 256


def width_in_vllm(mult: float, hidden_size: int) -> int:
    """As vLLM 0.32, SGLang and llama.cpp's converter compute it."""
    return next_multiple(int(2 * mult * hidden_size / 3))


def width_in_mlx_lm(mult: float, hidden_size: int) -> int:
    """As mlx-lm 0.32 computes it."""
    return next_multiple(int(2 * round(mult, 6) * hidden_size / 3))


@pytest.mark.parametrize("hidden_size", [64, 576, 896, 2048, 3072, 3584, 4096, 5120, 8192, 12288, 16384, 65536])
def test_every_width_comes_out_in_every_engine(hidden_size: int) -> None:
    for width in range(256, 2**17, 256):
        mult = json.loads(json.dumps(ffn_mult(width, hidden_size)))
        assert width_in_vllm(mult, hidden_size) == width_in_mlx_lm(mult, hidden_size) == width


def narrowed(model: PreTrainedModel, widths: Sequence[int] = WIDTHS) -> PreTrainedModel:
    """Leave each layer so many MLP channels."""
    adapter = adapter_of(model)
    for layer, width in zip(adapter.layers(model), widths, strict=True):
        gate, up, down = adapter.half(layer, "mlp").linears
        keep_rows(gate, range(width))
        keep_rows(up, range(width))
        keep_columns(down, range(width))
    declare_widths(model)
    return model


def made(tiny_model, family: str = "llama", widths: Sequence[int] = WIDTHS, **overrides: object) -> PreTrainedModel:
    model = tiny_model(family, **{"intermediate_size": 768, "head_dim": 8, **overrides})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("proj.bias"):
                weight.add_(0.3 * torch.randn_like(weight))
    return narrowed(model, widths)


def test_layers_without_halves_say_no_op(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    model = made(tiny_model)
    secateur.prune(model, tiny_tokenizer, drop="attention=1,mlp=2", compensate=False, importance="magnitude")
    assert opening_of(model.config).line == f"{WITHOUT_ATTENTION}; by export: llama.cpp, SGLang"
    secateur.export(model, tiny_tokenizer, tmp_path / "nas", format="nemotron-nas")
    config = json.loads((tmp_path / "nas" / "config.json").read_text())
    blocks = config["block_configs"]
    assert [block["attention"]["no_op"] for block in blocks] == [False, True, False, False]
    assert [block["ffn"]["no_op"] for block in blocks] == [False, False, True, False]
    # mlx-lm makes objects of them, which take no other keys.
    assert all(block["attention"].keys() == {"n_heads_in_group", "no_op", "replace_with_linear"} for block in blocks)
    assert all(block["ffn"].keys() == {"ffn_mult", "no_op", "replace_with_linear"} for block in blocks)
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (8, 4)
    weights = load_file(tmp_path / "nas" / "model.safetensors")
    assert not [name for name in weights if "layers.1.self_attn" in name or "layers.2.mlp" in name]


def test_a_first_layer_without_attention_is_refused(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    model = made(tiny_model)
    secateur.prune(model, tiny_tokenizer, drop="attention=0", compensate=False, importance="magnitude")
    with pytest.raises(ModelError, match="the first layer goes without attention, at which vLLM's nemotron-nas ends"):
        secateur.export(model, tiny_tokenizer, tmp_path / "nas", format="nemotron-nas")


def as_engines_build_it(directory: Path) -> PreTrainedModel:
    """Llama's layers with the widths that the engines read, and the directory's weights, all of them."""
    config = json.loads((directory / "config.json").read_text())
    hidden_size, bias = config["hidden_size"], config["attention_bias"]
    names = ("num_hidden_layers", "num_attention_heads", "vocab_size", "rms_norm_eps", "rope_theta", "rope_scaling")
    settings = {name: config[name] for name in (*names, "tie_word_embeddings") if name in config}
    heads = config["num_attention_heads"] // config["block_configs"][0]["attention"]["n_heads_in_group"]
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=hidden_size, attention_bias=bias, num_key_value_heads=heads, **settings)
    )
    for layer, block in zip(model.model.layers, config["block_configs"], strict=True):
        width = width_in_vllm(block["ffn"]["ffn_mult"], hidden_size)
        layer.mlp.gate_proj, layer.mlp.up_proj = (nn.Linear(hidden_size, width, bias=False) for _ in range(2))
        layer.mlp.down_proj = nn.Linear(width, hidden_size, bias=False)
    weights = load_file(directory / "model.safetensors")
    if config["tie_word_embeddings"]:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, strict=True)
    return model.eval()


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False}),
        ("llama", {"attention_bias": True}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 3e4, "factor": 4.0}}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 256, "max_position_embeddings": 256}),
        ("qwen2", {}),
    ],
    ids=str,
)
def test_what_the_engines_build_is_the_model(
    tiny_model, tiny_tokenizer, tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    model = made(tiny_model, family, **options)
    result = secateur.export(model, tiny_tokenizer, tmp_path / "out", format="nemotron-nas")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    own = {name: weight for name, weight in model.state_dict().items() if name in weights}
    assert all(torch.equal(weights[name], weight) for name, weight in own.items())
    assert all(name.endswith("o_proj.bias") and not weights[name].any() for name in weights.keys() - own.keys())
    assert ("lm_head.weight" in weights) == (not model.config.tie_word_embeddings)
    with torch.no_grad():
        torch.testing.assert_close(as_engines_build_it(tmp_path / "out")(PROMPT).logits, model(PROMPT).logits)
    assert (result.architecture, result.dtype, result.per_layer) == ("DeciLMForCausalLM", "f32", True)
    assert result.parameters_in_file == sum(weight.numel() for weight in weights.values())


def test_the_config_as_engines_read_it(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    model = made(tiny_model, rope_parameters=LLAMA3, rms_norm_eps=3e-6)
    secateur.export(model, tiny_tokenizer, tmp_path / "out", format="nemotron-nas")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        ".secateur.json",
        "config.json",
        "configuration_nemotron_nas.py",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert content["model_type"] == "nemotron-nas" and content["architectures"] == ["DeciLMForCausalLM"]
    assert content["rope_theta"] == 50000.0
    assert content["rope_scaling"] == {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
    for block in content["block_configs"]:  # mlx-lm takes no keys but these
        assert block["attention"] == {"n_heads_in_group": 2, "no_op": False, "replace_with_linear": False}
        assert block["ffn"].keys() == {"ffn_mult", "no_op", "replace_with_linear"}
    config: Any = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert [block.ffn.ffn_mult for block in config.block_configs] == [1.5 * width / 64 for width in WIDTHS]
    assert not config.block_configs[0].attention.no_op
    assert not hasattr(config.block_configs[0].ffn, "hidden_act")
    assert (config.head_dim, config.num_attention_heads, config.num_key_value_heads) == (8, 8, 4)
    assert (config.rope_parameters["rope_theta"], config.rope_theta) == (50000.0, 50000.0)
    assert (config.eos_token_id, config.pad_token_id, config.rms_norm_eps) == (257, 258, 3e-6)
    config.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["block_configs"] == content["block_configs"]


def test_weights_keep_their_format_unless_another_is_asked_for(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    secateur.save(made(tiny_model).bfloat16(), tiny_tokenizer, tmp_path / "model")
    for options, dtype in (((), torch.bfloat16), (("--dtype", "f16"), torch.float16)):
        out = tmp_path / str(dtype)
        done(command("export", tmp_path / "model", "-o", out, "--format", "nemotron-nas", *options))
        assert {weight.dtype for weight in load_file(out / "model.safetensors").values()} == {dtype}
        assert json.loads((out / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    model = made(tiny_model)
    with torch.no_grad():
        model.model.norm.weight[0] = 1e5
    with pytest.raises(ModelError, match=r"model\.norm\.weight holds weights beyond float16's 65504"):
        secateur.export(model, tiny_tokenizer, tmp_path / "large", format="nemotron-nas", dtype="f16")
    assert not (tmp_path / "large").exists()


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("qwen3", {}, "the model has norms of queries and keys"),
        ("llama", {"mlp_bias": True}, "the model has biases in its MLPs"),
        ("llama", {"hidden_act": "gelu"}, "the model has the activation gelu"),
        ("mistral", {"sliding_window": 128}, "the model has a sliding window of 128 tokens"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
            r"rotary positions of the type 'yarn' \(known are default, linear, llama3\)",
        ),
        ("llama", {"widths": (256, 768, 712, 768)}, "layer 2 has 712 MLP channels.*cut with channel_multiple=256"),
        (
            "llama",
            {"head_dim": 16},
            "8 heads of 16 do not make up the hidden size 64.*not held, whatever its MLPs lose$",
        ),
    ],
    ids=str,
)
def test_what_an_engine_lacks_is_refused(
    tiny_model, tiny_tokenizer, tmp_path: Path, family: str, options: dict[str, Any], message: str
) -> None:
    model = made(tiny_model, family, **options)
    with pytest.raises(ModelError, match=message) as caught:
        secateur.export(model, tiny_tokenizer, tmp_path / "out", format="nemotron-nas")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_cut_heads_are_refused(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    model = made(tiny_model)
    query, key, value, output = adapter_of(model).half(adapter_of(model).layers(model)[1], "attention").linears
    for linear, rows in ((query, 48), (key, 24), (value, 24)):
        keep_rows(linear, range(rows))
    keep_columns(output, range(48))
    declare_widths(model)
    secateur.save(model, tiny_tokenizer, tmp_path / "model")
    message = failed(command("export", tmp_path / "model", "-o", tmp_path / "out", "--format", "nemotron-nas"))
    assert "layer 1 has 6 query heads for 3 key/value heads and another has 8 query heads for 4" in message
    assert "nemotron-nas holds cuts of the MLP only" in message
    assert not (tmp_path / "out").exists()


def test_layers_that_differ_in_key_value_heads_alone_are_told_apart(tiny_model) -> None:
    config = made(tiny_model).config
    settings = config.to_dict() | {"per_layer_config": {2: {"num_key_value_heads": 2}}}
    for name in ("model_type", "architectures"):
        settings.pop(name)
    uneven = adapter_for("llama").uneven_config(**settings)
    with pytest.raises(ModelError, match=r"layer 2 has 8 query heads for 2 key/value heads and another has .* for 4"):
        require_held_widths(uneven)


def test_adapters_are_merged_first(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    adapted = get_peft_model(made(tiny_model), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    with pytest.raises(InputError, match="merge it first"):
        secateur.export(adapted, tiny_tokenizer, tmp_path / "out", format="nemotron-nas")  # type: ignore[arg-type]


def test_the_command(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    model, out, figures = tmp_path / "model", tmp_path / "out", tmp_path / "figures.json"
    secateur.save(made(tiny_model), tiny_tokenizer, model)
    as_nas = ("--format", "nemotron-nas")
    printed = done(command("export", model, "-o", out, *as_nas, "--json", figures))
    assert "DeciLMForCausalLM (nemotron-nas), widths layer by layer\n" in printed
    assert "\nOpens in vLLM, SGLang and mlx-lm, each with trust_remote_code\n" in printed
    assert json.loads(figures.read_text())["format"] == "nemotron-nas"
    assert "already holds something" in failed(command("export", model, "-o", out, *as_nas))
    done(command("export", model, "-o", out, *as_nas, "--overwrite"))
    assert "which is still needed" in failed(command("export", model, "-o", model, *as_nas, "--overwrite"))
    named = failed(command("export", model, "-o", tmp_path / "x.gguf", *as_nas), status=2)
    assert "x.gguf is the name of a GGUF file, and --format nemotron-nas writes a directory" in named
    assert "q8_0 is for GGUF files" in failed(command("export", model, "-o", out, *as_nas, "--dtype", "q8_0"), 2)
    assert "'nemotron-nas' is not supported" in failed(command("diagnose", out))


def test_what_stands_there_is_kept(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError):
        secateur.export(made(tiny_model), tiny_tokenizer, tmp_path / "out", format="nemotron-nas", overwrite=True)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_recipe_cuts_what_its_export_holds() -> None:
    message = r"holds cuts of the MLP to multiples of 256; write target: mlp and channel_multiple: 256 below"
    for section in ("", "target: mlp", "channel_multiple: 256", "target: mlp, channel_multiple: 128"):
        for name in ("prune", "search"):
            with pytest.raises(InputError, match=f"{message} {name}"):
                parse_recipe(f"model: m\n{name}: {{{section}}}\nexport: {{format: nemotron-nas}}\n")
    for section in ("prune: {target: mlp, channel_multiple: 512}", "prune: {plan: p.json}", ""):
        parse_recipe(f"model: m\n{section}\nexport: {{format: nemotron-nas}}\n")


@pytest.mark.slow
def test_a_run_exports_a_directory(tiny_model, tiny_tokenizer, tmp_path: Path, private_cache: Path) -> None:
    secateur.save(tiny_model(intermediate_size=1024, head_dim=8), tiny_tokenizer, tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(
        f"""
model: {tmp_path / "model"}
device: cpu
dtype: float32
prune: {{ratio: 0.2, samples: 4, seqlen: 32, target: mlp, channel_multiple: 256}}
evaluate: {{windows: 2, seqlen: 32, speed: false}}
samples: {{prompts: ["Once"], max_new_tokens: 1}}
export: {{format: nemotron-nas}}
"""
    )
    printed = done(command("run", tmp_path / "recipe.yaml", "-o", tmp_path / "run"))
    assert "\nOpens in Transformers, vLLM, mlx-lm (remote code); by export: llama.cpp, SGLang\n" in printed
    built = as_engines_build_it(tmp_path / "run" / "export" / "model")
    cut, _ = secateur.load(tmp_path / "run" / "prune", dtype="float32", device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(built(PROMPT).logits, cut(PROMPT).logits)
    commands = json.loads((tmp_path / "run" / "metrics.json").read_text())["commands"]
    line = "secateur export pruned -o model --format nemotron-nas"
    assert {"purpose": "The export", "command": line} in commands
    done(command("run", tmp_path / "recipe.yaml", "-o", tmp_path / "run"))


def test_a_run_whose_model_the_format_lacks_does_not_begin(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    secateur.save(tiny_model("qwen3"), tiny_tokenizer, tmp_path / "model")
    recipe: Any = parse_recipe(f"model: {tmp_path / 'model'}\nexport: {{format: nemotron-nas}}\n")
    with pytest.raises(ModelError, match="norms of queries and keys"):
        run_recipe(recipe, "text", tmp_path / "run", command_line="secateur run r.yaml")
    assert not (tmp_path / "run").exists()


EVERYWHERE = "Opens in Transformers, vLLM, SGLang, mlx-lm and llama.cpp's converter"
UNEVEN = "Opens in Transformers, vLLM, mlx-lm (remote code)"
OWN_HEAD_SIZE = "Opens in Transformers and, by an option, vLLM and mlx-lm"


@pytest.mark.parametrize(
    ("family", "options", "widths", "expected"),
    [
        ("llama", {}, [768] * 4, EVERYWHERE),
        ("qwen3", {"head_dim": 16}, [768] * 4, EVERYWHERE),
        ("qwen2", {}, [768] * 4, EVERYWHERE),
        (
            "qwen2",
            {"head_dim": 16},
            [768] * 4,
            f"{OWN_HEAD_SIZE}; by export: llama.cpp",
        ),
        ("llama", {}, WIDTHS, f"{UNEVEN}; by export: llama.cpp, SGLang"),
        ("llama", {"head_dim": 16}, WIDTHS, f"{UNEVEN}; by export: llama.cpp"),
        ("qwen3", {}, WIDTHS, f"{UNEVEN}; by export: llama.cpp"),
        ("llama", {"hidden_act": "gelu"}, WIDTHS, UNEVEN),
    ],
    ids=str,
)
def test_where_a_model_opens(
    tiny_model, family: str, options: dict[str, Any], widths: Sequence[int], expected: str
) -> None:
    line = opening_of(made(tiny_model, family, widths, **options).config).line
    assert line == expected
    assert len(line) <= 80


@pytest.mark.slow
def test_a_cut_says_where_it_opens(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    secateur.save(tiny_model(), tiny_tokenizer, tmp_path / "model")
    (tmp_path / "text.txt").write_text("some words of a text " * 50)
    quick = ["--samples", 4, "--seqlen", 32, "--own-text", 0, "--importance", "magnitude", "--device", "cpu"]
    quick += ["--calibration", tmp_path / "text.txt"]
    for options, expected in ((["--even"], EVERYWHERE), (["--keep-halves"], f"{UNEVEN}; by export: llama.cpp")):
        out = tmp_path / options[0]
        printed = done(command("prune", tmp_path / "model", "-o", out, *quick, *options))
        assert printed.splitlines()[-2:] == [expected, str(out)]
