"""Tables of families that do not say what the families' classes do."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from secateur.errors import ModelError
from secateur.models import Adapter, adapters, register, supported_model_types
from secateur.models.adapters import adapter_for
from secateur.models.table_check import check_table

OUTSIDE = Path(__file__).parents[1] / "outside_family"


@pytest.fixture
def brook(monkeypatch: pytest.MonkeyPatch) -> Adapter:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    from brook.families import ADAPTER

    return ADAPTER


@pytest.fixture
def no_families(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Have one entry point, of the value given."""

    def set_entry(value: str) -> None:
        entries = [EntryPoint("brook", value, adapters.ENTRY_POINTS)]
        monkeypatch.setattr(adapters, "entry_points", lambda group: entries)
        adapters._load_entry_points.cache_clear()

    monkeypatch.setattr(adapters, "_registered", dict(adapters._registered))
    monkeypatch.setattr(adapters, "_unchecked", set())
    monkeypatch.setattr(adapters, "_failed", [])
    yield set_entry
    adapters._load_entry_points.cache_clear()


@pytest.mark.parametrize("family", sorted(set(supported_model_types()) - {"gemma4_text"}))  # its defaults are large
def test_the_tables_of_known_families_pass(family: str) -> None:
    check_table(adapter_for(family))


def test_a_right_table_passes(brook: Adapter) -> None:
    check_table(brook)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (0, {"mixer": "nope"}, "has no nope"),
        (0, {"part": "mlp"}, "none of its halves has the part 'attention'"),
        (0, {"inputs": {"wz": ("query",), "wk": ("key",), "wv": ("value",)}}, "attn has no linear projection 'wz'"),
        (0, {"inputs": {"wq": ("query",), "wk": ("key",)}}, "attn has a projection 'wv' that is not named"),
        (0, {"inputs": {"wq": ("key",), "wk": ("query",), "wv": ("value",)}}, "wq has 32 rows, and key would be 16"),
        (0, {"inputs": {"wq": "query", "wk": "key", "wv": "value"}}, "the rows of wq are 'query'"),
        (0, {"inputs": {"wq": ("gated_query",), "wk": ("key",), "wv": ("value",)}}, "0 groups by its inputs"),
        (0, {"output": "w_o"}, "attn has no linear projection 'w_o'"),
        (0, {"output": None}, "do not fit the classes"),
        (0, {"norm": "nope"}, "the layer has no norm 'nope'"),
        (0, {"norm": None}, "layer 0 gives something else than its halves say"),
        (0, {"norm_after": None}, "layer 0 gives something else than its halves say"),
        (0, {"multiplier": "scale"}, "the layer has no 'scale'"),
        (0, {"whole_norms": {"q_norm": "query"}}, "attn has no norm 'q_norm'"),
        (0, {"head_dim": "size"}, r"attn has no number 'size' \(head_dim\)"),
        (0, {"arguments": ("positions",)}, "do not fit the classes"),
        (0, {"of_layers": lambda layer: 1 / 0}, r"do not fit the classes of the family \(division by zero\)"),
        (1, {"inputs": {"w1": ("channel",)}}, "ffn has a projection 'w3' that is not named"),
        (1, {"inputs": {"w1": ("query",), "w3": ("channel",)}}, "the rows of w1"),
        (1, {"norm": "attn_norm"}, "layer 0 gives something else than its halves say"),
        (1, {"parallel": True}, "layer 0 gives something else than its halves say"),
    ],
)
def test_a_half_that_is_another(brook: Adapter, part: int, changes: dict[str, Any], message: str) -> None:
    halves = list(brook.halves)
    halves[part] = replace(halves[part], **changes)
    with pytest.raises(ModelError, match=message) as caught:
        check_table(replace(brook, halves=tuple(halves)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"body_name": "nope"}, r"the model has no module 'nope' \(body_name\)"),
        ({"layers_name": "nope"}, "the decoder has no list of modules 'nope'"),
        ({"final_norm_name": "nope"}, "the decoder has no module 'nope'"),
        ({"rotary_name": "nope"}, "the decoder has no module 'nope'"),
        ({"logits_divisor": "hidden_size"}, "its logits are not what the table says"),
        ({"embedding_multiplier": "head_dim"}, "what it makes of tokens"),
        ({"end": lambda layer, stream, arguments: 2 * stream}, "gives something else"),
        ({"halves": ()}, "none of its halves"),
        ({"model_type": "brook9"}, "has no 'brook9'"),
    ],
)
def test_a_family_that_is_another(brook: Adapter, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_table(replace(brook, **changes))


def test_a_wrong_table_is_said_when_its_family_is_used(brook: Adapter, no_families: Callable[[str], None]) -> None:
    register(replace(brook, final_norm_name="nope"))
    for _ in range(2):
        with pytest.raises(ModelError, match="the table of the family brook"):
            adapter_for("brook")
    register(brook)
    assert adapter_for("brook") is brook
    for wrong in ("x", replace(brook, model_type=None), replace(brook, model_type="secateur_brook")):
        with pytest.raises(ModelError, match=r"no secateur.models.Adapter|cannot be registered"):
            register(wrong)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_package:ADAPTER", "No module named 'no_such_package'"),
        ("secateur.errors:NOPE", "has no attribute 'NOPE'"),
        ("secateur.errors:ModelError", "no secateur.models.Adapter"),
    ],
)
def test_an_entry_point_that_fails_leaves_the_others(
    no_families: Callable[[str], None], value: str, message: str
) -> None:
    no_families(value)
    assert adapter_for("llama").model_type == "llama"
    with pytest.raises(ModelError, match=f"the entry point brook of secateur.families cannot be used: .*{message}"):
        adapter_for("brookish")
