"""What is kept between commands: closed to other users, and checked when it is read."""

import json
import logging
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.calibration.own_text import own_text
from secateur.data import Corpus, Example, load_corpus, token_windows, tokenize_examples
from secateur.models import embedded

EXAMPLES = [Example("Say it.", "", "it" * n) for n in range(1, 5)]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    file = tmp_path / "text.txt"
    file.write_text("A text that is long enough for some windows of eight tokens.")
    return load_corpus(str(file))


def entry(cache: Path) -> Path:
    (path,) = (cache / "tokens").glob("*.safetensors")
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def reverse(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "input_ids": tensors["input_ids"].flip(0)}, path)


def leave_the_vocabulary(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "input_ids": tensors["input_ids"] + 100_000}, path)


def another_number_format(path: Path) -> None:
    save_file({name: tensor.to(torch.float64) for name, tensor in load_file(path).items()}, path)


def another_shape(path: Path) -> None:
    save_file({"input_ids": load_file(path)["input_ids"].view(1, -1)}, path)


def without_its_ids(path: Path) -> None:
    save_file({"other": torch.zeros(3)}, path)


def a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


CHANGES = [reverse, leave_the_vocabulary, another_number_format, another_shape, without_its_ids, a_bit]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_tokens_are_made_anew_and_that_is_said(
    tiny_tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    private_cache: Path,
    caplog: pytest.LogCaptureFixture,
    change: object,
) -> None:
    first = token_windows(tiny_tokenizer, corpus, 8)
    whole = entry(private_cache).read_bytes()
    change(entry(private_cache))  # type: ignore[operator]
    with caplog.at_level(logging.WARNING, "secateur"):
        assert torch.equal(token_windows(tiny_tokenizer, corpus, 8), first)
    assert len(caplog.messages) == 1 and "made anew" in caplog.messages[0]
    assert entry(private_cache).read_bytes() == whole
    caplog.clear()
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 8), first) and not caplog.messages


def test_the_tokens_of_another_text_do_not_pass_under_a_texts_name(
    tiny_tokenizer: PreTrainedTokenizerFast, corpus: Corpus, private_cache: Path, tmp_path: Path
) -> None:
    first = token_windows(tiny_tokenizer, corpus, 8)
    place = entry(private_cache)
    other = tmp_path / "other.txt"
    other.write_text(corpus.text[::-1])
    token_windows(tiny_tokenizer, load_corpus(str(other)), 8)
    (another,) = (path for path in place.parent.glob("*.safetensors") if path != place)
    shutil.copyfile(another, place)
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 8), first)


@pytest.mark.parametrize("name", ["lengths", "trained"])
def test_examples_whose_lengths_were_changed_are_made_anew(
    tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path, name: str
) -> None:
    first = tokenize_examples(tiny_tokenizer, EXAMPLES, 300)
    tensors = load_file(entry(private_cache))
    save_file({**tensors, name: tensors[name] - 1}, entry(private_cache))
    assert tokenize_examples(tiny_tokenizer, EXAMPLES, 300) == first


def test_text_that_a_model_wrote_is_checked_too(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path
) -> None:
    model = tiny_model()
    first = own_text(model, tiny_tokenizer, 4, 16)
    reverse(entry(private_cache))
    assert torch.equal(own_text(model, tiny_tokenizer, 4, 16), first)


def test_the_cache_is_its_users_alone(
    tiny_tokenizer: PreTrainedTokenizerFast, corpus: Corpus, private_cache: Path
) -> None:
    token_windows(tiny_tokenizer, corpus, 8)
    assert mode(private_cache) == mode(private_cache / "tokens") == 0o700
    assert mode(entry(private_cache)) == 0o600


def test_a_cache_that_was_open_to_others_is_closed(
    tiny_tokenizer: PreTrainedTokenizerFast, corpus: Corpus, private_cache: Path
) -> None:
    token_windows(tiny_tokenizer, corpus, 8)
    private_cache.chmod(0o755)
    (private_cache / "tokens").chmod(0o755)
    entry(private_cache).chmod(0o644)
    token_windows(tiny_tokenizer, corpus, 8)
    assert mode(private_cache) == mode(private_cache / "tokens") == 0o700
    assert mode(entry(private_cache)) == 0o600


def test_a_directory_with_another_purpose_keeps_its_rights(
    tiny_tokenizer: PreTrainedTokenizerFast, corpus: Corpus, private_cache: Path
) -> None:
    private_cache.mkdir(mode=0o755)
    (private_cache / "notes.txt").write_text("mine")
    token_windows(tiny_tokenizer, corpus, 8)
    assert mode(private_cache) == 0o755 and mode(private_cache / "tokens") == 0o700


def test_what_others_may_write_is_not_believed(
    tiny_tokenizer: PreTrainedTokenizerFast, corpus: Corpus, private_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = token_windows(tiny_tokenizer, corpus, 8)
    entry(private_cache).chmod(0o666)
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 8), first)
    assert "other users may write it" in caplog.text
    assert mode(entry(private_cache)) == 0o600


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_another_users_entries_and_directory_are_not_believed(
    tiny_tokenizer: PreTrainedTokenizerFast, corpus: Corpus, private_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = token_windows(tiny_tokenizer, corpus, 8)
    os.chown(entry(private_cache), 12345, -1)
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 8), first)
    assert "belongs to another user" in caplog.text
    assert entry(private_cache).stat().st_uid == os.geteuid()
    os.chown(private_cache / "tokens", 12345, -1)
    caplog.clear()
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 8), first)
    assert "set SECATEUR_CACHE to a directory of your own" in caplog.text


@pytest.fixture
def converting(
    monkeypatch: pytest.MonkeyPatch,
    private_cache: Path,
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> list[int]:
    """A tiny model in place of the package's; the list has an entry for each conversion."""
    conversions: list[int] = []

    def read(*_: object) -> object:
        conversions.append(1)
        return tiny_model(), tiny_tokenizer

    def offline(*args: object, **options: object) -> None:
        raise OSError("no hub")

    monkeypatch.setattr(embedded, "read_gguf", read)
    monkeypatch.setattr(embedded, "snapshot_download", offline)
    monkeypatch.setattr(embedded, "package_file", lambda: Path("model.gguf"))
    return conversions


def test_the_converted_model_is_converted_once_and_closed_to_others(converting: list[int]) -> None:
    directory = embedded.embedded_directory()
    assert embedded.embedded_directory() == directory and len(converting) == 1
    assert mode(directory) == mode(directory.parent) == 0o700
    assert {mode(path) for path in directory.iterdir()} == {0o600}
    assert json.loads((directory / "config.json").read_text())["rope_theta"] == 10_000  # for other programs


def test_a_conversion_shows_no_bar(converting: list[int], capfd: pytest.CaptureFixture[str]) -> None:
    embedded.embedded_directory()
    assert len(converting) == 1 and "Writing model shards" not in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["weights", "config", "tokenizer", "missing", "more", "half", "layout", "link"])
def test_a_damaged_conversion_is_made_anew_and_that_is_said(
    converting: list[int], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    directory = embedded.embedded_directory()
    whole = (directory / "model.safetensors").read_bytes()
    manifest = directory / "checksums.json"
    if damage == "weights":
        a_bit(directory / "model.safetensors")
    elif damage == "config":
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    elif damage == "tokenizer":
        (directory / "tokenizer.json").write_text("{}")
    elif damage == "missing":
        (directory / "tokenizer_config.json").unlink()
    elif damage == "more":
        (directory / "adapter_config.json").write_text("{}")
    elif damage == "half":
        for path in directory.iterdir():
            if path.name != "config.json":
                path.unlink()
    elif damage == "layout":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "layout": 1}))
    else:
        shutil.copyfile(directory / "config.json", directory.parent / "config.json")
        (directory / "config.json").unlink()
        (directory / "config.json").symlink_to("../config.json")
    with caplog.at_level(logging.WARNING, "secateur"):
        assert embedded.embedded_directory() == directory
    assert len(converting) == 2
    assert len(caplog.messages) == 1 and "made anew" in caplog.messages[0]
    assert (directory / "model.safetensors").read_bytes() == whole
    assert json.loads((directory / "config.json").read_text())["rms_norm_eps"] < 0.1


def test_a_conversion_that_is_interrupted_leaves_nothing_that_is_believed(
    converting: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(embedded, "write_json", stopped)
        with pytest.raises(KeyboardInterrupt):
            embedded.embedded_directory()
    directory = embedded.embedded_directory()
    assert len(converting) == 2 and (directory / "checksums.json").is_file()
