import hashlib
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from secateur.data import Corpus, load_corpus, token_windows
from secateur.errors import DataError, InputError

pytestmark = pytest.mark.usefixtures("private_cache")
SHARED_FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def plain(*documents: str) -> Corpus:
    fingerprint = hashlib.sha256(repr(documents).encode()).hexdigest()
    return Corpus("made.txt", "all", list(documents), [], "made", "made", fingerprint)


@given(text=st.text(min_size=1, max_size=200), seqlen=st.integers(1, 30))
@SHARED_FIXTURES
def test_windows_tile_the_tokens(tiny_tokenizer: PreTrainedTokenizerFast, text: str, seqlen: int) -> None:
    ids = tiny_tokenizer(text)["input_ids"]
    if len(ids) < seqlen:
        with pytest.raises(DataError):
            token_windows(tiny_tokenizer, plain(text), seqlen)
        return
    windows = token_windows(tiny_tokenizer, plain(text), seqlen)
    assert windows.dtype == torch.int64
    assert windows.shape == (len(ids) // seqlen, seqlen)
    assert windows.flatten().tolist() == ids[: windows.numel()]


@given(length=st.integers(1, 120), seqlen=st.integers(1, 40), data=st.data())
@SHARED_FIXTURES
def test_strided_windows_start_every_stride(
    tiny_tokenizer: PreTrainedTokenizerFast, length: int, seqlen: int, data: st.DataObject
) -> None:
    seqlen = min(seqlen, length)
    stride = data.draw(st.integers(1, seqlen))
    text = "".join(chr(33 + n % 90) for n in range(length))
    ids = tiny_tokenizer(text)["input_ids"]
    expected = [ids[start : start + seqlen] for start in range(0, length - seqlen + 1, stride)]
    assert token_windows(tiny_tokenizer, plain(text), seqlen, stride=stride).tolist() == expected


def test_documents_are_joined_by_the_separator(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    windows = token_windows(tiny_tokenizer, plain("ab", "cd"), 6)
    assert tiny_tokenizer.decode(windows[0]) == "ab\n\ncd"


def test_special_tokens_stand_where_the_tokenizer_puts_them(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers.processors import TemplateProcessing

    started = PreTrainedTokenizerFast(
        tokenizer_object=type(tiny_tokenizer.backend_tokenizer).from_str(tiny_tokenizer.backend_tokenizer.to_str()),
        bos_token="<bos>",
    )
    started.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 256)])
    without = token_windows(tiny_tokenizer, plain("abcdef"), 3)
    assert token_windows(started, plain("abcdef"), 3).flatten().tolist() == [
        256,
        *without.flatten().tolist()[:5],
    ]


def test_a_limit_takes_the_first_windows_without_a_seed(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    corpus = plain("some text that is long enough" * 10)
    whole = token_windows(tiny_tokenizer, corpus, 8)
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 8, limit=5), whole[:5])


def test_a_seed_chooses_windows_in_order_and_the_same_each_time(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    corpus = plain("".join(f"{n:08d}" for n in range(100)))
    numbers = [
        [int(str(tiny_tokenizer.decode(w))) for w in token_windows(tiny_tokenizer, corpus, 8, limit=20, seed=seed)]
        for seed in (1, 1, 2)
    ]
    assert numbers[0] == numbers[1] != numbers[2]
    assert numbers[0] == sorted(set(numbers[0])) and len(numbers[0]) == 20
    assert numbers[0] != list(range(20))


def test_fewer_windows_than_asked_for_is_said(
    tiny_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "secateur"):
        assert len(token_windows(tiny_tokenizer, plain("abcdefgh"), 4, limit=7, seed=0)) == 2
    assert "7 windows of made.txt are asked for, and there are 2" in caplog.text


def test_a_text_shorter_than_a_window_is_refused_with_both_lengths(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(DataError, match=r"made\.txt has 5 tokens and one window needs 1,024"):
        token_windows(tiny_tokenizer, plain("abcde"), 1024)


@pytest.mark.parametrize("options", [{"seqlen": 0}, {"stride": 0}, {"stride": 5}, {"limit": 0}])
def test_numbers_outside_their_range_are_refused(
    tiny_tokenizer: PreTrainedTokenizerFast, options: dict[str, int]
) -> None:
    with pytest.raises(InputError):
        token_windows(tiny_tokenizer, plain("abcdefgh"), **{"seqlen": 4, **options})


def cached(directory: Path) -> list[Path]:
    return sorted((directory / "tokens").glob("*.safetensors"))


def test_tokens_are_kept_and_reused_for_every_window_length(
    tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = load_corpus("pydocs[:30%]", "test")
    first = token_windows(tiny_tokenizer, corpus, 32)
    assert len(cached(private_cache)) == 1

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", refuse)
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 32), first)
    halves = first.view(-1, 16)
    assert torch.equal(token_windows(tiny_tokenizer, corpus, 16)[: len(halves)], halves)


def test_another_text_or_tokenizer_does_not_reuse_tokens(
    tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path
) -> None:
    import copy

    token_windows(tiny_tokenizer, plain("abcdefgh"), 4)
    token_windows(tiny_tokenizer, plain("abcdefgi"), 4)
    assert len(cached(private_cache)) == 2
    extended = copy.deepcopy(tiny_tokenizer)
    extended.add_tokens(["cde"])
    assert token_windows(extended, plain("abcdefgh"), 6).tolist()[0][2] == len(tiny_tokenizer)
    assert len(cached(private_cache)) == 3


def test_padding_and_cutting_elsewhere_changes_neither_tokens_nor_key(
    tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path
) -> None:
    first = token_windows(tiny_tokenizer, plain("abcdefgh"), 4)
    tiny_tokenizer("abc", truncation=True, max_length=2, padding="max_length")
    assert torch.equal(token_windows(tiny_tokenizer, plain("abcdefgh"), 4), first)
    assert len(cached(private_cache)) == 1


def test_a_damaged_cache_file_is_made_anew(
    tiny_tokenizer: PreTrainedTokenizerFast, private_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = token_windows(tiny_tokenizer, plain("abcdefgh"), 4)
    (path,) = cached(private_cache)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING, "secateur"):
        assert torch.equal(token_windows(tiny_tokenizer, plain("abcdefgh"), 4), first)
    assert "made anew" in caplog.text
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_only_time(
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv("SECATEUR_CACHE", str(blocked))
    with caplog.at_level(logging.WARNING, "secateur"):
        assert token_windows(tiny_tokenizer, plain("abcdefgh"), 4).shape == (2, 4)
    assert "not kept" in caplog.text
