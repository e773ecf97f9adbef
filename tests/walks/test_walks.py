"""The three walks, on tiny models: what each person would look at in the end is there."""

import json
import runpy
import shlex
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import secateur
from secateur.cli.main import app
from tiny import make_tiny_model, make_tiny_tokenizer

HERE = Path(__file__).parent
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SMALL = {
    "prune": "--samples 4 --seqlen 32 --own-text 0",
    "recover": "--samples 8 --seqlen 64 --val-size 2",
    "evaluate": "--windows 4 --seqlen 32 --prompt-tokens 8 --new-tokens 2 --repeats 1",
    "chat": "--max-new-tokens 4",
}
MODEL = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture
def place(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a checkpoint, conversations and a text, where people type."""
    monkeypatch.chdir(tmp_path)
    tokenizer = make_tiny_tokenizer([("s", "q"), ("i", "s")])
    tokenizer.chat_template = TEMPLATE
    model = make_tiny_model(vocab_size=261)
    text = " ".join(f"{number} is no prime." for number in range(400))
    Path("notes.txt").write_text(text, encoding="utf-8")
    # So that it knows more than one that guesses, as `diagnose` expects.
    secateur.recover(model, tokenizer, data="notes.txt", method="full", samples=64, seqlen=32, val_size=0, lr=3e-3)
    secateur.save(model, tokenizer, "model")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {number} squared?"},
                {"role": "assistant", "content": f"{number} squared is {number * number}."},
            ]
        }
        for number in range(40)
    ]
    Path("chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def walk(script: str) -> dict[str, str]:
    """Type every line of a script, at a small size. Returns what each printed, errors and all."""
    printed: dict[str, str] = {}
    for line in (HERE / script).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        _, command, *rest = shlex.split(line)
        options = [*shlex.split(SMALL.get(command, "")), *(MODEL if command in (*SMALL, "diagnose") else ())]
        result = CliRunner().invoke(app, [command, *rest, *options])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        printed[line] = result.output
    return printed


@pytest.mark.slow
def test_her_own_checkpoint_with_chat_data(place: Path) -> None:
    printed = walk("engineer.sh")
    said = {line.split()[1]: text for line, text in printed.items()}
    assert "Trained on" in said["recover"] and "examples" in said["recover"]
    assert "next: secateur recover out/pruned" in said["prune"]
    models = json.loads(Path("after.json").read_text(encoding="utf-8"))["models"]
    assert models[1]["parameters"] < 0.85 * models[0]["parameters"]
    assert models[2]["parameters"] == models[1]["parameters"]
    card = Path("out/recovered/README.md").read_text(encoding="utf-8")
    assert "secateur prune" in card and "chats.jsonl" in card and str(place) not in card
    sent, stays = said["push"].lower().split("stays here:")
    assert "readme.md" in sent and ".secateur.json" in stays


@pytest.mark.slow
def test_someone_who_was_given_a_pruned_model(place: Path) -> None:
    model, tokenizer = secateur.load("model", dtype="float32", device="cpu")
    secateur.prune(model, tokenizer, ratio=0.2, calibration="notes.txt", samples=4, seqlen=32, own_text=0)
    secateur.save(model, tokenizer, "given")
    printed = walk("laptop.sh")
    chats = [text for line, text in printed.items() if " chat " in line]
    assert len(chats) == 3 and all("tokens/s" in text for text in chats)
    assert Path("given.gguf").stat().st_size > 0


@pytest.mark.slow
def test_only_python(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = runpy.run_path(str(HERE / "researcher.py"))
    assert list(names["table"]["name"]) == ["uncut", "cut"]
    assert names["watch"].losses and names["trained"].output is None
    assert names["figure"].axes
    AutoModelForCausalLM.from_pretrained("out/cut", trust_remote_code=True)
