"""One model and several: figures, rows, adapters, samples."""

import copy
import json
import logging
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from torch import nn

from secateur.data import load_corpus, token_windows
from secateur.errors import InputError, ModelError
from secateur.evaluation import (
    EvaluateConfig,
    agreement,
    compare_models,
    evaluate,
    generate_samples,
    perplexity,
    size_on_disk,
)
from secateur.evaluation.samples import takes_prompts
from secateur.models import attach_adapter, count_parameters, save

QUICK = {"seqlen": 32, "prompt_tokens": 8, "new_tokens": 2, "repeats": 1}


@pytest.fixture(autouse=True)
def _cache(private_cache):
    pass


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "garden.txt"
    file.write_text("Cut above an outward facing bud, and the shrub opens up.\n" * 12, encoding="utf-8")
    return file


@pytest.fixture
def directories(tmp_path, tiny_model, tiny_tokenizer):
    """Two model directories whose last parts are alike."""
    return [
        str(save(tiny_model(seed=seed, intermediate_size=width), tiny_tokenizer, tmp_path / part / "model"))
        for seed, width, part in ((0, 96, "large"), (1, 64, "small"))
    ]


@pytest.fixture
def adapter(tmp_path, tiny_model):
    """A LoRA of the second of the directories."""
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(tiny_model(seed=1, intermediate_size=64), config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(tmp_path / "lora")
    return tmp_path / "lora"


def test_measures_every_text_of_one_model(tiny_model, tiny_tokenizer, text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("A sharp blade heals clean. " * 20, encoding="utf-8")
    model = tiny_model()
    measured = evaluate(model, tiny_tokenizer, name="tiny", data=[str(text), str(other)], windows=5, stride=16, **QUICK)
    assert list(measured.perplexity) == [str(text), str(other)]
    windows = token_windows(tiny_tokenizer, load_corpus(str(text), "test"), 32, limit=5, stride=16)
    assert measured.perplexity[str(text)] == pytest.approx(perplexity(model, windows, stride=16))
    assert measured.windows == {str(text): 5, str(other): 5}
    assert measured.parameters == count_parameters(model)
    assert measured.prefill_tokens_per_second > 0 and measured.peak_memory_bytes > 0
    assert "garden.txt" in measured.corpora[str(text)]
    assert (measured.dtype, measured.device, measured.size_bytes) == ("float32", "cpu", None)


def test_options_go_over_the_config(tiny_model, tiny_tokenizer, text):
    config = EvaluateConfig(data=[str(text)], seqlen=16, windows=2, speed=False)
    measured = evaluate(tiny_model(), tiny_tokenizer, config, windows=3)
    assert measured.windows == {str(text): 3} and measured.seqlen == 16
    assert measured.prefill_tokens_per_second is None


def test_figures_are_plain_json_even_of_a_broken_model(tiny_model, tiny_tokenizer, text):
    model = tiny_model()
    model.model.norm.weight.data.fill_(math.nan)
    measured = evaluate(model, tiny_tokenizer, data=[str(text)], **QUICK)
    content = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    assert content["perplexity"] == {str(text): None}


def test_the_config_refuses_a_stride_that_skips_text():
    with pytest.raises(ValidationError, match="stride 600 is larger than seqlen 512 and would skip text"):
        EvaluateConfig(stride=600)


def test_windows_and_prompts_longer_than_the_model_takes_are_refused(tiny_model, tiny_tokenizer, text):
    model = tiny_model(max_position_embeddings=20)
    with pytest.raises(InputError, match=r"windows of 32 tokens are longer than the 20 that the model.*seqlen=20"):
        evaluate(model, tiny_tokenizer, data=[str(text)], speed=False, seqlen=32)
    told = r"a prompt and an answer of 24 tokens are longer than the 20.*prompt_tokens=16 or less"
    with pytest.raises(InputError, match=told):
        evaluate(model, tiny_tokenizer, perplexity=False, prompt_tokens=20, new_tokens=4)


def test_compares_models_and_an_adapter(directories, adapter, text, tiny_model):
    config = EvaluateConfig(data=[str(text)], adapter=str(adapter), **QUICK)
    large, small, adapted = compare_models(directories, config)
    assert [large.name, small.name] == directories
    assert adapted.name == f"{directories[1]} + lora"
    assert small.parameters == count_parameters(tiny_model(intermediate_size=64)) < adapted.parameters
    assert small.size_bytes == size_on_disk(directories[1]) < adapted.size_bytes
    assert len({model.perplexity[str(text)] for model in (large, small, adapted)}) == 3
    assert all(model.decode_tokens_per_second > 0 for model in (large, small, adapted))


@pytest.mark.slow
def test_figures_do_not_depend_on_whether_models_share_the_memory(directories, text, monkeypatch):
    config = EvaluateConfig(data=[str(text)], **QUICK)
    batches = []
    measure = agreement.measure_speeds
    monkeypatch.setattr(
        agreement,
        "measure_speeds",
        lambda models, **options: batches.append(len(models)) or measure(models, **options),
    )
    together = compare_models(directories, config)
    monkeypatch.setattr(agreement, "_room_for_another", lambda *_args: False)
    apart = compare_models(directories, config)
    assert batches == [2, 1, 1]
    assert [m.perplexity for m in together] == [m.perplexity for m in apart]
    assert all(model.prefill_tokens_per_second > 0 for model in apart)


def test_names_are_short_where_they_differ(directories, tmp_path, text):
    first = tmp_path / "first"
    shutil.copytree(directories[0], first)
    config = EvaluateConfig(data=[str(text)], seqlen=32, speed=False)
    assert [m.name for m in compare_models([str(first), directories[1]], config)] == ["first", "model"]


def test_models_with_other_tokens_are_warned_of(directories, text, caplog):
    file = Path(directories[1]) / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        compare_models(directories, EvaluateConfig(data=[str(text)], seqlen=32, speed=False))
    assert "their perplexities cannot be compared" in caplog.text


def test_an_attached_adapter_is_the_one_that_was_saved(tiny_model, adapter):
    ids = torch.arange(20)[None]
    adapted = attach_adapter(tiny_model(seed=1, intermediate_size=64), adapter)
    with torch.no_grad():
        logits = adapted(input_ids=ids).logits
        plain = tiny_model(seed=1, intermediate_size=64)(input_ids=ids).logits
    assert not torch.allclose(logits, plain, atol=1e-3)
    assert not any(parameter.requires_grad for parameter in adapted.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intermediate_size": 96}, "for a width of 64 and the model has 96"),
        ({"intermediate_size": 64, "num_hidden_layers": 3}, "has no projection"),
        ({"intermediate_size": 64, "num_hidden_layers": 5}, "it lacks base_model"),
    ],
)
def test_an_adapter_of_another_model_is_refused(tiny_model, adapter, change, message):
    with pytest.raises(ModelError, match=message) as caught:
        attach_adapter(tiny_model(**change), adapter)
    assert "is of another model" in str(caught.value) and "\n" not in str(caught.value)


def test_an_adapter_for_modules_the_model_lacks(tiny_model, adapter):
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "target_modules": ["c_attn"]}))
    with pytest.raises(ModelError, match="does not fit the model"):
        attach_adapter(tiny_model(intermediate_size=64), adapter)


def test_what_is_no_adapter(tiny_model, adapter, tmp_path):
    with pytest.raises(ModelError, match=r"is not a LoRA adapter: it has no adapter_config\.json"):
        attach_adapter(tiny_model(), tmp_path)
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ModelError, match="truncated or corrupted"):
        attach_adapter(tiny_model(), adapter)
    weights.rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled weights"):
        attach_adapter(tiny_model(), adapter)
    (adapter / "adapter_config.json").write_text('{"r": 2}')
    with pytest.raises(ModelError, match="cannot be read"):
        attach_adapter(tiny_model(), adapter)


def test_samples_are_the_greedy_continuations(tiny_model, tiny_tokenizer):
    model = tiny_model()
    first, second = generate_samples(model, tiny_tokenizer, ["Cut", "The branch"], max_new_tokens=6)
    ids = tiny_tokenizer("Cut", return_tensors="pt")["input_ids"]
    for _ in range(6):
        with torch.no_grad():
            token = model(input_ids=ids).logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, token], dim=1)
    expected = ids[0, 3:].tolist()
    ended = expected.index(257) if 257 in expected else len(expected)
    assert first == tiny_tokenizer.decode(expected[:ended], skip_special_tokens=True)
    assert isinstance(second, str)


def test_samples_of_a_model_with_a_chat_template_go_through_it(tiny_model, tiny_tokenizer, caplog):
    model = tiny_model()
    plain = generate_samples(model, tiny_tokenizer, ["[u]Cut[a]"], max_new_tokens=6)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% if messages[0].content == 'no' %}{{ raise_exception('no') }}{% endif %}[u]{{ messages[0].content }}[a]"
    )
    assert generate_samples(model, tokenizer, ["Cut"], max_new_tokens=6) == plain
    assert takes_prompts(tokenizer, ["Cut"]) and not caplog.text
    assert not takes_prompts(tokenizer, ["Cut", "no"])
    assert "Samples are continuations, without the chat template" in caplog.text
