"""The search for a plan: what it measures, what it finds, and that it goes on where it was stopped."""

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from secateur.data import load_corpus, token_windows
from secateur.errors import InputError, OutputError
from secateur.models import count_parameters, save
from secateur.models.adapters import adapter_of
from secateur.pruning import prune
from secateur.pruning.cutting import cut_and_refit
from secateur.pruning.importance import PartScores
from secateur.pruning.ladders import Ladder
from secateur.pruning.search import Round, SearchConfig, search
from secateur.pruning.search.candidates import HalfName, cut_with_candidates, narrowed, uncut_again
from secateur.pruning.search.divergence import Watched, divergence, expected_changes
from secateur.pruning.search.text import SearchText
from secateur.pruning.units import part_shapes
from secateur.report import search_table
from secateur.runs import searching

QUICK: dict[str, Any] = {"samples": 8, "seqlen": 48, "batch_size": 2, "own_text": 0.0, "ratio": 0.25}
Models = Callable[..., PreTrainedModel]


@pytest.fixture
def windows(tiny_tokenizer: PreTrainedTokenizerFast) -> Tensor:
    return token_windows(tiny_tokenizer, load_corpus("pydocs"), 48, limit=8, seed=1)


def kl_divergence(model: PreTrainedModel, reference: Tensor, windows: Tensor) -> float:
    """KL divergence by PyTorch's own function, from the whole logits."""
    with torch.no_grad():
        log_probabilities = model(windows).logits.float().log_softmax(-1).flatten(0, 1)
    return torch.nn.functional.kl_div(log_probabilities, reference, reduction="batchmean", log_target=True).item()


def log_probabilities(model: PreTrainedModel, windows: Tensor) -> Tensor:
    with torch.no_grad():
        return model(windows).logits.float().log_softmax(-1).flatten(0, 1)


def some_cut(model: PreTrainedModel, attention: int = 1, mlp: int = 2) -> dict[HalfName, Ladder]:
    ladders = {}
    for layer, shapes in enumerate(part_shapes(model)):
        for part, steps, multiple in (("attention", attention, 1), ("mlp", mlp, 8)):
            ladders[layer, part] = Ladder.build(layer, part, shapes[part], [1.0] * (shapes[part].units - 1), multiple)
            ladders[layer, part].taken = steps
    return ladders


def test_a_cut_by_projections_is_the_cut(tiny_model: Models, family: str, windows: Tensor) -> None:
    model = tiny_model(family)
    before = log_probabilities(model, windows)
    with uncut_again(model):
        cut = cut_with_candidates(model, some_cut(model), windows, 4, 0.2)
        masked = log_probabilities(model, windows)
    assert torch.equal(log_probabilities(model, windows), before)
    layers = [
        {
            "layer": layer,
            "removed_groups": sorted(cut[layer, "attention"].units.tolist()),
            "removed_channels": sorted(cut[layer, "mlp"].units.tolist()),
        }
        for layer in range(4)
    ]
    scores = [
        {
            part: PartScores(torch.tensor(row[key]), torch.zeros(len(row[key])))
            for part, key in (("attention", "removed_groups"), ("mlp", "removed_channels"))
        }
        for row in layers
    ]
    counts = {(layer, part): len(scores[layer][part].order) for layer in range(4) for part in ("attention", "mlp")}
    cut_and_refit(model, scores, counts, windows, 4, 0.2)
    assert torch.allclose(log_probabilities(model, windows), masked, atol=2e-3)


def changes_seen_and_expected(
    model: PreTrainedModel, windows: Tensor, ladders: dict[HalfName, Ladder], part_of_the_way: float
) -> tuple[Tensor, Tensor]:
    """What running halves moved some of the way to their narrower width says, and what `expected_changes` says."""
    fitted, held_out = windows[::2], windows[1::2]
    watched, uncut = Watched.by(model, held_out, 2), log_probabilities(model, held_out)
    with uncut_again(model):
        cut = cut_with_candidates(model, ladders, fitted, 4, 0.2)
        adapter = adapter_of(model)
        for (layer, part), half in cut.items():
            if half.narrower is not None:
                present = adapter.half(adapter.layers(model)[layer], part).output.weight.detach()
                half.narrower = present.lerp(half.narrower(), part_of_the_way).clone
        expected = expected_changes(model, cut, watched, seed=0)
        now = kl_divergence(model, uncut, held_out)
        assert divergence(model, watched) == pytest.approx(now, rel=1e-3, abs=1e-6)
        found = []
        for name in expected:
            with narrowed(model, name, cut[name]):
                found.append(kl_divergence(model, uncut, held_out) - now)
        assert kl_divergence(model, uncut, held_out) == now
    return torch.tensor(found), torch.tensor(list(expected.values()))


def test_small_changes_are_those_of_models_run(tiny_model: Models, family: str, windows: Tensor) -> None:
    model = tiny_model(family)
    found, expected = changes_seen_and_expected(model, windows, some_cut(model), 0.02)
    assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.98
    assert (expected - found).abs().mean() < 0.2 * found.abs().mean()


def test_where_nothing_is_cut_yet_the_curvature_counts(tiny_model: Models, windows: Tensor) -> None:
    model = tiny_model()
    found, expected = changes_seen_and_expected(model, windows, some_cut(model, 0, 0), 0.1)
    assert (found > 0).all()
    assert 0.25 < expected.sum() / found.sum() < 4


@pytest.mark.slow
def test_the_plan_is_what_prune_then_cuts(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = tiny_model()
    untouched = copy.deepcopy(model)
    result = _search(model, tiny_tokenizer, rounds=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), untouched.parameters(), strict=True))
    assert len(result.rounds) == 3
    assert result.rounds[result.best].divergence == min(done.divergence for done in result.rounds)
    assert abs(result.plan.reached - 0.25) < 0.005
    (tmp_path / "plan.json").write_text(json.dumps(result.plan.to_dict()))
    options = {key: value for key, value in QUICK.items() if key != "ratio"}
    cut = prune(model, tiny_tokenizer, plan=str(tmp_path / "plan.json"), **options)
    assert count_parameters(model) == result.plan.parameters_after
    assert cut.plan.layers[1].removed_channels == result.plan.layers[1].removed_channels


def _search(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Any:
    keep = options.pop("keep", None)
    done = options.pop("done", ())
    return search(model, tokenizer, SearchConfig(**{**QUICK, **options}), done=done, keep=keep)


def test_the_first_round_is_what_prune_cuts(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, windows: Tensor
) -> None:
    found = _search(tiny_model(), tiny_tokenizer, rounds=1, samples=1)
    model = tiny_model()
    cut = prune(model, tiny_tokenizer, **{**QUICK, "samples": 1})
    assert found.plan.layers == cut.plan.layers


@pytest.mark.slow
def test_no_half_moves_far_in_a_round(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rounds = _search(tiny_model(), tiny_tokenizer, rounds=4, patience=9).rounds
    for before, after in itertools.pairwise(rounds):
        assert after.taken == before.following
        for old, new in zip(before.taken, after.taken, strict=True):
            # An eighth of 3 groups and of 11 steps of channels, but one.
            assert all(abs(steps - others) <= 1 for steps, others in zip(old, new, strict=True))


@given(st.integers(1, 9), st.integers(1, 40))
def test_prices_are_found_on_other_text_in_each_round(count: int, others: int) -> None:
    others = max(count, others)
    text = SearchText(torch.empty(0), torch.zeros(count, 4), torch.arange(others)[:, None])
    rounds = others // count
    seen = torch.cat([text.priced(number) for number in range(1, rounds + 1)])
    assert len(set(seen.flatten().tolist())) == rounds * count
    assert torch.equal(text.priced(rounds + 1), text.priced(1))


def test_frozen_layers_and_halves_stay(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    result = _search(tiny_model(), tiny_tokenizer, rounds=2, freeze=[1], target="mlp", ratio=0.15)
    assert result.plan.layers[1].rate == 0
    assert result.plan.layers[1].frozen
    assert all(not layer.removed_groups for layer in result.plan.layers)
    assert all(done.attention_share == 0 for done in result.rounds)


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_stopped(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    whole = _search(tiny_model(), tiny_tokenizer, rounds=3)
    kept: list[Round] = []

    def stop(rounds: list[Round]) -> None:
        kept[:] = [Round(**json.loads(json.dumps(done.to_dict()))) for done in rounds]
        if len(rounds) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _search(tiny_model(), tiny_tokenizer, rounds=3, keep=stop)
    again = _search(tiny_model(), tiny_tokenizer, rounds=3, done=kept)
    timeless = [[replace(done, seconds=0) for done in result.rounds] for result in (whole, again)]
    assert timeless[0] == timeless[1]
    assert again.plan == whole.plan


@pytest.mark.slow
def test_a_killed_command_goes_on_and_other_settings_are_refused(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tiny_model(), tiny_tokenizer, tmp_path / "model")
    name, output = str(tmp_path / "model"), tmp_path / "found"
    config = SearchConfig(**QUICK, rounds=2, dtype="float32")
    keep = searching.UnfinishedSearch.keep

    def stop(self: searching.UnfinishedSearch, rounds: list[Round]) -> None:
        keep(self, rounds)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(searching.UnfinishedSearch, "keep", stop)
        searching.search_model(name, output, config, command_line="secateur search")
    other = config.model_copy(update={"ratio": 0.2})
    with pytest.raises(InputError, match=r"unfinished search with other settings \(ratio: 0.25, now 0.2\)"):
        searching.search_model(name, output, other, command_line="secateur search")
    first = json.loads((tmp_path / "found.partial" / "search.json").read_text())
    result = searching.search_model(name, output, config, command_line="secateur search")
    assert [result.rounds[0].to_dict()] == first
    assert sorted(file.name for file in output.iterdir()) == [
        ".secateur.json",
        "command.txt",
        "pruning_plan.json",
        "pruning_strategy.png",
        "run.log",
        "search.json",
        "search.png",
    ]
    assert not (tmp_path / "found.partial").exists()


def of_two_layers(done: dict[str, Any]) -> None:
    done["following"] = done["following"][:2]


def with_steps_that_are_not_there(done: dict[str, Any]) -> None:
    done["taken"][0] = [0, 5000]


def with_no_divergence(done: dict[str, Any]) -> None:
    done["divergence"] = None


def without_scales(done: dict[str, Any]) -> None:
    done["scales"] = [[None, None] for _ in done["scales"]]


@pytest.mark.parametrize(
    "damage", [of_two_layers, with_steps_that_are_not_there, with_no_divergence, without_scales, dict.clear]
)
def test_a_damaged_stopped_search_is_named(
    tiny_model: Models,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    damage: Callable[[dict[str, Any]], None],
) -> None:
    (done,) = _search(tiny_model(), tiny_tokenizer, rounds=1).rounds
    unfinished = searching.UnfinishedSearch(tmp_path / "found")
    unfinished.open({}, overwrite=False)
    unfinished.keep([done])
    config = SearchConfig(**QUICK)
    assert unfinished.rounds(tiny_model(), tiny_tokenizer, config) == [done]
    content = done.to_dict()
    damage(content)
    (unfinished.path / "search.json").write_text(json.dumps([content]))
    with pytest.raises(InputError, match=r"search\.json is damaged .* delete .* to begin anew"):
        unfinished.rounds(tiny_model(), tiny_tokenizer, config)


def test_a_refused_search_leaves_nothing(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save(tiny_model(), tiny_tokenizer, tmp_path / "model")
    config = SearchConfig(**{**QUICK, "ratio": 0.95}, dtype="float32")
    with pytest.raises(InputError, match="more than can be removed"):
        searching.search_model(str(tmp_path / "model"), tmp_path / "found", config, command_line="secateur search")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "found.partial").mkdir()
    (tmp_path / "found.partial" / "settings.json").write_text("{}")
    with pytest.raises(OutputError, match="in the way of what this search keeps"):
        searching.search_model(str(tmp_path / "model"), tmp_path / "found", config, command_line="secateur search")
    assert (tmp_path / "found.partial" / "settings.json").is_file()


def test_what_cannot_be_solved_for_is_named(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    few = {"damping": 1e-300, "samples": 1, "seqlen": 8}
    with pytest.raises(InputError, match="cannot be solved for with a damping of 1e-300; raise damping="):
        _search(tiny_model(), tiny_tokenizer, **few)
    with pytest.raises(InputError, match="cannot be solved for with a damping of 1e-300; raise damping="):
        prune(tiny_model(), tiny_tokenizer, **{**QUICK, **few})


def test_too_little_text_to_measure_on_is_told(
    tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "text.txt").write_text("a few words " * 20)
    _search(tiny_model(), tiny_tokenizer, rounds=1, calibration=str(tmp_path / "text.txt"), samples=1, seqlen=16)
    assert "windows are to be measured on" in caplog.text
    (tmp_path / "short.txt").write_text("a few words")
    _search(tiny_model(), tiny_tokenizer, rounds=1, calibration=str(tmp_path / "short.txt"), samples=1, seqlen=8)
    assert "measured on what they are fitted to" in caplog.text


def test_a_divergence_of_nothing_has_no_change() -> None:
    row = {"divergence": 0.0, "attention_share": 0.1, "taken": [[1, 1]], "seconds": 1.0}
    table = search_table({"rounds": [row, row], "best": 0})
    assert [str(cell) for cell in table.columns[2].cells] == ["prune's own", "–"]


def test_more_than_can_go_is_refused(tiny_model: Models, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="more than can be removed"):
        _search(tiny_model(), tiny_tokenizer, ratio=0.95)
