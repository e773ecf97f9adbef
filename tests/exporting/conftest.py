"""A small tokenizer for tiny models."""

import pytest
from exporting_helpers import byte_tokenizer
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def small_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 300 tokens, trained on Python's documentation, split as GPT-2 does."""
    return byte_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=False))
