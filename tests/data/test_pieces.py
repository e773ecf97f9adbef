"""Tokens made in pieces are those of the text made at once."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from secateur.data import Corpus, load_corpus, token_windows
from secateur.data import pieces as pieces_module
from secateur.data.pieces import pieces_of, token_pieces

pytestmark = pytest.mark.usefixtures("private_cache")

SIZE = 8192
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<s>", "</s>", "<unk>"]


def plain(*documents: str) -> Corpus:
    fingerprint = hashlib.sha256(repr(documents).encode()).hexdigest()
    return Corpus("made.txt", "all", list(documents), [], "made", "made", fingerprint)


def trained(model: object, trainer: object, **parts: object) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator([load_corpus("pydocs").text[:100_000]], trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in SPECIAL[:2]]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", additional_special_tokens=[]
    )


def byte_level(pattern: str | None = None) -> PreTrainedTokenizerFast:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    parts = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    if pattern is not None:
        parts.insert(0, pre_tokenizers.Split(Regex(pattern), "isolated"))
    return trained(models.BPE(), trainer, pre_tokenizer=pre_tokenizers.Sequence(parts), decoder=decoders.ByteLevel())


def metaspace() -> PreTrainedTokenizerFast:
    trainer = trainers.UnigramTrainer(
        vocab_size=1500, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False, max_piece_length=8
    )
    return trained(
        models.Unigram(),
        trainer,
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first"),
        normalizer=normalizers.NFKC(),
    )


def without_words() -> PreTrainedTokenizerFast:
    """As Llama 2's: blanks become letters, and the whole text is one word."""
    alphabet = list(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    split = trained(
        models.BPE(unk_token="<unk>"), trainer, pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always")
    )
    backend = split.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([])
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=SPECIAL, show_progress=False)
    return trained(
        models.WordPiece(unk_token="<unk>"),
        trainer,
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        normalizer=normalizers.BertNormalizer(),
    )


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gpt2": byte_level,
    "llama3": lambda: byte_level(LLAMA3),
    "unigram": metaspace,
    "llama2": without_words,
    "bert": word_piece,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, return_attention_mask=False, verbose=False)["input_ids"]


def prose(seed: int) -> str:
    """Text with what pre-tokenizers look at: runs of blanks, digits, marks and ends of line, and other scripts."""
    chance = random.Random(seed)
    parts = load_corpus("pydocs", "test").text.split("\n\n")
    strange = [
        "\n\n\n",
        " " * 40,
        "\t\t",
        "1234567890" * 5,
        "—…!!!??",
        "größer",
        "日本語の文",
        "😀👩‍👩‍👧",
        "</s>",
        "it's",
        "\n \n",
    ]
    return "".join(chance.choice(parts) + chance.choice(strange) for _ in range(300))


@pytest.mark.parametrize("seed", range(3))
def test_the_ids_are_those_of_the_whole_text(tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    text = prose(seed)
    assert len(text) > 4 * SIZE
    made = list(token_pieces(tokenizer, plain(text), SIZE))
    assert len(made) > 4
    assert np.concatenate(made).tolist() == ids_of(tokenizer, text)


def test_special_tokens_stand_at_the_ends_only(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = np.concatenate(list(token_pieces(tokenizer, plain("some words " * 3000), SIZE))).tolist()
    first, last = (tokenizer.convert_tokens_to_ids(token) for token in SPECIAL[:2])
    assert (ids[0], ids[-1]) == (first, last)
    assert ids.count(first) == ids.count(last) == 1


@pytest.mark.parametrize("line", ["a", "ab", "abcdefgh" * 3 + "x", "1234567", " ", "\n", "=-"])
def test_a_line_that_is_never_split_keeps_every_character(line: str) -> None:
    tokenizer = byte_level()
    text = (line * 40_000)[:40_000]
    ids = np.concatenate(list(token_pieces(tokenizer, plain(text), SIZE)))
    assert tokenizer.decode(ids[1:-1]) == text


def test_a_tokenizer_that_tells_no_places_is_cut_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    text = "some words " * 3000
    monkeypatch.setattr(PreTrainedTokenizerFast, "backend_tokenizer", None)
    assert np.concatenate(list(token_pieces(tokenizer, plain(text), SIZE))).tolist() == ids_of(tokenizer, text)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_pieces_joined_are_the_text(size: int) -> None:
    corpus = plain("ab", "", "cdefg", "h" * 20)
    pieces = list(pieces_of(corpus, size))
    assert "".join(pieces) == corpus.text
    assert {len(piece) for piece in pieces[:-1]} <= {size}


@pytest.mark.slow
def test_a_megabyte_is_never_tokenised_at_once(
    tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "line.txt"
    file.write_text("x" * 1_200_000)
    given: list[int] = []
    call = PreTrainedTokenizerFast.__call__

    def counted(self: PreTrainedTokenizerFast, text: str | list[str], **options: object) -> object:
        given.extend(map(len, [text] if isinstance(text, str) else text))
        return call(self, text, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    windows = token_windows(tiny_tokenizer, load_corpus(str(file)), 1000)
    assert windows.shape == (1200, 1000)
    assert max(given) < 1_000_000


def published() -> str:
    """1.1 MB of made words, lines and numbers, the same for ever."""
    chance = random.Random(5614704)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyzäß", k=1 + rank // 60)) for rank in range(600)]
    return "".join(
        chance.choice(words) + chance.choice([" ", " ", ", ", "\n", "\n\n", " 123 "]) for _ in range(150_000)
    )


@pytest.mark.slow
def test_the_windows_of_a_text_of_1_1_mb_are_those_of_earlier_versions(tmp_path: Path) -> None:
    text = published()
    pairs = ["an", "th", "er", "Ġa", "Ġt", "ab", "cd", "Ã¤", "ĠÃ", "12", "xy", "zz", "an", "q"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(pair[0], pair[1]) for pair in dict.fromkeys(pairs) if len(pair) == 2]
    vocabulary = {symbol: number for number, symbol in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens([AddedToken("<eos>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    file = tmp_path / "text.txt"
    file.write_text(text, encoding="utf-8")
    assert len(text) > 2 * pieces_module.PIECE
    digest = hashlib.sha256()
    for part in ("", "[80%:]"):
        corpus = load_corpus(f"{file}{part}")
        digest.update(corpus.fingerprint.encode())
        for options in ({}, {"limit": 20, "seed": 3}):
            digest.update(token_windows(tokenizer, corpus, 64, **options).numpy().tobytes())
    assert digest.hexdigest() == "88a72f7735d41e206238753bc663d40c65b141d6eb29cd97bcac5d1621617bc3"
