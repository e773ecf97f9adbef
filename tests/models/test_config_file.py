"""A wrong `config.json` or `generation_config.json` is one line that names the field, before anything is made of it."""

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import change_config
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.errors import ModelError, SecateurError
from secateur.evaluation import generate_samples
from secateur.models import load, save
from secateur.planning import model_shape

CONFIG, GENERATION = "config.json", "generation_config.json"
TinyModel = Callable[..., PreTrainedModel]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture
def saved(tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    return save(tiny_model(), tiny_tokenizer, tmp_path / "saved")


def refusal(function: Callable[..., object], directory: Path) -> str:
    with pytest.raises(ModelError) as caught:
        function(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


WRONG: list[tuple[str, Any]] = [
    ("hidden_size", 7),
    ("hidden_size", "64"),
    ("num_attention_heads", 0),
    ("num_attention_heads", 7),
    ("num_key_value_heads", 3),
    ("num_hidden_layers", 2**31),
    ("head_dim", 15),
    ("vocab_size", 10**12),
    ("vocab_size", True),
    ("rms_norm_eps", math.nan),
    ("rms_norm_eps", -1e-6),
    ("rms_norm_eps", 0),
    ("initializer_range", "x"),
    ("hidden_act", "sillu"),
    ("hidden_act", None),
    ("max_position_embeddings", -1),
    ("rope_theta", 0),
    ("rope_theta", math.nan),
    ("rope_theta", 500_000.0),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 0}),
    ("rope_parameters", {"rope_type": "default", "rope_theta": math.inf}),
    ("rope_parameters", {"full_attention": {"rope_type": "default"}}),
    ("rope_scaling", 5),
    ("rope_scaling", {"rope_type": "spiral", "factor": 2.0}),
    ("rope_scaling", {"type": "linear"}),
    ("rope_scaling", {"type": "linear", "factor": "8"}),
    ("rope_scaling", {**LLAMA3, "high_freq_factor": 0.5}),
    ("rope_scaling", {**LLAMA3, "low_freq_factor": None}),
    ("rope_scaling", {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}),
    ("tie_word_embeddings", "yes"),
    ("attention_bias", 1),
    ("attention_dropout", 2.0),
    ("eos_token_id", True),
    ("eos_token_id", [1, None]),
    ("bos_token_id", -5),
    ("pad_token_id", 259),
    ("dtype", "float17"),
    ("dtype", 16),
    ("layer_types", ["full_attention"]),
    ("is_encoder_decoder", True),
    ("num_labels", 10**9),
    ("id2label", {"x": 1}),
    ("auto_map", 3),
    ("to_dict", 3),
    ("validate", True),
    ("torch_dtype", "auto"),
    ("dtype", "torch.float32"),
    ("attribute_map", {"hidden_size": "vocab_size"}),
    ("transformers_weights", "other.safetensors"),
    ("_heterogeneity_spec", {"per_layer_overrides": {}}),
    ("configuration_files", ["config.9.0.0.json"]),
    ("per_layer_config", {"0": {"intermediate_size": 8}}),
    ("text_config", {}),
    ("decoder", {"vocab_size": 3}),
    ("square_attention", ["self_attn", "q_proj", "o_proj"]),
    ("model_type", "a\nb"),
    ("model_type", None),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_value_is_named(saved: Path, field: str, value: Any) -> None:
    change_config(saved, **{field: value})
    message = refusal(load, saved)
    assert field in message or (field == "model_type" and "architecture" in message)


@pytest.mark.parametrize(
    ("field", "value"), [pair for pair in WRONG if pair[0] not in ("hidden_act", "initializer_range")]
)
def test_a_plan_reads_the_config_by_the_same_rules(saved: Path, field: str, value: Any) -> None:
    change_config(saved, **{field: value})
    assert refusal(model_shape, saved) == refusal(load, saved)


def test_the_older_layout_lists_all_widths(saved: Path) -> None:
    change_config(saved, model_type="secateur_llama", num_attention_heads_per_layer=[8] * 4)
    missing = "it has num_attention_heads_per_layer without intermediate_size_per_layer, num_key_value_heads_per_layer"
    assert missing in refusal(load, saved)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"4": {"intermediate_size": 8}}, "speaks of layer 4, and num_hidden_layers is 4"),
        ({"-1": {"intermediate_size": 8}}, "-1 is no number of a layer"),
        ({"1": {"hidden_size": 8}}, "layer 1 has hidden_size, and layers may differ in num_attention_heads"),
        ({"1": {"skip": ["mlp"]}}, "layer 1 skips its mlp, and skipped_modules does not name its modules"),
        ({"1": {"skip": ["norm"]}}, "per_layer_config.1.skip.0 is norm"),
        ({"1": {"skip": "mlp"}}, "per_layer_config.1.skip is mlp"),
        ({"1": {"num_key_value_heads": 3}}, "layer 1 has 8 query heads for 3 key/value heads"),
        ({"1": {"num_attention_heads": 0}}, "per_layer_config.1.num_attention_heads is 0"),
        ({"1": {"intermediate_size": "8"}}, "per_layer_config.1.intermediate_size is 8"),
        ({"1": [8]}, "per_layer_config.1 is"),
        ([{"intermediate_size": 8}], "per_layer_config is"),
        ({"1": {"intermediate_size": 8}, "01": {}}, "per_layer_config speaks of a layer twice"),
    ],
    ids=str,
)
def test_a_wrong_per_layer_config_is_one_line(saved: Path, layers: Any, message: str) -> None:
    change_config(saved, model_type="secateur_llama", per_layer_config=layers)
    said = refusal(load, saved)
    assert message in said and "\n" not in said
    assert message in refusal(model_shape, saved)


def test_widths_that_do_not_fit_the_weights(saved: Path) -> None:
    change_config(saved, model_type="secateur_llama", per_layer_config={"1": {"intermediate_size": 8}})
    assert "model.layers.1.mlp" in refusal(load, saved)


def test_both_layouts_at_once(saved: Path) -> None:
    widths = {f"{name}_per_layer": [width] * 4 for name, width in EVEN.items()}
    change_config(saved, model_type="secateur_llama", **widths, per_layer_config={"1": {"intermediate_size": 8}})
    assert "say the same thing twice" in refusal(load, saved)


EVEN = {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 96}


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": ' * 50_000, '{"a": ' + "9" * 5000 + "}", '{"a": "\\ud800"}'])
def test_what_is_no_json(saved: Path, text: str) -> None:
    (saved / CONFIG).write_text(text)
    assert CONFIG in refusal(load, saved)
    assert CONFIG in refusal(model_shape, saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "linear", "factor": 2}},
        {"rope_scaling": LLAMA3},
        {"rope_scaling": None, "rope_parameters": None, "rope_theta": 10_000},
        {"rope_scaling": {**LLAMA3, "rope_theta": None}},
        {"rope_theta": None},
        {"pad_token_id": -1},
        {"bos_token_id": -1, "eos_token_id": -1},
        {"eos_token_id": []},
        {"sliding_window": 0},
        {"sliding_window": -1},
        {"update": True},
        {"eos_token_id": [1, 2]},
        {"dtype": None, "torch_dtype": "bfloat16"},
        {"architectures": None, "num_key_value_heads": 4, "attention_dropout": 0, "unsloth_version": "2024.9"},
        {"attn_implementation": "flash_attention_2", "_attn_implementation_internal": "somebody/kernel"},
        {"output_attentions": True, "return_dict": False},
        {"per_layer_config": {}, "quantization_config": None},
    ],
    ids=str,
)
def test_what_is_found_in_the_wild_loads(saved: Path, changes: dict[str, Any]) -> None:
    change_config(saved, **changes)
    model, tokenizer = load(saved, dtype="float32")
    logits = model(tokenizer("abc", return_tensors="pt").input_ids).logits
    assert logits.isfinite().all()


def test_a_null_base_that_stands_nowhere_else(saved: Path) -> None:
    change_config(saved, rope_theta=None, rope_parameters=None)
    assert "rope_theta is None: the rotary base is a number" in refusal(load, saved)


def test_a_window_of_nothing_in_a_family_that_reads_it(saved: Path) -> None:
    change_config(saved, model_type="mistral", sliding_window=0)
    assert "sliding_window" in refusal(load, saved)


def test_what_was_written_for_none_is_saved_as_none(saved: Path, tmp_path: Path) -> None:
    change_config(saved, eos_token_id=-1, sliding_window=0)
    (saved / GENERATION).unlink(missing_ok=True)
    save(*load(saved), tmp_path / "again")
    again = json.loads((tmp_path / "again" / CONFIG).read_text())
    assert again.get("eos_token_id") is None and not again.get("sliding_window")


def test_generation_that_never_ends_is_said(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    change_config(saved, eos_token_id=[1, 128_009])
    load(saved)
    assert "eos_token_id 128009 is outside of the vocabulary" in caplog.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_beams", 0),
        ("num_beams", 10**12),
        ("num_beams", "x"),
        ("bos_token_id", math.inf),
        ("eos_token_id", "x"),
        ("bad_words_ids", [1]),
        ("temperature", -1.0),
        ("suppress_tokens", "abc"),
        ("cache_implementation", "nonsense"),
        ("output_hidden_states", "x"),
    ],
)
def test_a_wrong_generation_config_is_named(saved: Path, field: str, value: Any) -> None:
    (saved / GENERATION).write_text(json.dumps({field: value}))
    message = refusal(load, saved)
    assert GENERATION in message and field in message


def test_no_token_that_ends_a_text(saved: Path, tmp_path: Path) -> None:
    (saved / GENERATION).write_text(json.dumps({"eos_token_id": []}))
    model, tokenizer = load(saved, dtype="float32")
    generated = model.generate(**tokenizer("abc", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert generated.shape[1] == len(tokenizer("abc").input_ids) + 3
    save(model, tokenizer, tmp_path / "again")
    load(tmp_path / "again")


@pytest.mark.parametrize("text", ["{", "[]", '{"num_beams": ' + "9" * 5000 + "}"])
def test_a_generation_config_that_is_no_json_is_not_passed_over(saved: Path, text: str) -> None:
    (saved / GENERATION).write_text(text)
    assert GENERATION in refusal(load, saved)


@pytest.mark.parametrize("settings", [{"penalty_alpha": 0.6, "top_k": 4}, {"stop_strings": ["x"]}, {"num_beams": 3}])
def test_samples_are_greedy_whatever_a_model_asks_for(saved: Path, settings: dict[str, Any]) -> None:
    model, tokenizer = load(saved, dtype="float32")
    (saved / GENERATION).write_text(json.dumps(settings))
    asked, _ = load(saved, dtype="float32")
    expected = generate_samples(model, tokenizer, ["Hello"], 8)
    assert generate_samples(asked, tokenizer, ["Hello"], 8) == expected
    assert all(getattr(asked.generation_config, name) == value for name, value in settings.items())


VALUES = (None, True, 0, -1, 7, 2**31, 10**30, -1.0, 1e300, math.nan, math.inf, "", "x", "a\nb", [], [1], ["x"], {})


@pytest.mark.parametrize("seed", range(4))
def test_no_change_ends_in_another_error(saved: Path, tiny_tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    generator = random.Random(seed)
    original = json.loads((saved / CONFIG).read_text())
    for _ in range(40):
        content = copy.deepcopy(original)
        place = content["rope_parameters"] if generator.random() < 0.2 else content
        place[generator.choice(sorted(place))] = generator.choice(VALUES)
        (saved / CONFIG).write_text(json.dumps(content))
        try:
            model, _ = load(saved, dtype="float32")
            model(tiny_tokenizer("abc", return_tensors="pt").input_ids)
        except SecateurError as error:
            assert "\n" not in str(error)
