"""Models in and out: every family, even and uneven, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur  # noqa: F401  (registers the uneven families)
from secateur.errors import InputError, ModelError, OutputError
from secateur.models import (
    adapter_of,
    count_parameters,
    declare_widths,
    declared_widths,
    is_uneven,
    layer_widths,
    load,
    loading,
    model_label,
    save,
)
from secateur.pruning.units import keep_units


def cut(model: PreTrainedModel, groups: dict[int, list[int]], channels: dict[int, list[int]]) -> PreTrainedModel:
    adapter = adapter_of(model)
    for index, kept in groups.items():
        keep_units(adapter.half(adapter.layers(model)[index], "attention"), torch.tensor(kept))
    for index, kept in channels.items():
        keep_units(adapter.half(adapter.layers(model)[index], "mlp"), torch.tensor(kept))
    declare_widths(model)
    return model


@pytest.fixture
def uneven(tiny_model: Callable[..., PreTrainedModel], family: str) -> PreTrainedModel:
    return cut(tiny_model(family), {1: [0, 2], 3: [3]}, {0: list(range(40)), 2: [5]})


def test_round_trip_is_exact(
    tiny_model: Callable[..., PreTrainedModel], family: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = tiny_model(family)
    save(model, tiny_tokenizer, tmp_path / "m")
    again, tokenizer = load(tmp_path / "m", dtype="float32")
    assert type(again) is type(model)
    assert tokenizer("hello").input_ids == tiny_tokenizer("hello").input_ids
    assert_same_weights(again, model)


def assert_same_weights(model: PreTrainedModel, other: PreTrainedModel) -> None:
    for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(one, two), name


def test_uneven_round_trip_is_exact_and_generates(
    uneven: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    assert is_uneven(uneven)
    prompt = torch.arange(3, 20)[None]
    save(uneven, tiny_tokenizer, tmp_path / "m")
    again, _ = load(tmp_path / "m", dtype="float32")
    assert layer_widths(again) == layer_widths(uneven) == declared_widths(again)
    assert_same_weights(again, uneven)
    # Products of the same matrices differ in the last bit where they lie differently in memory.
    torch.testing.assert_close(again(prompt).logits, uneven(prompt).logits)
    with_cache = again.generate(prompt, max_new_tokens=12, do_sample=False)
    without_cache = again.generate(prompt, max_new_tokens=12, do_sample=False, use_cache=False)
    assert torch.equal(with_cache, without_cache)
    assert (tmp_path / "m" / "modeling_secateur.py").is_file()


def test_equal_layers_become_the_stock_class(tiny_model: Callable[..., PreTrainedModel], family: str) -> None:
    every = range(4)
    model = cut(tiny_model(family), {i: [0, 1] for i in every}, {i: list(range(48)) for i in every})
    assert not is_uneven(model)
    assert model.config.num_key_value_heads == 2 and model.config.num_attention_heads == 4
    assert type(model).__module__.startswith("transformers.")
    rebuilt = type(model)(model.config)
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_weights_may_be_read_by_those_who_may_read_the_rest(saved: Path) -> None:
    """A server runs as another user."""
    modes = {file.stat().st_mode & 0o777 for file in saved.iterdir()}
    assert modes == {saved.stat().st_mode & 0o666}


def test_an_uneven_model_that_is_cut_even_names_no_code(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save(cut(tiny_model("llama"), {}, {0: list(range(48))}), tiny_tokenizer, tmp_path / "uneven")
    model, _ = load(tmp_path / "uneven", dtype="float32")
    save(cut(model, {}, {index: list(range(48)) for index in range(1, 4)}), tiny_tokenizer, tmp_path / "even")
    assert not is_uneven(model) and model.config.model_type == "llama"
    config = json.loads((tmp_path / "even" / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert not {"auto_map", "model_file", "per_layer_config"} & set(config)
    assert not list((tmp_path / "even").glob("*.py"))
    assert type(load(tmp_path / "even")[0]).__module__.startswith("transformers.")


def test_llama_refuses_head_counts_that_do_not_divide_so_the_uneven_class_serves(
    tiny_model: Callable[..., PreTrainedModel],
) -> None:
    model = cut(tiny_model("llama"), {i: [0, 1, 3] for i in range(4)}, {})
    assert is_uneven(model)
    assert model(torch.arange(9)[None]).logits.isfinite().all()


def test_tied_weights_count_once(tiny_model: Callable[..., PreTrainedModel]) -> None:
    tied, untied = tiny_model("llama"), tiny_model("llama", tie_word_embeddings=False)
    assert count_parameters(untied) - count_parameters(tied) == 259 * 64


@pytest.mark.parametrize(
    ("name", "label"), [("a/b/", "b"), ("org/model", "model"), ("x/y.gguf", "y"), ("smollm2-135m", "smollm2-135m")]
)
def test_labels(name: str, label: str) -> None:
    assert model_label(name) == label


@pytest.fixture
def saved(tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    return save(tiny_model("llama"), tiny_tokenizer, tmp_path / "saved")


def test_truncated_weights_are_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="truncated or corrupted"):
        load(saved)


def test_garbage_weights_are_refused(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(b"not a tensor file at all")
    with pytest.raises(ModelError, match="truncated or corrupted"):
        load(saved)


def test_a_pickle_is_refused_with_the_reason(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle.*can run any code.*safetensors"):
        load(saved)


def test_no_model_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)


def test_a_config_of_another_width_is_named(
    saved: Path, tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    save(tiny_model("llama", intermediate_size=80), None, tmp_path / "narrower")
    shutil.copy(tmp_path / "narrower" / "config.json", saved / "config.json")
    with pytest.raises(
        ModelError, match=r"down_proj.weight of shape \(64, 96\) where its config.json asks for \(64, 80\)"
    ):
        load(saved)


def test_weights_of_another_model(saved: Path, tiny_model: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    save(tiny_model("llama", num_hidden_layers=5), None, tmp_path / "deeper")
    shutil.copy(tmp_path / "deeper" / "config.json", saved / "config.json")
    with pytest.raises(ModelError, match="says num_hidden_layers 5, and the weights beside it have 4 layers"):
        load(saved)


def test_unsupported_architecture_is_named_with_those_supported(saved: Path) -> None:
    config = saved / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "falcon"'))
    with pytest.raises(ModelError, match=r"'falcon' is not supported: .*; supported are llama, mistral"):
        load(saved)


def test_missing_shard_is_named(saved: Path) -> None:
    (saved / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        load(saved)


def test_unknown_name_without_a_network() -> None:
    with pytest.raises(ModelError, match="hub cannot be reached"):
        load("nobody/nothing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "auto"}, "device_map spreads a model .* leave it out, or start one process"),
        ({"device": "cuda:0"}, 'each process takes a GPU of its own; leave out device="cuda:0"'),
        ({"device": "auto"}, "more processes on this machine than its 1 GPUs"),
    ],
)
def test_devices_of_several_processes(
    saved: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(loading, "process_count", lambda: 2)
    monkeypatch.setattr(loading, "local_number", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=message):
        load(saved, **options)  # type: ignore[arg-type]


def test_unknown_device(saved: Path) -> None:
    with pytest.raises(InputError, match="'tpu' is unknown"):
        load(saved, device="tpu")
    with pytest.raises(InputError, match="not there"):
        load(saved, device="cuda:7")


def test_output_in_use_is_refused_and_kept(saved: Path, tiny_model: Callable[..., PreTrainedModel]) -> None:
    before = (saved / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="already holds something"):
        save(tiny_model("llama", seed=1), None, saved)
    assert (saved / "model.safetensors").read_bytes() == before


def test_failure_while_saving_leaves_the_old_model(
    saved: Path, tiny_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (saved / "model.safetensors").read_bytes()
    model = tiny_model("llama", seed=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model), "save_pretrained", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save(model, None, saved, overwrite=True)
    assert (saved / "model.safetensors").read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_overwrite_replaces_all(saved: Path, tiny_model: Callable[..., PreTrainedModel]) -> None:
    save(tiny_model("llama"), None, saved, overwrite=True, extras={"left-over.txt": "old"})
    save(tiny_model("llama", seed=1), None, saved, overwrite=True, extras={"note.json": {"a": 1}, "n.txt": "t"})
    assert not (saved / "left-over.txt").exists()
    assert (saved / "note.json").read_text() == '{\n  "a": 1\n}\n'
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_a_model_loaded_for_this_machine_is_saved_in_its_own_format(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("secateur.models.loading.cpu_multiplies_bfloat16", lambda: False)
    save(cut(tiny_model().to(torch.bfloat16), {1: [0]}, {}), tiny_tokenizer, tmp_path / "half")
    model, _ = load(tmp_path / "half", device="cpu")
    assert model.dtype == torch.float32
    save(model, tiny_tokenizer, tmp_path / "again")
    size, again = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "again"))
    assert size == again
    reloaded, _ = load(tmp_path / "again", device="cpu")
    for one, other in zip(model.parameters(), reloaded.parameters(), strict=True):
        assert torch.equal(one, other)
    assert reloaded.lm_head.weight is reloaded.model.embed_tokens.weight
    assert load(tmp_path / "again", dtype="bfloat16")[0].config.dtype == torch.bfloat16


def test_a_damaged_gguf_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUFxxxx")
    with pytest.raises(ModelError, match=r"bad\.gguf could not be loaded"):
        load(str(tmp_path / "bad.gguf"))


@pytest.mark.parametrize("name", ["~nobody-of-that-name/model", "~nobody-of-that-name/model.gguf"])
def test_a_home_of_nobody(name: str) -> None:
    with pytest.raises(ModelError, match=f"^{name} does not exist"):
        load(name)
