"""What halves cost whole: measured, and the sum of what their units cost."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import secateur
from secateur.calibration.walks import Walks
from secateur.models import adapter_of
from secateur.models.halves import PARTS, Part
from secateur.pruning import PruneConfig
from secateur.pruning.prune import unit_scores
from secateur.pruning.removals import EVERY, divergences_without, some
from tiny import make_tiny_model, make_tiny_tokenizer

WINDOWS = torch.randint(3, 200, (4, 24), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def log_probabilities(model: PreTrainedModel) -> Tensor:
    return model(WINDOWS, use_cache=False).logits.float().log_softmax(-1)


def without(model: PreTrainedModel, index: int, part: Part) -> PreTrainedModel:
    """A copy whose half gives nothing."""
    other = copy.deepcopy(model)
    adapter = adapter_of(other)
    half = adapter.half(adapter.layers(other)[index], part)
    for parameter in half.output.parameters():
        nn.init.zeros_(parameter)
    return other


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "gemma4_text", "qwen3_5_text"])
def test_as_far_from_the_model_as_one_whose_half_gives_nothing(family: str) -> None:
    model = make_tiny_model(family)
    found = divergences_without(model, WINDOWS, batch_size=3)
    wanted = log_probabilities(model)
    for index, costs in enumerate(found):
        assert costs.keys() == set(PARTS)
        for part, cost in costs.items():
            ours = log_probabilities(without(model, index, part))
            expected = nn.functional.kl_div(ours, wanted, reduction="none", log_target=True).sum(-1)
            assert cost == pytest.approx(float(expected[:, EVERY - 1 :: EVERY].mean()), rel=1e-3, abs=1e-6)


def test_units_of_a_half_cost_together_what_it_costs(tmp_path) -> None:
    model, config = make_tiny_model(), PruneConfig()
    scores = unit_scores(model, WINDOWS, config, walks=Walks(tmp_path))
    costs = divergences_without(model, WINDOWS, batch_size=8)
    for index, layer in enumerate(scores):
        for part, found in layer.items():
            assert float(found.costs.sum()) == pytest.approx(costs[index][part], rel=1e-4)
    again = unit_scores(model, WINDOWS, config, walks=Walks(tmp_path))  # from what was kept
    assert all(torch.equal(again[i][part].costs, scores[i][part].costs) for i in range(4) for part in PARTS)


def test_a_half_that_the_model_does_not_mind_leaves_first() -> None:
    model = make_tiny_model()
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.mul_(0.02)
    result = secateur.prune(model, make_tiny_tokenizer(), ratio=0.2, data="pydocs", windows=4, seqlen=32, own_text=0)
    assert result.plan.layers[2].after.num_key_value_heads == 0


def test_windows_are_taken_from_all_of_the_text() -> None:
    windows = torch.arange(40)[:, None].expand(40, 512)
    assert some(windows)[:, 0].tolist() == [0, 39]
    assert some(windows[:, :256])[:, 0].tolist() == [0, 13, 26, 39]
    assert len(some(windows[:1])) == 1 and len(some(windows, tokens=100)) == 1
