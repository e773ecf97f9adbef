"""`secateur export` and the recipe's section: files, messages, status; what cannot work is refused at the start."""

import json
from pathlib import Path

import pytest
import torch
from exporting_helpers import LlamaCpp, command, done, failed, log_probabilities
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import secateur
from secateur.data import load_corpus
from secateur.errors import InputError, ModelError
from secateur.models import attach_adapter
from secateur.recovery import merge_adapter
from secateur.runs.recipe import Recipe, parse_recipe
from secateur.runs.stages import run_recipe
from uneven import cut_unevenly

PROMPT = [3, 70, 80, 90, 100]


@pytest.fixture
def tiny(tiny_model, small_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, private_cache: Path) -> Path:
    return secateur.save(made(tiny_model), small_tokenizer, tmp_path / "tiny")


def made(tiny_model) -> PreTrainedModel:
    return tiny_model(vocab_size=300, bos_token_id=0, eos_token_id=1, pad_token_id=1)


def close(file: Path, model: PreTrainedModel) -> bool:
    expected = log_probabilities(model, PROMPT)
    found = LlamaCpp(file).next_log_probabilities(PROMPT, len(expected))
    return max(abs(float(expected[token]) - value) for token, value in found.items()) < 0.01


def test_an_uneven_directory_becomes_a_file(tiny_model, small_tokenizer, tiny: Path, tmp_path: Path) -> None:
    model = cut_unevenly(made(tiny_model))
    secateur.save(model, small_tokenizer, tmp_path / "uneven")
    file, figures = tmp_path / "out" / "model.gguf", tmp_path / "figures.json"
    printed = done(command("export", tmp_path / "uneven", "-o", file, "--json", figures))
    assert "architecture deci, widths layer by layer; text is split as gpt-2" in printed
    assert printed.rstrip().endswith(str(file))
    assert close(file, model)
    assert json.loads(figures.read_text())["bytes"] == file.stat().st_size
    assert [each.name for each in file.parent.iterdir()] == ["model.gguf"]


def test_an_even_file_is_measured_like_its_model(tiny: Path, tmp_path: Path) -> None:
    file, figures = tmp_path / "model.gguf", tmp_path / "figures.json"
    done(command("export", tiny, "-o", file))
    quick = ["--windows", 4, "--seqlen", 32, "--device", "cpu", "--dtype", "float32", "--no-speed"]
    done(command("evaluate", tiny, file, "--json", figures, *quick))
    directory, gguf = (row["perplexity"]["pydocs"] for row in json.loads(figures.read_text())["models"])
    assert gguf == pytest.approx(directory, rel=0.01)


@pytest.mark.slow
def test_an_adapter_is_merged_or_named(tiny: Path, tmp_path: Path) -> None:
    adapter, file = tmp_path / "adapter", tmp_path / "model.gguf"
    quick = ["--samples", 16, "--seqlen", 32, "--val-size", 0, "--device", "cpu", "--lr", "1e-2"]
    done(command("recover", tiny, "-o", adapter, *quick))
    assert "it is a LoRA adapter: merge it first" in failed(command("export", adapter, "-o", file))
    done(command("export", tiny, "--adapter", adapter, "-o", file))
    model, _ = secateur.load(tiny, dtype="float32", device="cpu")
    assert not close(file, model)
    assert close(file, attach_adapter(model, adapter))

    done(command("sparsify", tiny, "-o", tmp_path / "sparse", "--samples", 4, "--seqlen", 32, "--device", "cpu"))
    message = failed(command("export", tmp_path / "sparse", "--adapter", adapter, "-o", tmp_path / "other.gguf"))
    assert "zeros, which a merged adapter would fill" in " ".join(message.split())
    done(command("export", tmp_path / "sparse", "--adapter", adapter, "-o", tmp_path / "kept.gguf", "--zeros", "keep"))
    sparse, _ = secateur.load(tmp_path / "sparse", dtype="float32", device="cpu")
    assert close(tmp_path / "kept.gguf", merge_adapter(sparse, adapter, zeros="keep"))


def test_an_adapter_on_the_head_of_tied_embeddings(tiny_model, tiny: Path, tmp_path: Path) -> None:
    settings = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"], use_dora=True)
    adapted = get_peft_model(made(tiny_model), settings).eval()
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    adapted.save_pretrained(str(tmp_path / "adapter"))
    done(command("export", tiny, "--adapter", tmp_path / "adapter", "-o", tmp_path / "model.gguf"))
    assert close(tmp_path / "model.gguf", adapted) and not close(tmp_path / "model.gguf", made(tiny_model))
    done(command("merge", tiny, "--adapter", tmp_path / "adapter", "-o", tmp_path / "merged", "--device", "cpu"))
    merged, _ = secateur.load(tmp_path / "merged", dtype="float32", device="cpu")
    assert close(tmp_path / "model.gguf", merged)


def test_where_a_file_may_not_go(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    assert "does not end in .gguf" in failed(command("export", tiny, "-o", tmp_path / "model.bin"), 2)
    assert "is a directory; name a file" in failed(command("export", tiny, "-o", tmp_path))
    done(command("export", tiny, "-o", file))
    before = file.read_bytes()
    assert "is there already; name another file or pass --overwrite" in failed(command("export", tiny, "-o", file))
    message = failed(command("export", file, "-o", file, "--overwrite"))
    assert "is read by this very command" in message
    assert "did you mean q4_k_m" in failed(command("export", tiny, "-o", tmp_path / "q4.gguf", "--dtype", "q4_k_mm"), 2)
    assert file.read_bytes() == before
    done(command("export", tiny, "-o", file, "--overwrite", "--dtype", "bf16"))
    assert file.read_bytes() != before


def test_unsupported_models_and_tokenizers(tiny: Path, tiny_tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save_pretrained(tiny)
    message = failed(command("export", tiny, "-o", tmp_path / "model.gguf"))
    assert "the tokenizer has no merges" in message
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    assert "'gpt2' is not supported" in failed(command("export", tiny, "-o", tmp_path / "model.gguf"))


@pytest.fixture
def recipe(tiny: Path, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text(load_corpus("pydocs").text[:5000])

    def make(**sections: dict[str, object]) -> Recipe:
        return Recipe(
            model=str(tiny),
            device="cpu",
            dtype="float32",
            prune={"ratio": 0.2, "samples": 4, "seqlen": 32, "calibration": str(text)},
            evaluate={"data": [str(text)], "windows": 2, "seqlen": 32, "speed": False},
            samples={"prompts": ["Once"], "max_new_tokens": 1},
            recover={"data": str(text), "samples": 16, "seqlen": 32, "val_size": 0},
            **sections,
        )

    return make


@pytest.mark.slow
def test_a_run_exports_its_last_model(recipe, tmp_path: Path) -> None:
    path = tmp_path / "run"
    metrics = run_recipe(recipe(export={}), "text", path, command_line="secateur run r.yaml")
    file = path / "export" / "model.gguf"
    assert metrics["export"]["bytes"] == file.stat().st_size
    assert {"purpose": "The export", "command": "secateur export pruned --adapter recovered -o model.gguf"} in metrics[
        "commands"
    ]
    base, _ = secateur.load(path / "prune", dtype="float32", device="cpu")
    assert close(file, attach_adapter(base, path / "recover"))
    changed = file.stat().st_mtime_ns
    run_recipe(recipe(export={}), "text", path, command_line="secateur run r.yaml")
    assert file.stat().st_mtime_ns == changed
    run_recipe(recipe(export={"dtype": "q8_0"}), "text", path, command_line="secateur run r.yaml")
    assert file.stat().st_mtime_ns != changed


def test_a_run_whose_export_cannot_work_does_not_begin(recipe, tiny: Path, tiny_tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save_pretrained(tiny)
    with pytest.raises(ModelError, match="has no merges"):
        run_recipe(recipe(export={}), "text", tmp_path / "run", command_line="secateur run r.yaml")
    assert not (tmp_path / "run").exists()


def test_the_section_export() -> None:
    made = parse_recipe("model: m\ndtype: bfloat16\ntrust_remote_code: true\nexport:\n")
    assert isinstance(made, Recipe) and made.export is not None
    assert (made.export.gguf_dtype, made.export.trust_remote_code) == ("f16", True)
    with pytest.raises(InputError, match=r"export\.adapter is for the command"):
        parse_recipe("model: m\nexport: {adapter: a}\n")
    with pytest.raises(InputError, match=r"export needs whole weights"):
        parse_recipe("model: m\nsparsify:\nrecover: {method: lora}\nexport:\n")
