"""Uneven models in a process that has no secateur: Transformers alone loads them and says the same."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from secateur.models import is_uneven, save
from secateur.models.saving import MLX_FAMILIES, MLX_FILE
from secateur.pruning import prune
from tiny import make_tiny_model, make_tiny_tokenizer
from uneven import cut_unevenly

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
SCRIPT = """
import json, sys
sys.modules["secateur"] = None  # importing it fails, as where it is not installed
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
prompt, *directories = sys.argv[1:]
for directory in directories:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, dtype="float32")
    inputs = tokenizer(prompt, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0].tolist()
    generator = pipeline(
        "text-generation", model=directory, tokenizer=directory, trust_remote_code=True, dtype="float32"
    )
    text = generator(prompt, max_new_tokens=16, do_sample=False)[0]["generated_text"]
    print("RESULT " + json.dumps({"tokens": tokens, "text": text, "class": type(model).__name__}))
"""
WAYS = """
import json, sys
sys.modules["secateur"] = None
from pathlib import Path
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM
options = {"trust_remote_code": True, "dtype": "float32"}
tokens = torch.arange(3, 40)[None]
for directory in map(Path, sys.argv[1:]):
    model = AutoModelForCausalLM.from_pretrained(directory, **options)
    with torch.no_grad():
        expected = model(tokens).logits
        base = AutoModel.from_pretrained(directory, **options)
        assert_close(model.lm_head(base(tokens).last_hidden_state), expected)
        assert type(base) is type(model.model) or type(base).__name__ == type(model.model).__name__
        compiled = torch.compile(model, backend="aot_eager")
        assert_close(compiled(tokens, use_cache=False).logits, expected)
        spread = AutoModelForCausalLM.from_pretrained(directory, device_map="auto", **options)
        assert_close(spread(tokens).logits, expected)
        eager = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", **options)
        assert_close(eager(tokens).logits, expected)
        model.set_attn_implementation("eager")
        assert all(layer.self_attn.config._attn_implementation == "eager" for layer in model.model.layers)
    again = directory.with_name(directory.name + "-again")
    model.save_pretrained(again)
    assert (again / "modeling_secateur.py").is_file()
    config = json.loads((again / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}, config["auto_map"]
    assert "model_file" not in config and json.loads((directory / "config.json").read_text())["model_file"]
    assert_close(AutoModelForCausalLM.from_pretrained(again, **options)(tokens).logits, expected)

    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert_close(*gradients)

    tuned = get_peft_model(model.eval(), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    adapted = tuned(tokens).logits
    tuned.save_pretrained(directory.with_name("lora"))
    plain = AutoModelForCausalLM.from_pretrained(directory, **options)
    assert_close(PeftModel.from_pretrained(plain, directory.with_name("lora"))(tokens).logits, adapted)
    print("RESULT", directory.name)
"""


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[PreTrainedModel, Path]]:
    """A model of each family, cut unevenly, and its directory."""
    found = {}
    for family in FAMILIES:
        model, directory = make_tiny_model(family), tmp_path_factory.mktemp("uneven") / family
        prune(model, make_tiny_tokenizer(), ratio=0.3, samples=6, seqlen=48)
        assert is_uneven(model)
        found[family] = (model, save(model, make_tiny_tokenizer(), directory))
    return found


def run_without_secateur(script: str, *arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizer_loads_without_code_and_without_a_question(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = save(cut_unevenly(make_tiny_model(family)), make_tiny_tokenizer(), tmp_path / family)
    monkeypatch.delitem(CONFIG_MAPPING._extra_content, f"secateur_{family}")  # as where secateur is not installed

    def ask(question: str) -> str:
        asked.append(question)
        raise EOFError  # as where there is no terminal

    asked: list[str] = []
    monkeypatch.setattr("builtins.input", ask)
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    assert not asked, "Transformers asks only where trust_remote_code is not given"
    unsaid = AutoTokenizer.from_pretrained(directory)
    expected = make_tiny_tokenizer()("Two words, 3 numbers.").input_ids
    assert tokenizer("Two words, 3 numbers.").input_ids == unsaid("Two words, 3 numbers.").input_ids == expected


@pytest.mark.slow
def test_what_people_do_with_a_model(uneven: dict[str, tuple[PreTrainedModel, Path]], tmp_path: Path) -> None:
    """`AutoModel`, `save_pretrained`, `device_map`, `torch.compile`, kinds of attention, gradients, PEFT."""
    directories = [shutil.copytree(directory, tmp_path / directory.name) for _, directory in uneven.values()]
    said = run_without_secateur(WAYS, *directories, cwd=tmp_path)
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("RESULT")] == list(FAMILIES)


@pytest.mark.slow
def test_every_family_loads_generates_and_serves_a_pipeline_without_secateur(
    uneven: dict[str, tuple[PreTrainedModel, Path]], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    prompt = "The for statement"
    inputs = tiny_tokenizer(prompt, return_tensors="pt")
    said = run_without_secateur(SCRIPT, prompt, *(directory for _, directory in uneven.values()), cwd=tmp_path)
    # Transformers may write to the same line before it.
    results = [json.loads(part.splitlines()[0]) for part in said.split("RESULT ")[1:]]
    for (family, (model, _)), result in zip(uneven.items(), results, strict=True):
        expected = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0].tolist()
        assert result["tokens"] == expected, family
        assert result["class"] == type(model).__name__
        assert result["text"] == tiny_tokenizer.decode(expected, skip_special_tokens=True), family


def test_the_file_for_mlx_lm_stands_beside_the_families_that_it_makes(tmp_path: Path) -> None:
    known = set(re.findall(r'"secateur_(\w+)": ', MLX_FILE.read_text()))
    assert known == set(MLX_FAMILIES)
    for family in ("qwen3", "olmo2"):
        save(cut_unevenly(make_tiny_model(family)), make_tiny_tokenizer(), tmp_path / family)
        config = json.loads((tmp_path / family / "config.json").read_text())
        assert ("model_file" in config) == (tmp_path / family / MLX_FILE.name).exists() == (family in MLX_FAMILIES)
