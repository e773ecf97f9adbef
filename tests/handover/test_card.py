"""Model cards: what each command tells, the whole chain, metadata that the hub reads, nobody's paths."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from secateur.console import command_text
from secateur.errors import InputError, OutputError
from secateur.exporting import ExportConfig
from secateur.files import is_as_written, replace_own
from secateur.handover.base import lineage_of
from secateur.handover.card import card_text
from secateur.handover.lineage import Base, Lineage, Step, read_lineage
from secateur.handover.plain import markdown, shared_command, without_places
from secateur.models import embedded
from secateur.pruning import PruneConfig
from secateur.recovery import MergeConfig, RecoverConfig
from secateur.runs.steps import export_model, merge_model, prune_model, recover_model, sparsify_model
from secateur.sparsity import SparsifyConfig
from tiny import make_tiny_model, make_tiny_tokenizer

CARD = "---\nlicense: mit\nlanguage: [en, de]\nbase_model: someone/original\n---\n# mine\n"
QUICK: dict[str, Any] = {"samples": 4, "seqlen": 32, "device": "cpu", "calibration": "pydocs[:5%]"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a card of its own, pruned; an adapter for it; both merged."""
    root = tmp_path_factory.mktemp("home-of-someone")
    make_tiny_model().save_pretrained(root / "tiny")
    make_tiny_tokenizer().save_pretrained(root / "tiny")
    (root / "tiny" / "README.md").write_text(CARD)
    notes = root / "notes.txt"
    notes.write_text("The quick brown fox jumps over the lazy dog and runs on through the woods. " * 40)
    prune = PruneConfig(ratio=0.2, own_text=0, **{**QUICK, "calibration": str(notes)})
    line = command_text("secateur", "prune", str(root / "tiny"), "-o", str(root / "pruned"), config=prune)
    prune_model(str(root / "tiny"), root / "pruned", prune, command_line=line)
    recover = RecoverConfig(
        method="lora", data=str(notes), samples=8, seqlen=32, val_size=0, device="cpu", extra_eval=[str(notes)]
    )
    words = ("secateur", "recover", str(root / "pruned"), "-o", str(root / "adapter"))
    recover_model(str(root / "pruned"), root / "adapter", recover, command_line=command_text(*words, config=recover))
    merge = MergeConfig(adapter=str(root / "adapter"), device="cpu")
    merge_model(str(root / "pruned"), root / "merged", merge, command_line="secateur merge pruned -o merged")
    return root


def metadata(directory: Path) -> dict[str, Any]:
    """What the hub reads of a card."""
    found = REGEX_YAML_BLOCK.search((directory / "README.md").read_text(encoding="utf-8"))
    assert found
    return yaml.safe_load(found[2])


def test_a_card_tells_the_whole_chain(chain: Path) -> None:
    text = (chain / "merged/README.md").read_text(encoding="utf-8")
    steps = [text.index(f"{number}. **{kind}.**") for number, kind in enumerate(("prune", "recover", "merge"), 1)]
    assert steps == sorted(steps)
    assert "20.3% of all parameters (20.0% asked)" in text
    assert "4 windows of 32 tokens: notes.txt" in text
    assert "| 1 | parameters | 189,184 | 150,784 |" in text
    assert "| 2 | perplexity |" in text and "notes.txt, 3" in text
    assert "secateur prune tiny -o pruned" in text and "--data notes.txt" in text
    assert "states it, is `mit`" in text
    lineage = read_lineage(chain / "merged")
    assert lineage is not None and [step.kind for step in lineage.steps] == ["prune", "recover", "merge"]


@pytest.mark.parametrize("name", ["pruned", "adapter", "merged"])
def test_nobody_can_read_where_it_was_made(chain: Path, name: str) -> None:
    for file in ("README.md", "lineage.json"):
        text = (chain / name / file).read_text(encoding="utf-8")
        assert str(chain) not in text and "home-of-someone" not in text and str(Path.home()) + "/" not in text


def test_metadata_is_what_the_hub_reads(chain: Path) -> None:
    told = metadata(chain / "pruned")
    assert told["license"] == "mit" and told["language"] == ["en", "de"]
    assert told["base_model"] == "someone/original", "the cut model's own base: where it is itself is not known"
    assert "base_model_relation" not in told
    assert told["library_name"] == "transformers" and told["pipeline_tag"] == "text-generation"
    assert {"secateur", "pruned", "custom_code"} <= set(told["tags"])
    assert "model-index" not in told, "nothing was measured"
    adapter = metadata(chain / "adapter")
    assert adapter["library_name"] == "peft"
    assert "base_model" not in adapter, "it fits the pruned model alone"
    (result,) = adapter["model-index"][0]["results"]
    history = json.loads((chain / "adapter/recovery.json").read_text())["history"]
    assert result["metrics"][0]["value"] == round(next(iter(history[-1]["perplexity"].values())), 4)
    assert ModelCard.load(chain / "merged/README.md").data.to_dict()["license"] == "mit"


def test_every_engine_that_opens_it_has_its_code(chain: Path) -> None:
    text = (chain / "merged/README.md").read_text(encoding="utf-8")
    for code in (
        'AutoModelForCausalLM.from_pretrained("merged", trust_remote_code=True)',
        'AutoTokenizer.from_pretrained("merged", trust_remote_code=False)',
        "vllm serve merged --trust-remote-code",
        "mlx_lm.generate --model merged --trust-remote-code",
        "secateur export merged -o model.gguf",
    ):
        assert code in text
    adapter = (chain / "adapter/README.md").read_text(encoding="utf-8")
    assert 'PeftModel.from_pretrained(model, "adapter")' in adapter and 'secateur.load("pruned")' in adapter


def test_the_code_of_a_card_runs(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(chain)
    text = (chain / "adapter/README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert type(names["model"]).__name__ == "PeftModelForCausalLM"


def test_a_changed_card_is_not_replaced(chain: Path, tmp_path: Path) -> None:
    config = SparsifyConfig(method="magnitude", device="cpu")
    sparsify_model(str(chain / "tiny"), tmp_path / "sparse", config, command_line="secateur sparsify tiny -o sparse")
    card = tmp_path / "sparse/README.md"
    assert "50.0% of those in 28 matrices" in card.read_text()
    assert "No text was needed" in card.read_text()
    card.write_text("my own words")
    with pytest.raises(OutputError, match=r"holds README\.md, which secateur did not write, or not as it is"):
        sparsify_model(str(chain / "tiny"), tmp_path / "sparse", config, command_line="", overwrite=True)
    replace_own(tmp_path / "sparse", {"README.md": "secateur's", "lineage.json": "{}"})
    assert card.read_text() == "my own words"
    assert is_as_written(tmp_path / "sparse", "lineage.json") and not is_as_written(tmp_path / "sparse", "README.md")


def test_an_exported_directory_has_a_card(tmp_path: Path) -> None:
    make_tiny_model(intermediate_size=256, head_dim=8).save_pretrained(tmp_path / "tiny")
    make_tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    export_model(str(tmp_path / "tiny"), tmp_path / "nas", ExportConfig(format="nemotron-nas"))
    text = (tmp_path / "nas/README.md").read_text()
    assert "DeciLMForCausalLM" in text and "vllm serve nas --trust-remote-code" in text
    assert "sglang" in text and "AutoModelForCausalLM" not in text
    assert "states no licence" in text and "license" not in metadata(tmp_path / "nas")


def test_the_embedded_model_is_named_by_its_hub_id() -> None:
    lineage = lineage_of(embedded.NAME, Path("nowhere"))
    assert lineage.base.hub_id == embedded.HUB_ID
    assert lineage.base.license == "apache-2.0" and lineage.base.language == ["en"]


@pytest.mark.parametrize(
    ("name", "path", "hub_id"),
    [
        ("org/name", "cache/models--org--name/snapshots/abc", "org/name"),
        ("cache/models--org--name/snapshots/abc", "cache/models--org--name/snapshots/abc", "org/name"),
        ("plain", "plain", None),
    ],
)
def test_where_a_base_is_on_the_hub(
    name: str, path: str, hub_id: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(path).mkdir(parents=True)
    assert lineage_of(name, Path(path)).base.hub_id == hub_id


@pytest.mark.parametrize("front", ["license: [", "- a\n- b", "license: {a: 1}\nlanguage: 3\nbase_model: ../x", ""])
def test_a_foreign_card_that_says_nothing_usable(front: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\nText")
    base = lineage_of(tmp_path, tmp_path).base
    assert (base.license, base.language, base.made_from) == (None, [], [])


# What would end a link in the card, or begin another.
LINKS = [
    '{"base": {"name": "x", "hub_id": "a](http://x)"}}',
    '{"base": {"name": "x", "made_from": ["a b"]}}',
    '{"base": {"name": "x", "license_link": "https://x) <b>"}}',
    '{"base": {"name": "x", "license_link": "javascript:1"}}',
]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"base": 1}', '{"base": {"name": "x"}, "steps": [{"kind": "burn"}]}', *LINKS]
)
def test_a_damaged_lineage_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text(content)
    with pytest.raises(InputError, match=r"lineage\.json is damaged: [^:].*delete it"):
        lineage_of(tmp_path, tmp_path)


def test_what_a_lineage_says_is_text_and_no_markup(tmp_path: Path) -> None:
    make_tiny_model().save_pretrained(tmp_path)
    step = Step(
        kind="prune", command="secateur prune\n```\n<script>", what="<b>[all](http://x)</b>\n# gone", version="1"
    )
    text = card_text(tmp_path, Lineage(base=Base(name="a`b\n---\nlicense: mit"), steps=[step]), 'pl"ace; rm')
    assert r"\<b\>\[all\](http://x)\</b\> \# gone" in text
    assert text.count("```") % 2 == 0 and "license: mit" not in text.split("---")[1]
    assert "vllm serve 'pl\"ace; rm'" in text and 'from_pretrained("pl\\"ace; rm")' in text


@pytest.mark.parametrize(
    ("command", "shared"),
    [
        ("secateur prune /home/me/m -o ~/out/p --ratio 0.2", "secateur prune m -o p --ratio 0.2"),
        ("secateur recover m --data=/a/b/c.jsonl[:80%],d.txt", "secateur recover m '--data=c.jsonl[:80%],d.txt'"),
        ("secateur recover m --data /a/b.jsonl:0.7,/a/c.txt:0.3", "secateur recover m --data b.jsonl:0.7,c.txt:0.3"),
        (r"secateur merge 'C:\Users\me\m' --adapter ../a", "secateur merge m --adapter a"),
        ("secateur evaluate org/name out/pruned", "secateur evaluate org/name out/pruned"),
    ],
)
def test_commands_without_places(command: str, shared: str) -> None:
    assert shared_command(command) == shared


def test_texts_without_places() -> None:
    assert (
        without_places("from /home/me/a.txt, 3 / 4, org/name, https://x/y")
        == "from a.txt, 3 / 4, org/name, https://x/y"
    )
    assert markdown("a_b\n| c") == r"a\_b \| c"
