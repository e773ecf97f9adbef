"""llama.cpp, by the package xllamacpp: what it makes of an exported file."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from json_docs import require_written
from secateur.cli.main import app
from secateur.data import load_corpus

xllamacpp: Any = pytest.importorskip("xllamacpp")


class LlamaCpp:
    """A GGUF file, loaded by llama.cpp.

    Args:
        threads: of a small model two spend their time waiting for each other.
    """

    def __init__(self, file: Path, context: int = 512, threads: int = 1) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel = context, 1
        params.cpuparams.n_threads = threads
        params.warmup, params.verbosity = False, 0
        self.server = xllamacpp.Server(params)
        # A server that is given up before its loop has begun is waited for without end. This goes through the loop.
        self.greedy([0], 1)
        self.visible = self.tokens("a", special=False)[-1]

    def tokens(self, text: str, special: bool = True) -> list[int]:
        """Its own tokens of a text."""
        return self._ask("/tokenize", {"content": text, "add_special": special, "parse_special": special})["tokens"]

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that it writes on, the most probable each time."""
        settings = {"n_predict": count, "temperature": 0, "ignore_eos": True, "return_tokens": True}
        return self._ask("/completion", {"prompt": [int(token) for token in prompt], **settings})["tokens"]

    def templated(self, message: str) -> str:
        """The text that its chat template makes of a user's message, up to the answer."""
        return self._ask("/apply-template", {"messages": [{"role": "user", "content": message}]})["prompt"]

    def next_log_probabilities(self, prompt: Sequence[int], most: int) -> dict[int, float]:
        """Log-probabilities of the `most` probable next tokens."""
        # The server tells no probabilities of a token that is half a character, so that an "a" is made to come next;
        # the probabilities are those before that.
        settings = {"n_predict": 1, "temperature": 0, "n_probs": most, "logit_bias": [[self.visible, 1e4]]}
        answer = self._ask("/completion", {"prompt": [int(token) for token in prompt], **settings})
        return {each["id"]: each["logprob"] for each in answer["completion_probabilities"][0]["top_logprobs"]}

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.server.listening_address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def byte_tokenizer(
    pre_tokenizer: pre_tokenizers.PreTokenizer, ignore_merges: bool = False, size: int = 300
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with these rules."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<bos>", "<eos>"], show_progress=False
    )
    tokenizer.train_from_iterator([load_corpus("pydocs").text[:200_000]], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")


def log_probabilities(model: Any, prompt: Sequence[int]) -> torch.Tensor:
    """Transformers' log-probabilities of the next token, (vocabulary,), in float32."""
    with torch.no_grad():
        return model(torch.tensor([list(prompt)])).logits[0, -1].float().log_softmax(-1)


def command(*arguments: object) -> Result:
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, words)
    if result.exit_code == 0:
        require_written(words)
    return result


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(result: Result, status: int = 1) -> str:
    """What was complained of, whatever lines it was broken into."""
    assert result.exit_code == status, result.output
    return " ".join(result.stderr.split())
