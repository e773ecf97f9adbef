"""A text longer than the model takes is refused before it is read, whatever would read it."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel

import secateur
from secateur.attention import generate, tune
from secateur.attention.against_dense import compare_with_dense
from secateur.errors import InputError
from secateur.models.context import longest_text
from tiny import make_tiny_model, make_tiny_tokenizer

LONG = "windows of 300 tokens are longer than the 256 that the model takes by its config; pass seqlen=256 or less"


def model_of(rope: dict[str, Any] | None = None) -> PreTrainedModel:
    stretched = {} if rope is None else {"rope_parameters": {"rope_theta": 1e4, **rope}}
    return make_tiny_model(max_position_embeddings=256, **stretched)


@pytest.mark.parametrize(
    "command",
    [
        secateur.prune,
        secateur.sparsify,
        secateur.search,
        secateur.recover,
        secateur.evaluate,
        secateur.diagnose,
        tune,
        lambda *given, **options: compare_with_dense(*given, topk=0.5, **options),
    ],
)
def test_windows(command: Callable[..., object]) -> None:
    with pytest.raises(InputError, match=LONG):
        command(model_of(), make_tiny_tokenizer(), data="/no/such/text.txt", seqlen=300)


def test_a_prompt_leaves_room_for_an_answer_and_the_answer_ends_there() -> None:
    tokenizer = make_tiny_tokenizer()
    with pytest.raises(InputError, match="the prompt has 256 tokens, and the model takes 256 with the answer"):
        generate(model_of(), tokenizer, prompt="a" * 256, topk=0.5)
    written = generate(model_of(), tokenizer, prompt="a" * 253, topk=0.5, max_new_tokens=1000)
    assert written.new_tokens <= 3


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        ({"rope_type": "default"}, 256),
        ({"rope_type": "linear", "factor": 4.0}, 1024),
        ({"rope_type": "dynamic", "factor": 2.0}, 512),
        ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}, 512),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}, 256),
        # Its factor is of wavelengths: what it reaches is max_position_embeddings.
        (
            {
                "rope_type": "llama3",
                "factor": 32.0,
                "original_max_position_embeddings": 64,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            256,
        ),
    ],
)
def test_stretched_positions_count(rope: dict[str, Any], longest: int) -> None:
    assert longest_text(model_of(rope)) == longest


def test_settings_by_kind_of_layer_are_not_read() -> None:
    model = make_tiny_model("gemma3_text")
    assert longest_text(model) == model.config.max_position_embeddings
