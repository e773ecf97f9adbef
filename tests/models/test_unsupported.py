"""A family that is not supported is refused on one line that says what stands against it."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

import secateur
from secateur.errors import ModelError
from secateur.models.config_file import check_config
from secateur.models.gguf_input.config import family_of
from secateur.models.gguf_input.header import GGUFHeader, GGUFTensor
from secateur.planning import model_shape

EXPERTS = "its MLP is a mixture of experts"
LOW_RANK = "its queries, keys and values come from low-rank projections"
RECURRENT = "some or all of its layers are recurrent"
NOT_READ = "its GGUF files are not read; take the original model's directory"
ENCODER, ENCODER_DECODER = "it is an encoder", "it is an encoder-decoder"
REGISTER = "its layers are of another kind: secateur.models.register(adapter) can teach it"


def refused(content: dict[str, Any]) -> str:
    """What is said of a config, without the name before it and the list behind it."""
    with pytest.raises(ModelError) as caught:
        check_config(content)
    message = str(caught.value)
    assert "\n" not in message
    begin, end = f"the architecture '{content['model_type']}' is not supported: ", "; supported are llama, mistral, "
    assert message.startswith(begin)
    assert end in message
    return message.removeprefix(begin).split(end)[0]


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("mixtral", EXPERTS),
        ("qwen3_moe", EXPERTS),
        ("gpt_oss", EXPERTS),
        ("dbrx", EXPERTS),
        ("deepseek_v3", f"{EXPERTS}, and {LOW_RANK}"),
        ("minicpm3", LOW_RANK),
        ("phi", REGISTER),
        ("falcon", REGISTER),
        ("bert", ENCODER),
        ("modernbert", ENCODER),
        ("t5", ENCODER_DECODER),
        ("whisper", ENCODER_DECODER),
        ("mamba2", f"{RECURRENT} (state space, linear attention)"),
        ("rwkv", f"{RECURRENT} (state space, linear attention)"),
        ("jamba", f"{EXPERTS}, and {RECURRENT} (state space, linear attention)"),
        ("llava", "it is a multimodal wrapper of the text model 'llama'"),
        ("qwen2_5_vl", "it is a multimodal wrapper of the text model 'qwen2_5_vl_text'"),
        ("phi4_multimodal", "it is a multimodal wrapper"),
        ("qwen3_omni_moe", "it is a multimodal wrapper"),
        ("vit", "Transformers has no causal language model of it"),
        ("gpt2", REGISTER),
        ("bloom", REGISTER),
        ("opt", REGISTER),
        ("of_next_year", f"Transformers {transformers.__version__} does not know it"),
    ],
)
def test_what_stands_against_a_family(model_type: str, reason: str) -> None:
    assert refused({"model_type": model_type}) == reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model_type": "stablelm", "use_parallel_residual": True}, REGISTER),
        ({"model_type": "bert", "is_decoder": True}, REGISTER),
        ({"model_type": "hunyuan_v1_moe", "num_experts": 16}, EXPERTS),
        (
            {"model_type": "lfm2", "layer_types": ["full_attention", "conv"]},
            "some of its layers are of the kind 'conv'",
        ),
        (
            {"model_type": "llava", "text_config": {"model_type": "qwen3"}},
            "it is a multimodal wrapper of the text model 'qwen3'",
        ),
        (
            {"model_type": "gemma3n_text", "num_kv_shared_layers": 10, "hidden_size_per_layer_input": 256},
            "some of its layers use the keys and values of others, and its layers take embeddings of their own",
        ),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else None,
)
def test_what_the_file_says_counts(content: dict[str, Any], reason: str) -> None:
    assert refused(content) == reason


def test_settings_that_cannot_be_are_no_reason_to_fail() -> None:
    odd: dict[str, Any] = {
        "num_local_experts": "many",
        "layer_types": [[3], "full_attention"],
        "ffn_config": {"n_experts": None},
    }
    assert refused({"model_type": "gpt2", "text_config": [1], **odd}) == "some of its layers are of the kind '[3]'"
    assert refused({"model_type": "llava", "text_config": [1]}) == "it is a multimodal wrapper"


def test_loading_and_planning_refuse_alike(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
    for read in (secateur.load, model_shape):
        with pytest.raises(ModelError, match="'mixtral' is not supported: its MLP is a mixture of experts; supported"):
            read(tmp_path)


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of_next_year", "auto_map": auto_map}))
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    for trusting in (False, True):
        with pytest.raises(ModelError, match="does not know it"):
            secateur.load(tmp_path, trust_remote_code=trusting)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("content", [{}, {"model_type": None}, {"model_type": 3}], ids=str)
def test_a_config_without_a_type(content: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"config\.json is wrong: it names no model_type"):
        check_config(content)


LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")


@pytest.mark.parametrize(
    ("architecture", "keys", "reason"),
    [
        ("qwen3moe", {"expert_count": 128}, EXPERTS),
        ("gpt-oss", {"expert_count": 32, "attention.sliding_window": 128}, EXPERTS),
        ("deepseek2", {"expert_count": 64, "attention.kv_lora_rank": 512}, f"{EXPERTS}, and {LOW_RANK}"),
        ("minicpm3", {"attention.q_lora_rank": 768}, LOW_RANK),
        ("mamba", {"ssm.conv_kernel": 4}, RECURRENT),
        ("rwkv7", {"wkv.head_size": 64}, RECURRENT),
        ("granitehybrid", {"expert_count": 0, "ssm.state_size": 128}, RECURRENT),
        ("bert", {"attention.causal": False}, ENCODER),
        ("t5", {"decoder_start_token_id": 0}, ENCODER_DECODER),
        ("gemma3n", {"attention.shared_kv_layers": 15}, "some of its layers use the keys and values of others"),
        (
            "gemma4",
            {"embedding_length_per_layer_input": 256},
            f"its layers take embeddings of their own, and {NOT_READ}",
        ),
        ("clip", {"has_vision_encoder": True}, "it is the part of a multimodal model that reads images or sound"),
        ("gpt2", {}, "its GGUF files are not read; take the original model's directory"),
    ],
)
def test_what_stands_against_a_gguf_file(architecture: str, keys: dict[str, object], reason: str) -> None:
    assert said_of(architecture, keys, (*LAYER, "ffn_norm")).startswith(f"{reason}")


def said_of(architecture: str, keys: dict[str, object], tensors: tuple[str, ...]) -> str:
    named = {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in keys.items()}}
    tensor = GGUFTensor((8, 8), 0, 0, 256)  # type: ignore[arg-type]
    header = GGUFHeader(Path("model.gguf"), named, {f"blk.0.{name}.weight": tensor for name in tensors})
    with pytest.raises(ModelError) as caught:
        family_of(header)
    before, after = f"the architecture '{architecture}' of model.gguf is not supported: ", "; supported are llama, "
    assert str(caught.value).startswith(before)
    assert after in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(before)
