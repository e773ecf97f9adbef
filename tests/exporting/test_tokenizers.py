"""Tokenizers in llama.cpp and in Transformers: the same tokens of varied text, or a refusal."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from exporting_helpers import LlamaCpp, byte_tokenizer
from family_models import make_family
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.data import load_corpus
from secateur.errors import ModelError
from secateur.exporting import require_exportable
from secateur.exporting.pre_tokenizers import GPT2, GPT4O, LLAMA3, QWEN2, TEKKEN
from secateur.models.gguf_input.tokenizer import QWEN35

TEXTS = [
    "Hello world",
    "  two  spaces\n\nand\t tabs \n ",
    "I'm sure it's 1234567 o'clock, WE'LL see, don't DON'T can’t",
    "naïve café Straße ÉCOLE",
    "日本語のテキスト 中文 한국어",
    "emoji 😀👍🏽 end",
    "mixedCase HTTPServer iPhone",
    "x = foo(bar)[1:2] // comment/\n",
    "1.5e-10 ٣٤ ½ Ⅷ 100,000.00€ #tag @user",
    " ",
    "\n\n\n",
    "\u200bzero\u00a0nbsp",
    *(load_corpus("pydocs").text[start : start + 400] for start in range(0, 20_000, 4_000)),
]


def splitting(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
DIGITS = pre_tokenizers.Digits(individual_digits=True)
RULES = {
    "gpt-2": (WORDS, False),
    "smollm": (pre_tokenizers.Sequence([DIGITS, WORDS]), False),
    "llama-bpe": (splitting(LLAMA3), True),
    "smaug-bpe": (splitting(LLAMA3), False),
    "qwen2": (splitting(QWEN2), False),
    "qwen35": (splitting(QWEN35), False),
    "gpt-4o": (splitting(GPT4O), False),
    "tekken": (splitting(TEKKEN), True),
}


@pytest.fixture
def model(tiny_model: Callable[..., PreTrainedModel]) -> Callable[[int], PreTrainedModel]:
    return lambda size: tiny_model("llama", vocab_size=size, num_hidden_layers=1, bos_token_id=0, pad_token_id=None)


def exported(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, file: Path) -> tuple[str, LlamaCpp]:
    return secateur.export(model, tokenizer, file).pre_tokenizer, LlamaCpp(file)


@pytest.mark.parametrize("name", RULES)
def test_byte_level_rules(name: str, model: Callable[[int], PreTrainedModel], tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(*RULES[name], size=1000)
    found, llama_cpp = exported(model(1000), tokenizer, tmp_path / "model.gguf")
    assert found == name
    for text in TEXTS:
        assert llama_cpp.tokens(text) == tokenizer(text).input_ids, text


def test_a_rule_that_transformers_does_not_read(model: Callable[[int], PreTrainedModel], tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(*RULES["qwen35"], size=1000)
    secateur.export(model(1000), tokenizer, tmp_path / "model.gguf")
    again = secateur.load(tmp_path / "model.gguf")[1]
    for text in TEXTS:
        assert again(text).input_ids == tokenizer(text).input_ids, text


def test_the_words_of_gpt2_spelled_out() -> None:
    config, tokenizer = _config(), byte_tokenizer(splitting(GPT2))
    require_exportable(config, tokenizer)


def test_special_and_added_tokens(model: Callable[[int], PreTrainedModel], tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(WORDS)
    tokenizer.add_tokens(["<tool>"])
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
    )
    _, llama_cpp = exported(model(301), tokenizer, tmp_path / "model.gguf")
    for text in ("Hello", "a<bos>b", "call <tool> now"):
        assert llama_cpp.tokens(text) == tokenizer(text).input_ids
        assert llama_cpp.tokens(text, special=False)[0] != 0


def test_a_file_read_back_has_its_tokens_and_no_more(model: Callable[[int], PreTrainedModel], tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(WORDS)  # has no <|endoftext|>
    secateur.export(model(len(tokenizer)), tokenizer, tmp_path / "model.gguf")
    _, again = secateur.load(tmp_path / "model.gguf")
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.special_tokens_map == tokenizer.special_tokens_map
    for text in (*TEXTS, "a<bos>b<|endoftext|>"):
        assert again(text).input_ids == tokenizer(text).input_ids
    again.save_pretrained(tmp_path / "saved")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "saved")) == len(tokenizer)


def pieces_tokenizer(as_metaspace: bool = False, drop: int | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2 has it: ▁ for spaces, bytes for unknown characters, every way to merge a piece listed.

    Args:
        as_metaspace: put ▁ by a pre-tokenizer, as newer files do.
        drop: leave out this merge.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁")
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False)
    trained.train_from_iterator([load_corpus("pydocs").text[:200_000].replace("\n", " ")], trainer)
    learned = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    # As in SentencePiece's files, single characters stand behind the pieces.
    pieces = [piece for piece in learned if len(piece) > 1] + [piece for piece in learned if len(piece) == 1]
    vocabulary = {token: index for index, token in enumerate([*special, *pieces])}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    if drop is not None:
        del merges[drop]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    if as_metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special[:3]])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


@pytest.mark.parametrize("as_metaspace", [False, True])
def test_pieces(as_metaspace: bool, model: Callable[[int], PreTrainedModel], tmp_path: Path) -> None:
    tokenizer = pieces_tokenizer(as_metaspace)
    _, llama_cpp = exported(model(len(tokenizer)), tokenizer, tmp_path / "model.gguf")
    for text in TEXTS:
        # With Metaspace a text that begins with a space gets one ▁ less than in llama.cpp; a warning says so.
        if not (as_metaspace and text.startswith(" ")):
            assert llama_cpp.tokens(text) == tokenizer(text).input_ids, text


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as Gemma has it: no ▁ before a text, and runs of spaces that are added tokens as well."""
    tokenizer = changed(pieces_tokenizer(), normalizer=normalizers.Replace(" ", "▁"))
    tokenizer._tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    content = json.loads(tokenizer._tokenizer.to_str())
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    runs = ["▁" * length for length in range(2, 8)]
    vocabulary.update({run: len(vocabulary) + index for index, run in enumerate(runs)})
    merges.extend(["▁" * cut, run[cut:]] for run in runs for cut in range(1, len(run)))
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer._tokenizer.add_tokens([AddedToken(run, normalized=False) for run in runs])
    return tokenizer


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text"])
def test_pieces_without_a_space_before_the_text(family: str, tmp_path: Path) -> None:
    tokenizer = gemma_tokenizer()
    tiny = make_family(family, vocab_size=len(tokenizer))
    _, llama_cpp = exported(tiny, tokenizer, tmp_path / "model.gguf")
    again = secateur.load(tmp_path / "model.gguf")[1]
    for text in (*TEXTS, "a     b          c", "▁▁▁ as it stands", "<s>after"):
        assert llama_cpp.tokens(text) == tokenizer(text).input_ids, text
        assert again(text).input_ids == tokenizer(text).input_ids, text


def _config() -> object:
    from transformers import LlamaConfig

    return LlamaConfig(vocab_size=1000)


def refused(tokenizer: PreTrainedTokenizerFast) -> str:
    with pytest.raises(ModelError) as caught:
        require_exportable(_config(), tokenizer)
    return str(caught.value)


def changed(tokenizer: PreTrainedTokenizerFast, **parts: object) -> PreTrainedTokenizerFast:
    for name, part in parts.items():
        setattr(tokenizer._tokenizer, name, part)
    return tokenizer


def test_tokenizers_that_llama_cpp_lacks_are_refused() -> None:
    unknown = byte_tokenizer(splitting(r"\p{L}+|\p{N}{1,2}"))
    assert r"splits text by \p{L}+|\p{N}{1,2}; llama.cpp's names" in refused(unknown)
    assert "takes known words whole" in refused(byte_tokenizer(WORDS, ignore_merges=True))
    assert "add_prefix_space" in refused(byte_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=True)))
    lower = changed(byte_tokenizer(WORDS), normalizer=normalizers.Lowercase())
    assert "rewrites text first (Lowercase)" in refused(lower)
    template = processors.TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", 1)])
    assert "can add a begin and an end token only" in refused(changed(byte_tokenizer(WORDS), post_processor=template))
    words = Tokenizer(models.WordLevel({"a": 0, "<eos>": 1}, unk_token="a"))
    kind = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    assert "of the type WordLevel; only BPE" in refused(kind)
    endless = byte_tokenizer(WORDS)
    endless.eos_token = None
    assert "names no end token" in refused(endless)
    assert "do not merge although" in refused(pieces_tokenizer(drop=5))
    prepended = changed(pieces_tokenizer(), normalizer=normalizers.Prepend("▁"))
    assert "does not put one ▁ before a text" in refused(prepended)


def test_a_tokenizer_without_merges_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    assert "has no merges" in refused(tiny_tokenizer)
