"""Adapters that PEFT has written: put beside their model, merged, or refused by name with the model as it was."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import peft
import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import secateur
from secateur.errors import ModelError, SecateurError
from secateur.evaluation import EvaluateConfig, compare_models
from secateur.models import attach_adapter
from secateur.recovery import merge_adapter

TinyModel = Callable[..., PreTrainedModel]

IDS = torch.arange(20)[None]
SOME = ["q_proj", "v_proj", "down_proj"]
MANY = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def trained(model: PreTrainedModel, settings: PeftConfig, directory: Path) -> torch.Tensor:
    """Write an adapter whose weights are random, as PEFT writes one; returns the adapted model's logits."""
    torch.manual_seed(3)
    adapted = get_peft_model(model, copy.deepcopy(settings)).eval()
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    adapted.save_pretrained(str(directory))
    return logits(adapted)


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def assert_untouched(model: PreTrainedModel, original: PreTrainedModel) -> None:
    assert str(model) == str(original)
    state = model.state_dict()
    assert state.keys() == original.state_dict().keys()
    assert all(torch.equal(weight, state[name]) for name, weight in original.state_dict().items())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not hasattr(model, "peft_config")


FORMS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "lora_bias": {"target_modules": ["q_proj", "v_proj"], "lora_bias": True},
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "patterns": {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 1}},
    "some layers": {"layers_to_transform": [1, 3]},
    "all-linear": {"target_modules": "all-linear"},
    "pattern": {"target_modules": r".*\.[12]\.mlp\.(up|down)_proj"},
    "excluded": {"exclude_modules": ["down_proj"]},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "norm": {"modules_to_save": ["norm"]},
    "tokens": {"trainable_token_indices": [1, 5, 7]},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_lora_is_attached_and_merged(form: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, **{"target_modules": SOME, **FORMS[form]})
    expected = trained(tiny_model("qwen2"), settings, tmp_path / "adapter")
    assert not torch.allclose(expected, logits(tiny_model("qwen2")), atol=0.1)
    assert torch.equal(logits(attach_adapter(tiny_model("qwen2"), tmp_path / "adapter")), expected)
    model = merge_adapter(tiny_model("qwen2"), tmp_path / "adapter")
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    assert model.state_dict().keys() == tiny_model("qwen2").state_dict().keys()
    assert model.config.tie_word_embeddings
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


HEADS: dict[str, tuple[dict[str, Any], bool]] = {  # and whether a tied model's embeddings stay tied
    "head": ({"target_modules": [*SOME, "lm_head"]}, False),
    "head by dora": ({"target_modules": [*SOME, "lm_head"], "use_dora": True}, False),
    "embeddings": ({"target_modules": [*SOME, "embed_tokens"]}, False),
    "both": ({"target_modules": [*SOME, "embed_tokens", "lm_head"]}, False),
    "both together": ({"target_modules": [*SOME, "embed_tokens", "lm_head"], "ensure_weight_tying": True}, True),
    "whole head": ({"modules_to_save": ["lm_head"]}, False),
    "whole embeddings": ({"modules_to_save": ["embed_tokens"]}, False),
    "whole both": ({"modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "whole both together": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "tokens": ({"trainable_token_indices": {"embed_tokens": [1, 5]}}, True),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("form", HEADS)
def test_embeddings_and_head_come_back_as_they_were_trained(
    form: str, tied: bool, tiny_model: TinyModel, tiny_tokenizer, tmp_path: Path
) -> None:
    """PEFT's own merge of a tied model adds what is for one of the two to the weight that both share."""
    options, stay_tied = HEADS[form]
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, **{"target_modules": SOME, **options})
    expected = trained(tiny_model(tie_word_embeddings=tied), settings, tmp_path / "adapter")
    model = secateur.merge(tiny_model(tie_word_embeddings=tied), tmp_path / "adapter")
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    secateur.save(model, tiny_tokenizer, tmp_path / "merged")
    loaded, _ = secateur.load(tmp_path / "merged", dtype="float32", device="cpu")
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)
    one, other = loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight
    assert loaded.config.tie_word_embeddings == (one is other) == (tied and stay_tied)


def test_a_whole_module_is_merged_in_the_model_s_number_format(tiny_model: TinyModel, tmp_path: Path) -> None:
    settings = LoraConfig(task_type="CAUSAL_LM", target_modules=SOME, modules_to_save=["lm_head"])
    trained(tiny_model().bfloat16(), settings, tmp_path)
    model = merge_adapter(tiny_model().bfloat16(), tmp_path)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


OTHERS: dict[str, dict[str, Any]] = {
    "AdaLoraConfig": {"total_step": 10},
    "AdamssConfig": {},
    "C3AConfig": {"block_size": 16},
    "DeloraConfig": {},
    "FourierFTConfig": {"n_frequency": 50},
    "GraloraConfig": {},
    "HRAConfig": {},
    "HiraConfig": {},
    "IA3Config": {"feedforward_modules": ["down_proj"]},
    "LNTuningConfig": {"target_modules": ["input_layernorm", "norm"]},
    "LoHaConfig": {},
    "LoKrConfig": {},
    "MissConfig": {},
    "OFTConfig": {"oft_block_size": 16},
    "OSFConfig": {},
    "RandLoraConfig": {},
    "RoadConfig": {"group_size": 16, "target_modules": ["q_proj", "o_proj"]},
    "ShiraConfig": {},
    "TrainableTokensConfig": {"target_modules": ["embed_tokens"], "token_indices": [1, 5]},
    "VBLoRAConfig": {"vector_length": 16, "num_vectors": 30},
    "VeraConfig": {},
    "WaveFTConfig": {"n_frequency": 50},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_that_peft_merges(name: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    kind = getattr(peft, name, None)
    if kind is None:
        pytest.skip(f"PEFT {peft.__version__} has no {name}")
    settings = kind(task_type="CAUSAL_LM", **{"target_modules": MANY, **OTHERS[name]})
    expected = trained(tiny_model(), settings, tmp_path)
    assert not torch.allclose(expected, logits(tiny_model()), atol=1e-3)
    torch.testing.assert_close(logits(merge_adapter(tiny_model(), tmp_path)), expected, rtol=1e-3, atol=1e-3)


def test_adalora_with_ranks_that_were_cut(tiny_model: TinyModel, tmp_path: Path) -> None:
    settings = peft.AdaLoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], total_step=10, init_r=4)
    adapted = get_peft_model(tiny_model(), settings).eval()
    keep = [True, False, True, False]
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.3)
            if "lora_E" in name:
                weight[[1, 3]] = 0
    ranks = [name for name, _ in adapted.base_model.model.named_parameters() if "lora_E" in name]
    adapted.peft_config["default"].rank_pattern = {name.removesuffix(".default"): keep for name in ranks}
    adapted.save_pretrained(str(tmp_path))
    expected = logits(PeftModel.from_pretrained(tiny_model(), str(tmp_path)).eval())
    assert not torch.allclose(expected, logits(tiny_model()), atol=1e-3)
    torch.testing.assert_close(logits(merge_adapter(tiny_model(), tmp_path)), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture
def adapter(tiny_model: TinyModel, tmp_path: Path) -> Path:
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=SOME, use_dora=True)
    trained(tiny_model(), settings, tmp_path / "adapter")
    return tmp_path / "adapter"


def change_config(adapter: Path, **settings: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def change_weights(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    change(weights)
    save_file(weights, adapter / "adapter_model.safetensors")


def refused(model: PreTrainedModel, adapter: Path, merging: bool = False) -> str:
    """The one line with which an adapter is refused; the model is as it was."""
    before = copy.deepcopy(model)
    with pytest.raises(SecateurError) as caught:
        merge_adapter(model, adapter) if merging else attach_adapter(model, adapter)
    assert isinstance(caught.value, ModelError) and "\n" not in str(caught.value)
    assert_untouched(model, before)
    return str(caught.value)


@pytest.mark.parametrize("merging", [True, False])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "an adapter of kind PROMPT_TUNING, which is not supported"),
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, "MULTITASK_PROMPT_TUNING, which is not supported"),
        # PEFT would compile C++ to load one.
        ({"peft_type": "BOFT"}, "BOFT, which is not supported"),
        ({"peft_type": "XLORA"}, "XLORA, which is not supported"),
        ({"peft_type": "OF_NEXT_YEAR"}, "OF_NEXT_YEAR, which is not supported"),
        ({"task_type": "SEQ_CLS"}, "for task SEQ_CLS, not for a language model"),
        ({"megatron_core": "wave"}, "megatron_core, which is not supported"),
        ({"megatron_config": {}}, "megatron_config, which is not supported"),
        ({"arrow_config": {}}, "uses arrow_config, which is not supported"),
        ({"lora_alpha": 1e300}, "scales the adapter by 2.5e\\+299"),
        ({"alpha_pattern": {"q_proj": 1e300}}, "scales the adapter by"),
        ({"megatron_config": {"x": 1}}, "megatron_config, which is not supported"),
        ({"layer_replication": [[0, 4], [2, 4]]}, "layer_replication, which is not supported"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens, which is not supported"),
        ({"target_parameters": ["q_proj.weight"]}, "target_parameters, which is not supported"),
        ({"corda_config": {"cache_file": "x.pt"}}, "corda_config, which is not supported"),
        ({"init_lora_weights": "corda"}, "init_lora_weights corda, .* not supported"),
        ({"use_what_is_to_come": True}, "use_what_is_to_come, which is not supported"),
    ],
)
def test_a_kind_that_is_not_supported_is_named(
    adapter: Path, tiny_model: TinyModel, settings: dict[str, Any], message: str, merging: bool
) -> None:
    change_config(adapter, **settings)
    text = refused(tiny_model(), adapter, merging)
    assert re.search(message, text), text


def test_what_cannot_be_merged_is_still_measured(tiny_model: TinyModel, tmp_path: Path) -> None:
    """A bias has no place in a projection without one."""
    settings = LoraConfig(task_type="CAUSAL_LM", target_modules=SOME, lora_bias=True)
    expected = trained(tiny_model(), settings, tmp_path)
    assert "cannot be merged: " in refused(tiny_model(), tmp_path, merging=True)
    assert torch.equal(logits(attach_adapter(tiny_model(), tmp_path)), expected)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"intermediate_size": 80},
            "of another model: its lora_A of model.layers.0.mlp.down_proj is for a width of 96",
        ),
        ({"num_hidden_layers": 3}, "of another model: this one has no projection model.layers.3"),
        ({"num_hidden_layers": 5}, "of another model: it lacks base_model.model.model.layers.4"),
        ({"hidden_size": 128}, "of another model: its lora_"),
    ],
)
def test_another_model_s_adapter(adapter: Path, tiny_model: TinyModel, other: dict[str, int], message: str) -> None:
    assert message in refused(tiny_model(**other), adapter)


def test_embeddings_of_another_vocabulary(tiny_model: TinyModel, tmp_path: Path) -> None:
    settings = LoraConfig(task_type="CAUSAL_LM", target_modules=["embed_tokens"])
    trained(tiny_model(), settings, tmp_path)
    assert "of another model" in refused(tiny_model(vocab_size=300), tmp_path)


WRONG = (None, "eight", -1, 0, [], {"a": []}, [None], True, 1e400, 10**30)
NAMES = (
    "r",
    "lora_alpha",
    "target_modules",
    "rank_pattern",
    "modules_to_save",
    "layers_to_transform",
    "bias",
    "use_dora",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", WRONG)
def test_a_damaged_config_is_one_line_or_harmless(adapter: Path, tiny_model: TinyModel, name: str, value: Any) -> None:
    change_config(adapter, **{name: value})
    model = tiny_model()
    try:
        attach_adapter(model, adapter)
    except ModelError as error:
        assert "\n" not in str(error)
        assert_untouched(model, tiny_model())


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{}", b'{"peft_type": 3}', b"\xff\xfe", b"[" * 100_000, b'{"r": NaN}']
)
def test_a_config_that_is_none(adapter: Path, tiny_model: TinyModel, content: bytes) -> None:
    (adapter / "adapter_config.json").write_bytes(content)
    assert "adapter_config.json cannot be read" in refused(tiny_model(), adapter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.popitem(), "of another model: it lacks "),
        (lambda weights: weights.update({min(weights): torch.full((4, 64), torch.nan)}), "NaN or infinite values in"),
        (lambda weights: weights.update({min(weights): torch.zeros(5, 96)}), "or damaged: its model.layers.0"),
        (lambda weights: weights.update({min(weights): torch.zeros(())}), "or damaged: its model.layers.0"),
        (lambda weights: weights.update({"more.weight": torch.zeros(1)}), "has no projection more"),
        (
            lambda weights: weights.update({"base_model.model.model.layers.0.mlp.up_proj.weight": torch.zeros(96, 64)}),
            "which its adapter_config.json does not ask for",
        ),
    ],
)
def test_damaged_weights(adapter: Path, tiny_model: TinyModel, change: Callable[..., object], message: str) -> None:
    change_weights(adapter, change)
    assert message in refused(tiny_model(), adapter)


def test_no_pickle_is_opened(adapter: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(torch, "load", opened)
    (adapter / "adapter_model.bin").write_bytes(b"not one either")
    attach_adapter(tiny_model(), adapter)
    (adapter / "adapter_model.safetensors").unlink()
    assert "pickled weights (*.bin) are not opened" in refused(tiny_model(), adapter)


def test_weights_that_wait_elsewhere(adapter: Path, tiny_model: TinyModel) -> None:
    """PEFT puts an adapter on them that gives other numbers."""
    model = tiny_model()
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(ModelError, match="no room for"):
        merge_adapter(model, adapter)
    torch.testing.assert_close(logits(model), logits(tiny_model()))


def test_a_model_that_accelerate_looks_after(adapter: Path, tiny_model: TinyModel) -> None:
    expected = logits(attach_adapter(tiny_model(), adapter))
    model = accelerate.dispatch_model(tiny_model(), {"": "cpu"}, force_hooks=True)
    torch.testing.assert_close(logits(attach_adapter(model, adapter)), expected)


@pytest.mark.slow
def test_every_way_in(tiny_model: TinyModel, tiny_tokenizer, tmp_path: Path) -> None:
    """What evaluate measures unmerged is what merge writes, for a tied model with an adapter on its head."""
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=[*SOME, "lm_head"], use_dora=True)
    trained(tiny_model(), settings, tmp_path / "adapter")
    secateur.save(tiny_model(), tiny_tokenizer, tmp_path / "model")
    model, _ = secateur.load(tmp_path / "model", dtype="float32", device="cpu")
    secateur.save(secateur.merge(model, tmp_path / "adapter"), tiny_tokenizer, tmp_path / "merged")
    text = tmp_path / "text.txt"
    text.write_text("The branch is cut where it is thick. " * 20)
    config = EvaluateConfig(
        data=[str(text)], seqlen=32, speed=False, dtype="float32", device="cpu", adapter=str(tmp_path / "adapter")
    )
    plain, merged, _ = compare_models([str(tmp_path / "model"), str(tmp_path / "merged")], config)
    *_, adapted = compare_models([str(tmp_path / "model")], config)
    before, after, beside = (next(iter(row.perplexity.values())) for row in (plain, merged, adapted))
    assert after == pytest.approx(beside, rel=1e-4)
    assert after != pytest.approx(before, rel=1e-2)
