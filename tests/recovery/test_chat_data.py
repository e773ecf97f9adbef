"""Training on conversations, and what is told of how much was seen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from typer.testing import CliRunner

from json_docs import require_valid
from secateur.cli.main import app
from secateur.models import save
from secateur.recovery import recover

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ROWS = [
    {"conversations": [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": f"{n} it is."}]} for n in range(8)
]
pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def chatting(tiny_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_recover_tells_what_it_has_seen(
    tiny_model: Callable[..., PreTrainedModel],
    chatting: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    save(tiny_model(), chatting, tmp_path / "model")
    chat = tmp_path / "chat.jsonl"
    chat.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    options = ["--data", str(chat), "--samples", "3", "--val-size", "0", "--seqlen", "64", "--device", "cpu"]
    command = ["recover", str(tmp_path / "model"), "-o", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(app, [*command, "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    require_valid("recover --json", tmp_path / "out.json")
    printed = " ".join(result.output.split())
    figures = json.loads((tmp_path / "out.json").read_text())
    # <user>0?<assistant>0 it is.
    assert (figures["tokens"], figures["sequences"], figures["sequences_given"]) == (3 * 27, 3, 8)
    assert figures["corpus"] == "3 of 8 examples of chat.jsonl"
    assert "Trained on 81 tokens of 3 of 8 examples of chat.jsonl" in printed
    assert json.loads((tmp_path / "out" / "recovery.json").read_text())["settings"]["chat_template"] is None


def test_data_in_memory_is_named_in_the_record(
    tiny_model: Callable[..., PreTrainedModel], chatting: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"samples": 2, "val_size": 0, "seqlen": 64, "extra_eval": [["some text to read " * 8]]}
    result = recover(tiny_model(), chatting, tmp_path / "out", data=Dataset.from_list(ROWS), **options)
    assert result.corpus == "2 of 8 examples of 8 rows in memory"
    settings = json.loads((tmp_path / "out" / "recovery.json").read_text())["settings"]
    assert (settings["data"], settings["extra_eval"]) == ("8 rows in memory", ["1 text in memory"])
