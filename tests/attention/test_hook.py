"""Sparse attention inside models: what stays as it was, and what the sparse part computes."""

import copy
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig
from transformers import PreTrainedModel, StaticCache

from secateur.attention import AttentionProfile, apply, remove
from secateur.attention.sparse import spans_of
from secateur.errors import InputError, ModelError
from secateur.models.lora import wrap

Models = Callable[..., PreTrainedModel]
Blocks = dict[str, int]


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 250, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: PreTrainedModel, ids: torch.Tensor, **options: object) -> torch.Tensor:
    return model(ids, **options).logits


def test_with_all_blocks_it_is_the_dense_model(tiny_model: Models, family: str, small_blocks: Blocks) -> None:
    model, ids = tiny_model(family), tokens(2, 75)
    dense, before = logits(model, ids), model.config._attn_implementation
    modules = {name: type(module) for name, module in model.named_modules()}
    applied = apply(model, topk=1.0, **small_blocks)
    torch.testing.assert_close(logits(model, ids), dense, rtol=1e-4, atol=1e-4)
    assert applied.sparsity == 0
    assert len(applied.layers) == 4
    applied = apply(model, topk=0.3, **small_blocks)
    assert (logits(model, ids) - dense).abs().max() > 1e-2
    assert 0.1 < applied.sparsity < 0.7
    remove(model)
    assert model.config._attn_implementation == before
    assert modules == {name: type(module) for name, module in model.named_modules()}
    assert torch.equal(logits(model, ids), dense)


def test_copies_of_a_model_live_on(tiny_model: Models, small_blocks: Blocks) -> None:
    model, ids = tiny_model(), tokens(1, 75)
    dense = logits(model, ids)
    apply(model, topk=0.3, **small_blocks)
    copied = copy.deepcopy(model)
    torch.testing.assert_close(logits(copied, ids), logits(model, ids))
    remove(model)
    torch.testing.assert_close(logits(copied, ids), dense)


def test_an_adapter_of_peft_is_part_of_the_model(tiny_model: Models, small_blocks: Blocks) -> None:
    ids, settings = tokens(1, 75), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    model = wrap(tiny_model(), settings).eval()
    dense = logits(model, ids)
    applied = apply(model, topk=0.3, **small_blocks)
    assert (logits(model, ids) - dense).abs().max() > 1e-2
    assert applied.sparsity > 0.1
    remove(model)
    assert torch.equal(logits(model, ids), dense)


def test_a_padded_batch_is_each_sequence_alone(tiny_model: Models, small_blocks: Blocks) -> None:
    model = tiny_model()
    apply(model, cdfthreshd=0.6, keep_ends=False, **small_blocks)
    lengths = (90, 61, 90, 33, 9)
    ids, mask = torch.zeros(5, 90, dtype=torch.long), torch.zeros(5, 90, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, -length:], mask[row, -length:] = tokens(1, length, row), 1
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    together = logits(model, ids, attention_mask=mask, position_ids=positions)
    for row, length in enumerate(lengths):
        alone = logits(model, ids[row : row + 1, -length:])
        torch.testing.assert_close(together[row, -length:], alone[0], rtol=1e-4, atol=1e-4)


def test_decoding_is_dense_and_chunks_are_the_whole(tiny_model: Models, small_blocks: Blocks) -> None:
    model, ids = tiny_model(), tokens(1, 96)
    applied = apply(model, cdfthreshd=0.6, **small_blocks)
    whole = logits(model, ids)
    with torch.no_grad():
        first = model(ids[:, :48], use_cache=True)
        second = model(ids[:, 48:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, rtol=1e-4, atol=1e-4)
    applied.reset()
    with torch.no_grad():
        model(ids[:, :1], past_key_values=second.past_key_values)
    assert not applied.layers


def test_generation_with_a_static_cache_is_the_same(tiny_model: Models, small_blocks: Blocks) -> None:
    model, ids = tiny_model(), tokens(1, 80)
    applied = apply(model, topk=0.5, **small_blocks)
    made = []
    for cache in ("dynamic", "static"):
        applied.reset()
        made.append(model.generate(ids, max_new_tokens=6, do_sample=False, cache_implementation=cache, pad_token_id=0))
        assert {share.count for share in applied.layers.values()} == {8}
    assert torch.equal(*made)


def test_what_is_differentiated_is_dense(tiny_model: Models, small_blocks: Blocks) -> None:
    model, ids = tiny_model(), tokens(1, 90)
    applied = apply(model, topk=0.3, **small_blocks)
    model(ids, labels=ids).loss.backward()
    assert not applied.layers
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_a_static_cache_with_room_to_spare(tiny_model: Models, small_blocks: Blocks) -> None:
    model, ids = tiny_model(), tokens(1, 100)
    dense = logits(model, ids)
    apply(model, topk=1.0, **small_blocks)
    cache = StaticCache(config=model.config, max_cache_len=200)
    torch.testing.assert_close(logits(model, ids, past_key_values=cache), dense, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["per head", "soft", "one for all", "not causal"])
def test_what_a_caller_says_of_masks_is_kept(tiny_model: Models, small_blocks: Blocks, kind: str) -> None:
    model, ids = tiny_model(), tokens(2, 64)
    causal = torch.ones(64, 64, dtype=torch.bool).tril()
    masks = {
        "per head": {"attention_mask": torch.stack([causal.tril(-index) for index in range(8)]).expand(2, -1, -1, -1)},
        "soft": {"attention_mask": torch.where(causal, 0.0, -2.0).expand(2, 1, -1, -1)},
        "one for all": {"attention_mask": (causal & (torch.arange(64) > 4)).expand(1, 1, -1, -1)},
        "not causal": {"is_causal": False},
    }
    dense = logits(model, ids, **masks[kind])
    apply(model, topk=1.0, **small_blocks)
    torch.testing.assert_close(logits(model, ids, **masks[kind]), dense, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_sliding_windows_stay_dense(tiny_model: Models, small_blocks: Blocks) -> None:
    model, ids = tiny_model("mistral", sliding_window=32), tokens(1, 90)
    dense = logits(model, ids)
    applied = apply(model, topk=0.2, **small_blocks)
    torch.testing.assert_close(logits(model, ids), dense)
    assert not applied.layers
    assert repr(applied).startswith("Applied(sparse in ") and "tensor" not in repr(applied)


def test_a_mask_of_another_kind_is_computed_densely(tiny_model: Models, small_blocks: Blocks) -> None:
    """Two documents in one window: the second does not see the first."""
    model, ids = tiny_model(), tokens(1, 64)
    positions = torch.cat([torch.arange(32), torch.arange(32)])[None]
    options = {"position_ids": positions, "use_cache": False}
    dense = logits(model, ids, **options)
    apply(model, topk=0.1, **small_blocks)
    torch.testing.assert_close(logits(model, ids, **options), dense, rtol=1e-4, atol=1e-4)


def test_spans_of_masks() -> None:
    causal = torch.ones(20, 20, dtype=torch.bool).tril()
    left = causal & (torch.arange(20) >= 5)
    spans = spans_of(torch.stack([causal, left, causal])[:, None])
    assert spans is not None
    assert [(span.rows, span.first, span.end) for span in spans] == [([0, 2], 0, 20), ([1], 5, 20)]
    added = torch.zeros(20, 20).masked_fill(~left, torch.finfo(torch.float32).min)
    assert spans_of(added[None, None]) == [type(spans[0])([0], 5, 20)]
    assert spans_of((causal & ~causal.tril(-8))[None, None]) is None
    right = causal & (torch.arange(20) < 15)
    assert spans_of(right[None, None]) is None


def test_a_model_of_another_family(small_blocks: Blocks) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=50))
    with pytest.raises(ModelError, match="the architecture 'gpt2' is not supported"):
        apply(model, topk=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing says which blocks to leave out: give profile=FILE, topk= or cdfthreshd="),
        ({"topk": 0.0}, "topk=0.0: input should be greater than 0"),
        ({"cdfthreshd": 1.5}, "cdfthreshd=1.5: input should be less than or equal to 1"),
        ({"topp": 0.5}, "topp"),
    ],
)
def test_rules_that_are_none(tiny_model: Models, options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply(tiny_model(), **options)


def test_a_file_that_is_no_profile(tmp_path) -> None:
    with pytest.raises(InputError, match="is not there; secateur attention tune MODEL"):
        AttentionProfile.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("text")
    with pytest.raises(InputError, match="is no attention profile"):
        AttentionProfile.load(tmp_path / "text")
