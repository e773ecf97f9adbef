"""`secateur search` and `secateur prune --plan` from the command line."""

import json
from pathlib import Path

import pytest
from test_commands import QUICK_PRUNE, done, failed, secateur

QUICK_SEARCH = [*QUICK_PRUNE, "--rounds", "2"]


@pytest.fixture
def tiny(tiny_model, tiny_tokenizer, tmp_path: Path, private_cache: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.slow
def test_a_search_and_the_cut_by_its_plan(tiny: Path, tmp_path: Path) -> None:
    found = tmp_path / "found"
    text = done(secateur("search", tiny, "-o", found, *QUICK_SEARCH, "--json", tmp_path / "s.json")).output
    assert "(the plan)" in text
    assert f"--plan {found / 'pruning_plan.json'}" in text
    figures = json.loads((tmp_path / "s.json").read_text())
    assert len(figures["rounds"]) == 2
    assert figures["rounds"] == json.loads((found / "search.json").read_text())["rounds"]
    plan = found / "pruning_plan.json"
    options = QUICK_PRUNE[2:]
    done(secateur("prune", tiny, "-o", tmp_path / "pruned", "--plan", plan, *options))
    wanted, cut = (json.loads(file.read_text()) for file in (plan, tmp_path / "pruned" / "pruning_plan.json"))
    assert cut["parameters_after"] == wanted["parameters_after"]
    assert "already holds something" in failed(secateur("search", tiny, "-o", found, *QUICK_SEARCH))
    assert "holds" in failed(secateur("prune", tiny, "-o", found, "--plan", plan, *options, "--overwrite"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["search", "--rounds", "0"], "--rounds 0: input should be greater than or equal to 1", 2),
        (["search", "--ratio", "0.99"], "more than can be removed", 1),
        (["prune", "--plan", "none.json"], "none.json cannot be read", 1),
        (["prune", "--plan", "p.json", "--ratio", "0.3"], "the plan decides that; leave out --ratio, or the plan", 2),
    ],
)
def test_bad_input_gets_one_line(tiny: Path, tmp_path: Path, arguments: list[str], message: str, status: int) -> None:
    command, *options = arguments
    quick = ["--samples", "4", "--seqlen", "32", "--device", "cpu"]
    assert message in failed(secateur(command, tiny, "-o", tmp_path / "out", *quick, *options), status)
