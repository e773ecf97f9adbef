"""A multimodal checkpoint is used as its text model alone, in every layout of names."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import WEIGHTS, change_config, change_weights, quantise
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from typer.testing import CliRunner

from secateur.cli.main import app
from secateur.errors import ModelError
from secateur.evaluation import size_on_disk
from secateur.models import attach_adapter, count_parameters, load, save
from secateur.models.config_file import check_config
from secateur.planning import model_shape
from tiny import OF_FAMILY, SETTINGS, make_tiny_tokenizer

TOKENS = torch.arange(3, 43)[None]
VISION: dict[str, dict[str, Any]] = {
    "gemma3": {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
    # More layers than the text has, under names that end as its do.
    "mistral3": {"num_hidden_layers": 5, "num_attention_heads": 2, "head_dim": 16, "image_size": 28, "patch_size": 14},
    "gemma4": {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
    "gemma4_unified": {"mm_embed_dim": 32, "mm_posemb_size": 16, "output_proj_dims": 64, "patch_size": 4},
    "qwen3_5": {"depth": 1, "num_heads": 2, "out_hidden_size": 64, "num_position_embeddings": 16},
}
TEXT = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "mistral3": "ministral3",
    "qwen3_5": "qwen3_5_text",
}
LAYOUTS = ("language_model.model.", "model.language_model.")


def make(family: str, directory: Path, tied: bool = True) -> PreTrainedModel:
    """A random multimodal model, saved with a tokenizer."""
    text = {**SETTINGS, "model_type": TEXT[family], **OF_FAMILY.get(TEXT[family], {}), "tie_word_embeddings": tied}
    vision = (
        VISION[family] if family == "gemma4_unified" else {"hidden_size": 32, "intermediate_size": 32, **VISION[family]}
    )
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, text_config=text, vision_config=vision, tie_word_embeddings=tied)
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.save_pretrained(directory)
    make_tiny_tokenizer().save_pretrained(directory)
    return model.eval()


def lay_out(directory: Path, layout: str) -> None:
    """Give the weights the names that a release of Transformers gave them."""

    def renamed(name: str) -> str:
        name = name.removeprefix("model.") if name.startswith("model.language_model.") else name
        head, text = re.match(r"(language_model\.)?lm_head\.", name), re.match(r"language_model\.(model\.)?", name)
        if head:
            return f"{'language_model.' if layout == LAYOUTS[0] else ''}lm_head.{name[head.end() :]}"
        if text:
            return layout + name[text.end() :]
        return ("" if layout == LAYOUTS[0] else "model.") + name.removeprefix("model.")

    change_weights(directory, lambda weights: {renamed(name): weight for name, weight in weights.items()})


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", TEXT)
def test_its_text_model_is_loaded_and_saved(
    family: str, tied: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make(family, tmp_path / "whole", tied)
    expected = logits(whole)
    for stream, layout in zip((False, True), LAYOUTS, strict=True):
        lay_out(tmp_path / "whole", layout)
        model, tokenizer = load(tmp_path / "whole", dtype="float32", stream=stream)
        assert model.config.model_type == TEXT[family]
        assert torch.equal(logits(model), expected)
        save(model, tokenizer, tmp_path / "text", overwrite=True)
        names = load_file(tmp_path / "text" / WEIGHTS)
        assert all(
            name.startswith(("model.layers.", "model.embed", "model.norm", "model.per_layer", "lm_head."))
            for name in names
        )
        assert ("lm_head.weight" in names) != tied
    again, _ = load(tmp_path / "text", dtype="float32")
    assert torch.equal(logits(again), expected)
    others = count_parameters(whole) - count_parameters(again)
    assert f"which alone is used: {others:,} parameters of " in caplog.text
    assert caplog.text.count("are left out") == 1
    assert size_on_disk(tmp_path / "whole") == pytest.approx(size_on_disk(tmp_path / "text"), rel=0.02)
    assert model_shape(tmp_path / "whole").parameters == count_parameters(again)


def test_prune_gives_a_text_model(tmp_path: Path) -> None:
    make("qwen3_5", tmp_path / "whole")
    (tmp_path / "text.txt").write_text(" ".join(f"{number} squared is {number * number}." for number in range(300)))
    options = ["--ratio", "0.2", "--attention-share", "0.4", "--calibration", str(tmp_path / "text.txt")]
    options += ["--own-text", "0", "--samples", "4", "--seqlen", "32", "--device", "cpu", "--dtype", "float32"]
    done = CliRunner().invoke(app, ["prune", str(tmp_path / "whole"), "-o", str(tmp_path / "cut"), *options])
    assert done.exit_code == 0, done.output
    model, _ = load(tmp_path / "cut", dtype="float32")
    assert model.config.model_type == "secateur_qwen3_5_text"
    assert count_parameters(model) < 0.82 * model_shape(tmp_path / "whole").parameters


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_adapter_that_was_trained_on_the_whole(layout: str, tmp_path: Path) -> None:
    whole = make("gemma3", tmp_path / "whole")
    settings = {"r": 4, "target_modules": r".*language_model.*\.(q_proj|up_proj)", "init_lora_weights": False}
    patterns = {"alpha_pattern": {"model.language_model.layers.1.mlp.up_proj": 64}}
    adapted = get_peft_model(whole, LoraConfig(**settings, **patterns)).eval()
    expected = logits(adapted)
    adapted.save_pretrained(tmp_path / "adapter")

    def renamed(name: str) -> str:
        return name.replace("model.language_model.", layout)

    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(renamed(file.read_text()))
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    save_file({renamed(name): weight for name, weight in weights.items()}, file.parent / "adapter_model.safetensors")
    model, _ = load(tmp_path / "whole", dtype="float32")
    plain = logits(model)
    found = logits(attach_adapter(model, tmp_path / "adapter"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_an_adapter_of_other_parts_is_refused(tmp_path: Path) -> None:
    whole = make("gemma3", tmp_path / "whole")
    get_peft_model(whole, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    model, _ = load(tmp_path / "whole", dtype="float32")
    with pytest.raises(ModelError, match=r"changes more than the text model, which alone is read here: .*vision_tower"):
        attach_adapter(model, tmp_path / "adapter")


def test_quantised_as_ministral_is(tmp_path: Path) -> None:
    """FP8 with what is not quantised under the names of the multimodal model."""
    directory = tmp_path / "whole"
    make("mistral3", directory)
    meant = quantise(directory)
    kept = ["model.vision_tower", "model.multi_modal_projector", "lm_head", "model.language_model.norm"]
    settings = {"quant_method": "fp8", "weight_block_size": [16, 16], "modules_to_not_convert": kept}
    change_config(directory, quantization_config=settings)
    model, _ = load(directory, dtype="float32")
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.state_dict()[name], meant[f"language_model.{name}"])


def test_a_text_model_that_was_saved_under_the_old_names(tmp_path: Path) -> None:
    make("qwen3_5", tmp_path / "whole")
    model, tokenizer = load(tmp_path / "whole", dtype="float32")
    save(model, tokenizer, tmp_path / "text")
    change_weights(
        tmp_path / "text",
        lambda weights: {name.replace("model.", LAYOUTS[1], 1): weight for name, weight in weights.items()},
    )
    again, _ = load(tmp_path / "text", dtype="float32")
    assert torch.equal(logits(again), logits(model))
    save(again, tokenizer, tmp_path / "again")
    assert "model.embed_tokens.weight" in load_file(tmp_path / "again" / WEIGHTS)


class TestRefusals:
    @pytest.fixture
    def whole(self, tmp_path: Path) -> Path:
        make("gemma3", tmp_path)
        lay_out(tmp_path, LAYOUTS[0])
        return tmp_path

    def refusal(self, directory: Path) -> str:
        with pytest.raises(ModelError) as caught:
            load(directory, dtype="float32")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize(
        "name", ["language_model.model.layers.0.mlp.up_proj.bias", "speech_tower.weight", "model.layers.0.mlp.scale"]
    )
    def test_a_weight_too_many(self, whole: Path, name: str) -> None:
        change_weights(whole, lambda weights: {**weights, name: torch.ones(8)})
        assert "which its config.json does not ask for" in self.refusal(whole)

    def test_a_weight_too_few(self, whole: Path) -> None:
        name = "language_model.model.layers.3.mlp.up_proj.weight"
        change_weights(whole, lambda weights: {stored: w for stored, w in weights.items() if stored != name})
        assert "lacks 1 weights of its architecture, model.layers.3.mlp.up_proj.weight first" in self.refusal(whole)

    def test_a_weight_of_another_shape(self, whole: Path) -> None:
        name = "language_model.model.layers.0.mlp.up_proj.weight"
        change_weights(whole, lambda weights: {**weights, name: torch.ones(8, 8)})
        assert "model.layers.0.mlp.up_proj.weight of shape (8, 8)" in self.refusal(whole)

    def test_a_weight_in_two_layouts(self, whole: Path) -> None:
        change_weights(whole, lambda weights: {**weights, "model.language_model.norm.weight": torch.ones(64)})
        assert "holds model.norm.weight twice" in self.refusal(whole)

    def test_another_number_of_layers(self, whole: Path) -> None:
        text = json.loads((whole / "config.json").read_text())["text_config"]
        change_config(whole, text_config={**text, "num_hidden_layers": 2, "layer_types": text["layer_types"][:2]})
        assert "num_hidden_layers 2, and the weights beside it have 4 layers" in self.refusal(whole)

    @pytest.mark.parametrize("text", [..., None, [1]], ids=str)
    def test_no_settings_of_a_text_model(self, whole: Path, text: object) -> None:
        change_config(whole, text_config=text)
        assert "it is of a gemma3 and has no text_config" in self.refusal(whole)

    def test_a_text_model_that_is_not_supported(self, whole: Path) -> None:
        change_config(whole, model_type="mistral3", text_config={"model_type": "mixtral"})
        assert "'mixtral' is not supported: its MLP is a mixture of experts" in self.refusal(whole)

    @pytest.mark.parametrize("text", [{"model_type": 3}, {"model_type": ["llama"]}, {"hidden_size": "64"}], ids=str)
    def test_settings_of_a_wrong_kind(self, whole: Path, text: object) -> None:
        change_config(whole, text_config=text)
        assert "config.json" in self.refusal(whole)


@pytest.mark.parametrize(
    ("content", "parameters"),
    [
        # As google/gemma-3-4b-it has it: what is the family's own is left out.
        (
            {
                "model_type": "gemma3",
                "eos_token_id": [1, 106],
                "text_config": {
                    "hidden_size": 2560,
                    "intermediate_size": 10240,
                    "num_hidden_layers": 34,
                    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                    "sliding_window": 1024,
                },
                "torch_dtype": "bfloat16",
            },
            3_880_263_168,
        ),
        # As mistralai/Mistral-Small-3.1-24B-Instruct-2503 has it, with the tying said.
        (
            {
                "model_type": "mistral3",
                "tie_word_embeddings": False,
                "text_config": {
                    "head_dim": 128,
                    "hidden_size": 5120,
                    "intermediate_size": 32768,
                    "model_type": "mistral",
                    "num_attention_heads": 32,
                    "num_hidden_layers": 40,
                    "num_key_value_heads": 8,
                    "rope_theta": 1e9,
                    "sliding_window": None,
                    "vocab_size": 131072,
                },
                "torch_dtype": "bfloat16",
            },
            23_572_403_200,
        ),
    ],
    ids=["gemma-3-4b", "mistral-small-3.1"],
)
def test_settings_as_they_are_published(content: dict[str, Any], parameters: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    shape = model_shape(tmp_path)
    assert shape.parameters == parameters
    assert shape.dtype == "bfloat16"
    assert check_config(content).eos_token_id == content.get("eos_token_id")


@pytest.mark.parametrize("stream", [False, True])
def test_files_of_its_other_parts_alone_need_not_be_there(stream: bool, tmp_path: Path) -> None:
    expected = logits(make("gemma3", tmp_path / "whole"))
    weights = load_file(tmp_path / "whole" / WEIGHTS)
    (tmp_path / "whole" / WEIGHTS).unlink()
    shards: dict[str, dict[str, Tensor]] = {"text": {}, "other": {}}
    for name, weight in weights.items():
        shards["text" if "language_model" in name else "other"][name] = weight
    for name, held in shards.items():
        save_file(held, tmp_path / "whole" / f"{name}.safetensors", metadata={"format": "pt"})
    index = {name: f"{shard}.safetensors" for shard, held in shards.items() for name in held}
    content = {"metadata": {"total_size": 1}, "weight_map": index}
    (tmp_path / "whole" / f"{WEIGHTS}.index.json").write_text(json.dumps(content))
    (tmp_path / "whole" / "other.safetensors").unlink()
    model, tokenizer = load(tmp_path / "whole", dtype="float32", stream=stream)
    assert torch.equal(logits(model), expected)
    assert model.name_or_path == str(tmp_path / "whole")
    assert model_shape(tmp_path / "whole").parameters == count_parameters(model)
    save(model, tokenizer, tmp_path / "text")
    (tmp_path / "whole" / "text.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks text\.safetensors, which its index names; copy the missing files"):
        load(tmp_path / "whole", dtype="float32")
