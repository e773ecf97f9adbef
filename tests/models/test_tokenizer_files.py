"""A tokenizer is what its files say; damaged files are one line, and so is a token without an embedding."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import change_json
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.attention.config import GenerateConfig
from secateur.attention.generate import generate
from secateur.errors import DataError, ModelError
from secateur.evaluation import EvaluateConfig, load_tasks, measure_tasks
from secateur.models import load, load_tokenizer, save
from secateur.models.loading import load_settings
from secateur.models.quiet import natively_silent

VOCABULARY, SETTINGS = "tokenizer.json", "tokenizer_config.json"
TinyModel = Callable[..., PreTrainedModel]


@pytest.fixture
def saved(tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, family: str) -> Path:
    return save(tiny_model(family, num_hidden_layers=1), tiny_tokenizer, tmp_path / "saved")


@pytest.fixture
def llama(tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    return save(tiny_model(num_hidden_layers=1), tiny_tokenizer, tmp_path / "llama")


def test_no_pad_token_is_added(saved: Path, tmp_path: Path) -> None:
    change_json(saved / SETTINGS, pad_token=...)
    model, tokenizer = load(saved)
    assert tokenizer.pad_token is None
    assert load_settings(saved)[1].pad_token is None
    save(model, tokenizer, tmp_path / "again")
    assert "pad_token" not in json.loads((tmp_path / "again" / SETTINGS).read_text())
    before, after = (json.loads((directory / VOCABULARY).read_text()) for directory in (saved, tmp_path / "again"))
    assert after == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (VOCABULARY, ""),
        (VOCABULARY, "[]"),
        (VOCABULARY, '{"version": "1.0"}'),
        (SETTINGS, "{"),
        (SETTINGS, "[1]"),
        ("special_tokens_map.json", "nonsense"),
        ("added_tokens.json", '{"<extra>": "x"}'),
    ],
)
def test_a_damaged_file_is_named(llama: Path, file: str, text: str) -> None:
    (llama / file).write_text(text)
    with pytest.raises(ModelError) as caught:
        load(llama)
    assert str(llama / file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"pad_token": 5}, "pad_token"),
        ({"eos_token": ["x"]}, "eos_token"),
        ({"tokenizer_class": 3}, "tokenizer"),
        ({"extra_special_tokens": "x"}, "extra_special_tokens"),
    ],
)
def test_a_wrong_setting_is_named(llama: Path, changed: dict[str, Any], named: str) -> None:
    change_json(llama / SETTINGS, **changed)
    with pytest.raises(ModelError, match=named) as caught:
        load_tokenizer(llama)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["normalizer", "pre_tokenizer", "decoder", "model", "added_tokens", "post_processor"])
@pytest.mark.parametrize("value", [5, {"type": "Nonsense"}])
def test_a_wrong_part_of_the_vocabulary(llama: Path, name: str, value: object) -> None:
    change_json(llama / VOCABULARY, **{name: value})
    with pytest.raises(ModelError, match=VOCABULARY):
        load_tokenizer(llama)


def test_no_tokenizer(llama: Path) -> None:
    (llama / VOCABULARY).unlink()
    (llama / SETTINGS).unlink()
    with pytest.raises(ModelError, match="has no tokenizer that can be loaded"):
        load(llama)


@pytest.mark.parametrize(
    "template", ["{% for", "{{ 1 / 0 }}", "{{ messages.nothing.at_all }}", "{{ raise_exception('x') }}"]
)
def test_a_chat_template_that_does_not_work(llama: Path, template: str) -> None:
    (llama / "chat_template.jinja").write_text(template)
    model, tokenizer = load(llama)
    with pytest.raises(ModelError, match=r"chat template refuses it .* leave out chat=True"):
        generate(model, tokenizer, GenerateConfig(prompt="Hello", chat=True, topk=0.5, max_new_tokens=1))


def test_what_a_library_reports_past_python_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with natively_silent():
        os.write(2, b"thread panicked\n")
    os.write(2, b"after it\n")
    assert capfd.readouterr().err == "after it\n"


class TestTokensWithoutAnEmbedding:
    @pytest.fixture
    def larger(self, llama: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
        """A model whose tokenizer has had a token added to it."""
        tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
        tokenizer = load_tokenizer(tmp_path / "tokenizer")
        tokenizer.add_tokens(["<extra>"])
        tokenizer.save_pretrained(llama)
        return llama

    def test_added_ones_are_said_and_refused_where_they_occur(
        self, larger: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model, tokenizer = load(larger)
        assert "has 1 tokens (<extra>, …) beyond the 259 rows" in caplog.text
        assert model(torch.tensor([tokenizer("abc").input_ids])).logits.isfinite().all()
        with pytest.raises(DataError, match="token 259, and the model has embeddings for 259"):
            model(torch.tensor([tokenizer("abc<extra>").input_ids]))

    def test_another_models_vocabulary_is_refused(self, llama: Path, tiny_model: TinyModel, tmp_path: Path) -> None:
        small = tiny_model(vocab_size=200, num_hidden_layers=1, bos_token_id=1, eos_token_id=2, pad_token_id=3)
        save(small, None, tmp_path / "small")
        shutil.copytree(llama, tmp_path / "both", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
        for file in ("config.json", "model.safetensors"):
            shutil.copy(tmp_path / "small" / file, tmp_path / "both" / file)
        with pytest.raises(ModelError, match="tokens up to 258 and the model's embeddings 200 rows"):
            load(tmp_path / "both")
        with pytest.raises(ModelError, match="another model"):
            load_settings(tmp_path / "both")

    @pytest.mark.parametrize(("token", "number"), [("a", 400), ("<pad>", 2_000_000)])
    def test_few_tokens_with_large_numbers_are_refused(self, llama: Path, token: str, number: int) -> None:
        content = json.loads((llama / VOCABULARY).read_text())
        vocabulary = content["model"]["vocab"]
        for other in list(vocabulary)[:5]:
            del vocabulary[other]
        vocabulary[token] = number
        (llama / VOCABULARY).write_text(json.dumps(content))
        with pytest.raises(ModelError, match=f"tokens up to {number} and the model's embeddings 259 rows"):
            load(llama)

    def test_fewer_tokens_than_rows_are_usual(
        self,
        tiny_model: TinyModel,
        tiny_tokenizer: PreTrainedTokenizerFast,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        load(save(tiny_model(vocab_size=320, num_hidden_layers=1), tiny_tokenizer, tmp_path / "padded"))
        assert not caplog.records


def test_tasks_leave_the_tokenizer_as_it_is(llama: Path, task_directory: Path) -> None:
    pytest.importorskip("lm_eval")
    change_json(llama / SETTINGS, pad_token=...)
    model, tokenizer = load(llama)
    config = EvaluateConfig(tasks=["sums"], include_path=str(task_directory), perplexity=False, speed=False)
    measure_tasks(model, tokenizer, load_tasks(config), "tiny")
    assert tokenizer.pad_token is None
