"""The card that `secateur.save` writes: as the command line's, of what functions have done in memory."""

from pathlib import Path

import pytest
import torch

import secateur
from secateur.errors import OutputError
from secateur.handover import read_lineage
from tiny import make_tiny_model, make_tiny_tokenizer

QUICK = {"windows": 4, "seqlen": 32, "own_text": 0}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    make_tiny_model().save_pretrained(tmp_path / "tiny")
    make_tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    (tmp_path / "tiny/README.md").write_text("---\nlicense: mit\nbase_model: someone/original\n---\n# mine\n")
    (tmp_path / "notes.txt").write_text("The quick brown fox jumps over the lazy dog and runs on. " * 60)
    return tmp_path / "tiny"


@pytest.mark.slow
def test_a_card_tells_what_was_done_in_memory(tiny: Path, tmp_path: Path, private_cache: Path) -> None:
    notes = tmp_path / "notes.txt"
    model, tokenizer = secateur.load(tiny, device="cpu")
    cut = secateur.prune(model, tokenizer, ratio=0.2, data=notes, **QUICK)
    trained = secateur.recover(model, tokenizer, data=notes, method="full", samples=2, seqlen=32, val_size=0)
    secateur.save(trained.model, tokenizer, tmp_path / "out", extras=cut.files())
    text = (tmp_path / "out/README.md").read_text()
    assert "license: mit" in text and "base_model: someone/original" in text
    assert text.index("1. **prune.**") < text.index("2. **recover.**")
    assert "% of all parameters (20.0% asked)" in text and "4 windows of 32 tokens: notes.txt" in text
    assert 'model, tokenizer = secateur.load("tiny")\nsecateur.prune(model, tokenizer, ' in text
    assert "data='notes.txt'" in text and "ratio=0.2" in text and "batch_size" not in text, "defaults are left out"
    assert "secateur.recover(model, tokenizer, method='full'" in text
    assert str(tmp_path) not in text + (tmp_path / "out/lineage.json").read_text()

    again, _ = secateur.load(tmp_path / "out", device="cpu")
    secateur.sparsify(again, None, method="magnitude", sparsity=0.5)
    secateur.save(again, tokenizer, tmp_path / "sparse")
    lineage = read_lineage(tmp_path / "sparse")
    assert lineage is not None and [step.kind for step in lineage.steps] == ["prune", "recover", "sparsify"]


@pytest.mark.slow
def test_what_recover_writes_has_a_card(tiny: Path, tmp_path: Path, private_cache: Path) -> None:
    model, tokenizer = secateur.load(tiny, device="cpu")
    tokens = torch.randint(0, 256, (4, 32))
    secateur.recover(model, tokenizer, tmp_path / "adapter", data=tokens, method="lora", seqlen=32, val_size=0)
    text = (tmp_path / "adapter/README.md").read_text()
    assert "1. **recover.** A LoRA adapter was trained" in text and "base_model: someone/original" in text
    model, _ = secateur.load(tiny, device="cpu")
    merged = secateur.merge(model, tmp_path / "adapter")
    secateur.save(merged, tokenizer, tmp_path / "by-hand")
    assert "1. **merge.**" in (tmp_path / "by-hand/README.md").read_text()


def test_a_card_that_is_not_its_own_is_not_replaced(tiny: Path, tmp_path: Path) -> None:
    model, tokenizer = secateur.load(tiny, device="cpu")
    secateur.save(model, tokenizer, tmp_path / "copy")
    assert not (tmp_path / "copy/README.md").exists(), "nothing was done that a card could tell"
    secateur.sparsify(model, None, method="magnitude")
    secateur.save(model, tokenizer, tmp_path / "own", extras={"README.md": "mine"})
    assert (tmp_path / "own/README.md").read_text() == "mine"
    secateur.save(model, tokenizer, tmp_path / "sparse")
    with (tmp_path / "sparse/README.md").open("a") as card:
        card.write("More.\n")
    with pytest.raises(OutputError, match=r"README\.md"):
        secateur.save(model, tokenizer, tmp_path / "sparse", overwrite=True)
    with pytest.raises(OutputError, match="tiny"):
        secateur.save(model, tokenizer, tiny, overwrite=True)


def test_a_model_that_was_never_on_a_disk(tmp_path: Path) -> None:
    model = make_tiny_model()
    secateur.sparsify(model, None, method="magnitude")
    secateur.save(model, make_tiny_tokenizer(), tmp_path / "out")
    assert "a model in memory, sparse with secateur" in (tmp_path / "out/README.md").read_text().replace("`", "")
