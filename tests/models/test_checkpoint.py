"""What a model directory stores is what is loaded: every weight, from its own files, in numbers that are read."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import INDEX, WEIGHTS, Weights, change_config, change_json, change_weights, quantise, shard
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.errors import ModelError
from secateur.evaluation import size_on_disk
from secateur.models import load, loading, save
from secateur.models.loading import load_settings

QUERY = "model.layers.0.self_attn.q_proj.weight"
EMBEDDINGS = "model.embed_tokens.weight"
PROMPT = torch.arange(3, 40)[None]
TinyModel = Callable[..., PreTrainedModel]


@pytest.fixture
def saved(tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    return save(tiny_model(), tiny_tokenizer, tmp_path / "saved")


def refusal(directory: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(directory, dtype="float32")
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestWeightsThatAreNotAskedFor:
    @pytest.mark.parametrize("layers", [2, 5, 2**31])
    def test_another_number_of_layers(self, saved: Path, layers: int) -> None:
        change_config(saved, num_hidden_layers=layers)
        assert "num_hidden_layers" in refusal(saved)

    def test_biases_that_the_config_lacks(
        self, tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
    ) -> None:
        directory = save(tiny_model(attention_bias=True), tiny_tokenizer, tmp_path / "biased")
        change_config(directory, attention_bias=...)
        assert "k_proj.bias and 15 more weights, which its config.json does not ask for" in refusal(directory)

    @pytest.mark.parametrize("name", ["score.weight", "model.layers.0.self_attn.k_scale", "layers.3.mlp.up_proj.bias"])
    def test_any_other(self, saved: Path, name: str) -> None:
        change_weights(saved, lambda weights: {**weights, name: torch.ones(8)})
        assert name in refusal(saved)

    def test_a_weight_under_two_names(self, saved: Path) -> None:
        change_weights(saved, lambda weights: {**weights, "embed_tokens.weight": torch.zeros(259, 64)})
        assert "embed_tokens.weight twice" in refusal(saved)

    @pytest.mark.parametrize("table", ["inv_freq", "cos_cached"])
    def test_tables_that_follow_from_the_config_pass(self, saved: Path, table: str) -> None:
        name = f"model.layers.0.self_attn.rotary_emb.{table}"
        change_weights(saved, lambda weights: {**weights, name: torch.ones(8)})
        load(saved)

    def test_a_tied_head_that_is_stored_too(self, saved: Path) -> None:
        change_weights(saved, lambda weights: {**weights, "lm_head.weight": weights[EMBEDDINGS]})
        model, _ = load(saved, dtype="float32")
        assert model.lm_head.weight is model.model.embed_tokens.weight

    def test_a_tied_head_that_is_another(self, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        change_weights(saved, lambda weights: {**weights, "lm_head.weight": weights[EMBEDDINGS] + 1})
        model, tokenizer = load(saved, dtype="float32")
        assert "says tie_word_embeddings, and the weights hold a head of its own" in caplog.text
        save(model, tokenizer, tmp_path / "again")
        assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] is False
        stored = load_file(tmp_path / "again" / WEIGHTS)
        assert torch.equal(stored["lm_head.weight"], stored[EMBEDDINGS] + 1)


def test_a_config_that_is_far_too_large_makes_nothing(saved: Path) -> None:
    change_config(saved, vocab_size=10**7, pad_token_id=None)
    assert "embed_tokens.weight of shape (259, 64) where its config.json asks for (10000000, 64)" in refusal(saved)


class TestAnAdapterBesideTheModel:
    @pytest.fixture
    def directory(self, saved: Path, tiny_model: TinyModel) -> Path:
        config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(tiny_model(), config).save_pretrained(str(saved))
        return saved

    def test_it_is_left_out_and_that_is_said(
        self, directory: Path, tiny_model: TinyModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        model, _ = load(directory, dtype="float32")
        assert torch.equal(model(PROMPT).logits, tiny_model()(PROMPT).logits)
        assert caplog.text.count("holds an adapter beside the model") == 1
        assert f"pass --adapter {directory} to have it too" in caplog.text

    def test_it_is_not_looked_at(self, directory: Path) -> None:
        (directory / "adapter_config.json").write_text("{")
        load(directory)
        load_settings(directory)

    def test_it_does_not_count(self, directory: Path) -> None:
        assert size_on_disk(directory) == (directory / WEIGHTS).stat().st_size


class TestQuantised:
    @pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "mxfp4", "torchao", "new"])
    def test_a_method_that_is_not_read_is_named(self, saved: Path, method: str) -> None:
        change_config(saved, quantization_config={"quant_method": method, "bits": 4})
        change_weights(saved, lambda weights: {**weights, QUERY: weights[QUERY].to(torch.int8)})
        message = refusal(saved)
        assert f"quantised with {method} " in message and "use the original checkpoint" in message

    def test_plain_weights_under_such_a_config(self, saved: Path) -> None:
        change_config(saved, quantization_config={"load_in_4bit": True})
        assert "bitsandbytes" in refusal(saved) and "ordinary ones: take the field out" in refusal(saved)

    @pytest.mark.parametrize("value", ["gptq", [1], {"bits": 4}, {"quant_method": 4}])
    def test_a_wrong_field(self, saved: Path, value: object) -> None:
        change_config(saved, quantization_config=value)
        assert "quantization_config" in refusal(saved)

    def test_packed_weights_without_a_word(self, saved: Path) -> None:
        change_weights(saved, lambda weights: {**weights, QUERY: weights[QUERY].to(torch.int8)})
        assert f"{QUERY} is stored as I8" in refusal(saved)

    @pytest.mark.parametrize("config", [None, {"quant_method": "fp8"}, {"quant_method": "modelopt"}])
    def test_scales_under_other_names(self, saved: Path, config: object) -> None:
        quantise(saved, scale="weight_scale")
        change_config(saved, quantization_config=config)
        (saved / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
        assert "quantised with " in refusal(saved)

    def test_blocks_that_do_not_fill_a_weight(self, saved: Path) -> None:
        # Transformers would take a block of 24 out of the shapes, where it is 32.
        change_weights(saved, lambda weights: {**weights, QUERY: weights[QUERY][:, :48]})
        quantise(saved, block=32)
        change_config(saved, quantization_config={"quant_method": "fp8", "weight_block_size": [32, 32]})
        assert "do not fit blocks of [32, 32]" in refusal(saved)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_blocks_of_fp8_are_read_and_written_as_ordinary_weights(
        self, saved: Path, tmp_path: Path, dtype: Any
    ) -> None:
        meant = quantise(saved)
        change_config(saved, quantization_config={"quant_method": "fp8", "weight_block_size": [16, 16]})
        model, tokenizer = load(saved, dtype=dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
        save(model, tokenizer, tmp_path / "plain")
        assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
        stored = load_file(tmp_path / "plain" / WEIGHTS)
        assert stored.keys() == meant.keys()
        for name, weight in meant.items():
            torch.testing.assert_close(stored[name], weight.to(stored[name].dtype))


class TestWhichFilesAreRead:
    def test_shards(self, saved: Path, tiny_model: TinyModel) -> None:
        shard(saved)
        model, _ = load(saved, dtype="float32")
        assert torch.equal(model(PROMPT).logits, tiny_model()(PROMPT).logits)

    def test_links_of_the_hubs_cache(self, saved: Path, tmp_path: Path) -> None:
        shard(saved)
        blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
        blobs.mkdir()
        snapshot.mkdir(parents=True)
        for number, file in enumerate(sorted(saved.iterdir())):
            file.rename(blobs / str(number))
            (snapshot / file.name).symlink_to(f"../../blobs/{number}")
        load(snapshot)

    @pytest.mark.parametrize(
        "name", ["weights-1.bin", "../x.safetensors", "/tmp/x.safetensors", "sub/x.safetensors", "a\\x.safetensors", 5]
    )
    def test_an_index_names_files_of_its_directory_only(self, saved: Path, name: object) -> None:
        index = shard(saved)
        change_json(saved / INDEX, weight_map={**index, QUERY: name})
        assert f"{QUERY} is said to be in " in refusal(saved)

    def test_a_weight_in_two_shards(self, saved: Path) -> None:
        index = shard(saved)
        file = next(saved / name for name in index.values() if name != index[QUERY])
        save_file({**load_file(file), QUERY: torch.zeros(128, 64)}, file, {"format": "pt"})
        assert f"{QUERY} twice" in refusal(saved)

    def test_a_weight_in_no_shard(self, saved: Path) -> None:
        index = shard(saved)
        file = saved / index[QUERY]
        save_file({name: weight for name, weight in load_file(file).items() if name != QUERY}, file, {"format": "pt"})
        assert f"lacks {QUERY}: its index says" in refusal(saved)

    def test_a_weight_that_the_index_does_not_name(self, saved: Path) -> None:
        index = shard(saved)
        index.pop(QUERY)
        change_json(saved / INDEX, weight_map=index)
        assert f"does not name {QUERY}" in refusal(saved)

    @pytest.mark.parametrize("file", ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    def test_a_table_that_the_index_does_not_name(self, saved: Path, file: str) -> None:
        shard(saved)
        table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
        save_file({**load_file(saved / file), **table}, saved / file, {"format": "pt"})
        load(saved)

    def test_a_table_that_the_index_names_and_no_shard_holds(self, saved: Path) -> None:
        index = shard(saved)
        table = {"model.layers.0.self_attn.rotary_emb.inv_freq": index[QUERY]}
        change_json(saved / INDEX, weight_map={**index, **table})
        load(saved)

    @pytest.mark.parametrize("key", ["weight_map", "metadata"])
    def test_an_index_that_lacks_a_part(self, saved: Path, key: str) -> None:
        shard(saved)
        change_json(saved / INDEX, **{key: ...})
        assert f"has no {key}" in refusal(saved)

    def test_other_files_are_not_counted_and_not_opened(self, saved: Path) -> None:
        size = size_on_disk(saved)
        (saved / "consolidated.safetensors").write_bytes(b"not a tensor file")
        load(saved)
        assert size_on_disk(saved) == size == (saved / WEIGHTS).stat().st_size

    def test_one_file_goes_before_shards(self, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
        whole = (saved / WEIGHTS).read_bytes()
        shard(saved)
        (saved / WEIGHTS).write_bytes(whole)
        load(saved)
        assert size_on_disk(saved) == len(whole)
        assert "the first is read" in caplog.text

    def test_files_of_single_processes(self, saved: Path) -> None:
        (saved / WEIGHTS).rename(saved / "shard-00001-model-00001-of-00001.safetensors")
        assert "a checkpoint of several processes" in refusal(saved)

    def test_what_is_fetched_from_the_hub(self, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = ["config.json", "tokenizer.json", "model-00001-of-00002.safetensors", "consolidated.safetensors"]
        files += ["original/consolidated.00.safetensors", "adapter_model.safetensors", "onnx/model.safetensors"]
        asked: dict[str, Any] = {}

        def download(name: str, *, allow_patterns: Any, ignore_patterns: Any = None, **_: Any) -> str:
            asked.update(allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
            return str(saved)

        monkeypatch.setattr(loading, "snapshot_download", download)
        loading.model_directory("some/model")
        assert list(filter_repo_objects(files, **asked)) == files[:3]


@pytest.mark.parametrize("format", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("stated", [True, False])
def test_the_number_format_is_kept(saved: Path, tmp_path: Path, format: torch.dtype, stated: bool) -> None:
    def stored(weights: Weights) -> Weights:
        return {name: weight.to(format) for name, weight in weights.items()}

    change_weights(saved, stored)
    change_config(saved, dtype=str(format).removeprefix("torch.") if stated else ...)
    model, tokenizer = load(saved)
    save(model, tokenizer, tmp_path / "again")
    assert {weight.dtype for weight in load_file(tmp_path / "again" / WEIGHTS).values()} == {format}


def test_logging_is_quiet_about_ordinary_models(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(saved)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
