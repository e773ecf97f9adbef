"""What a search is fitted to, judged and priced by, where its text is too large to be tokenised."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from secateur.calibration.windows import Calibration
from secateur.data import corpora, lazy, load_corpus, token_windows
from secateur.pruning.search import SearchConfig
from secateur.pruning.search.text import search_text

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.mark.parametrize("lines", [30_000, 120])
def test_a_search_takes_of_a_large_text_what_its_rounds_can_use(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    file = tmp_path / "text.txt"
    file.write_text("\n".join(f"line {number:08d}" for number in range(lines)))
    monkeypatch.setattr(lazy, "LARGE", 1000)
    monkeypatch.setattr(corpora, "LARGE", 1000)
    given: list[int] = []
    call = PreTrainedTokenizerFast.__call__

    def measured(self: PreTrainedTokenizerFast, text: str | list[str], **options: object) -> object:
        given.extend(map(len, [text] if isinstance(text, str) else text))
        return call(self, text, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", measured)
    config = SearchConfig(calibration=str(file), samples=8, own_text=0, seqlen=32, measured=4, rounds=3, seed=1)
    corpus = load_corpus(str(file))
    windows = token_windows(tiny_tokenizer, corpus, 32, limit=8, seed=1)
    text = search_text(tiny_tokenizer, Calibration(windows, 0, corpus), config)
    assert sum(given) < 60_000
    assert len(text.judged) == 4 and len(text.others) >= 4
    used = torch.cat([text.fitted, text.judged, text.others] if lines > 1000 else [text.fitted, text.judged])
    numbers = [word for window in used for word in set(tiny_tokenizer.decode(window).split()) if len(word) == 8]
    assert len(numbers) == len(set(numbers))  # no line in two windows
