"""The encoder: lengths, padding, pooling, pairs, shared weights, dropout and patterns."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

import secateur.longrange.model as model_module
from secateur.errors import InputError, ModelError
from secateur.longrange.config import ModelOptions
from secateur.longrange.model import LongRangeModel, sinusoids
from secateur.longrange.pattern import BlockPattern, choose_blocks

LENGTH = 40


def options(**changes: Any) -> ModelOptions:
    """Three layers, 2 heads of 8, 5 blocks of 8."""
    sizes = {"embedding_dim": 16, "transformer_dim": 16, "transformer_hidden_dim": 32, "head_dim": 8, "num_head": 2}
    blocks = {"num_layers": 3, "block_size": 8, "density": 0.5, "max_seq_len": LENGTH}
    return ModelOptions(**{**sizes, **blocks, "vocab_size": 30, "num_classes": 4, **changes})


def made(towers: int = 1, seed: int = 0, **changes: Any) -> LongRangeModel:
    """A model whose weights are large enough for attention to matter, in evaluation mode."""
    torch.manual_seed(seed)
    model = LongRangeModel(options(**changes), towers)
    with torch.no_grad():
        model.embeddings.tokens.weight.mul_(50)
    return model.eval()


def ids(*lengths: int, width: int = LENGTH, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 30, (len(lengths), width), generator=generator)
    return tokens * (torch.arange(width) < torch.tensor(lengths)[:, None])


def patterns(model: LongRangeModel, density: float = 0.4, seed: int = 0) -> list[BlockPattern]:
    blocks, generator = model.options.num_blocks, torch.Generator().manual_seed(seed)
    return [
        BlockPattern(choose_blocks(torch.rand(blocks, blocks, generator=generator), density), model.options.block_size)
        for _ in range(model.options.num_layers)
    ]


def masked_dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: BlockPattern,
    key_padding_mask: Tensor | None = None,
    dropout: float = 0.0,
    training: bool = False,
) -> Tensor:
    """What block-sparse attention computes, on the whole matrix."""
    tokens = pattern.blocks.repeat_interleave(pattern.block_size, 0).repeat_interleave(pattern.block_size, 1)
    assert tokens.shape == (query.shape[2], key.shape[2])
    assert key_padding_mask is not None
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    seen = tokens & key_padding_mask[:, None, None]
    weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
    return functional.dropout(weights, dropout, training) @ value


@pytest.fixture
def dense_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "pattern_attention", masked_dense)


POOLINGS = ("MEAN", "CLS")


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("width", [1, 7, 8, 33, LENGTH])
def test_any_length_gives_a_row_of_logits_per_sequence(pooling: str, width: int) -> None:
    model = made(pooling_mode=pooling)
    assert model(ids(width, 1, width=width)).shape == (2, 4)


def test_widths_may_all_differ() -> None:
    model = made(embedding_dim=12, transformer_dim=20, head_dim=8, num_head=3, transformer_hidden_dim=18)
    assert model(ids(40, 5)).shape == (2, 4)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("learned", [True, False])
def test_more_padding_gives_the_same_logits(pooling: str, learned: bool) -> None:
    model = made(pooling_mode=pooling, learn_pos_emb=learned)
    short = ids(11, 4, width=11)
    torch.testing.assert_close(model(short), model(functional.pad(short, (0, 29))), atol=1e-5, rtol=1e-4)
    alone = torch.cat([model(short[:1]), model(short[1:, :4])])
    torch.testing.assert_close(model(short), alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_more_padding_gives_the_same_logits_with_patterns(pooling: str, dense_kernel: None) -> None:
    model = made(pooling_mode=pooling)
    model.patterns = patterns(model)
    short = ids(11, 4, width=11)
    torch.testing.assert_close(model(short), model(functional.pad(short, (0, 29))), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_sequence_of_nothing_but_padding_gives_numbers(pooling: str) -> None:
    model = made(pooling_mode=pooling)
    both = ids(0, 9)
    assert model(both).isfinite().all()
    torch.testing.assert_close(model(both)[1:], model(both[1:]), atol=1e-5, rtol=1e-4)


def test_the_order_of_tokens_matters() -> None:
    for learned in (True, False):
        model = made(learn_pos_emb=learned)
        forward = ids(30, width=30)
        assert not torch.allclose(model(forward), model(forward.flip(1)), atol=1e-4)


def test_sinusoids_are_those_of_the_transformer() -> None:
    waves = sinusoids(50, 6)
    for place, pair in ((0, 0), (7, 1), (49, 2)):
        angle = torch.tensor(place / 10000 ** (2 * pair / 6))
        torch.testing.assert_close(waves[place, 2 * pair], angle.sin(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(waves[place, 2 * pair + 1], angle.cos(), atol=1e-5, rtol=1e-5)
    assert sinusoids(50, 7).shape == (50, 7)


def test_learned_positions_are_parameters_and_sinusoids_are_not() -> None:
    names = [{name for name, _ in made(learn_pos_emb=learned).named_parameters()} for learned in (True, False)]
    assert names[0] - names[1] == {"embeddings.positions"}


def test_pooling_reads_the_mean_of_tokens_or_the_vector_in_front() -> None:
    seen: list[Tensor] = []
    for pooling in POOLINGS:
        model = made(pooling_mode=pooling)
        model.norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        found = model.encode(ids(13, width=20))
        expected = seen[-1][:, :13].mean(1) if pooling == "MEAN" else seen[-1][:, 0]
        torch.testing.assert_close(found, expected)


def test_tied_layers_share_the_weights_of_one() -> None:
    tied, untied = made(tied_weights=True), made()
    assert len(tied.layers) == 1 and len(untied.layers) == 3
    calls: list[int] = []
    tied.layers[0].register_forward_hook(lambda *_: calls.append(1))
    tied(ids(20))
    assert len(calls) == 3
    assert sum(p.numel() for p in tied.layers.parameters()) * 3 == sum(p.numel() for p in untied.layers.parameters())
    untied.load_state_dict(
        {
            name: tied.state_dict()[name.replace(name[:9], "layers.0.") if name.startswith("layers.") else name]
            for name in untied.state_dict()
        }
    )
    torch.testing.assert_close(tied(ids(20)), untied(ids(20)))


def test_pairs_are_joined_as_a_b_product_difference() -> None:
    model = made(towers=2)
    first, second = ids(20, 9, width=20), ids(40, 3, seed=1)
    a, b = model.encode(first), model.encode(second)
    expected = model.head(torch.cat([a, b, a * b, a - b], -1))
    torch.testing.assert_close(model(first, second), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model(second, first), expected, atol=1e-4)


def test_the_number_of_sequences_must_fit() -> None:
    with pytest.raises(InputError, match="reads 2 sequence"):
        made(towers=2)(ids(20))
    with pytest.raises(InputError, match="reads 1 sequence"):
        made()(ids(20), ids(20))


def test_too_long_a_sequence_is_refused() -> None:
    with pytest.raises(InputError, match="sequences of 41 tokens are longer than max_seq_len, 40; cut them"):
        made()(ids(41, width=41))


@pytest.mark.parametrize("name", ["dropout_prob", "attention_dropout"])
def test_each_dropout_acts_only_in_training(name: str) -> None:
    both = {"dropout_prob": 0.0, "attention_dropout": 0.0}
    model, without = made(**{**both, name: 0.5}), made(**both)
    tokens = ids(40, 20)
    assert torch.equal(model(tokens), without(tokens))
    assert torch.equal(without.train()(tokens), without.eval()(tokens))
    model.train()
    assert not torch.allclose(model(tokens), model(tokens), atol=1e-4)


def test_attention_dropout_reaches_the_sparse_kernel(dense_kernel: None) -> None:
    model = made(dropout_prob=0.0, attention_dropout=0.5)
    model.patterns = patterns(model)
    tokens = ids(40, 20)
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.allclose(model(tokens), model(tokens), atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_pattern_of_all_blocks_is_dense_attention(pooling: str) -> None:
    model = made(pooling_mode=pooling)
    dense = model(ids(33, 12))
    model.patterns = patterns(model, density=1.0)
    torch.testing.assert_close(model(ids(33, 12)), dense, atol=1e-5, rtol=1e-4)


def test_each_layer_follows_its_own_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(tied_weights=True)
    wanted = patterns(model)
    seen: list[BlockPattern] = []

    def kernel(*tensors: Any, **rest: Any) -> Tensor:
        seen.append(tensors[3])
        return masked_dense(*tensors, **rest)

    monkeypatch.setattr(model_module, "pattern_attention", kernel)
    model.patterns = wanted
    model(ids(40))
    assert all(torch.equal(a.blocks, b.blocks) for a, b in zip(seen, wanted, strict=True))
    model(ids(40, seed=1))
    assert seen[:3] == seen[3:]
    model(ids(12, width=12))
    assert all(torch.equal(a.blocks, b.blocks[:2, :2]) for a, b in zip(seen[6:], wanted, strict=True))


def test_sparse_attention_leaves_out_what_the_pattern_does(dense_kernel: None) -> None:
    model = made(num_layers=1)
    blocks = torch.eye(5, dtype=torch.bool)
    model.patterns = [BlockPattern(blocks, 8)]
    tokens = ids(40)
    changed = tokens.clone()
    changed[:, 32:] = tokens[:, 32:].flip(1)
    hidden: list[Tensor] = []
    model.norm.register_forward_hook(lambda _module, _inputs, output: hidden.append(output))
    model(tokens), model(changed)
    torch.testing.assert_close(hidden[0][:, :32], hidden[1][:, :32])
    assert not torch.allclose(hidden[0][:, 32:], hidden[1][:, 32:], atol=1e-3)


def test_patterns_come_back_from_a_checkpoint(tmp_path: Path, dense_kernel: None) -> None:
    model = made()
    assert model.patterns is None
    model.patterns = patterns(model)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = made(seed=1)
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert again.patterns is not None
    assert torch.equal(again(ids(33, 12)), model(ids(33, 12)))
    other = copy.deepcopy(model)
    other.patterns = None
    assert other.patterns is None and model.patterns is not None
    model.load_state_dict(made().state_dict())
    assert model.patterns is None


def test_patterns_of_another_model_are_refused() -> None:
    model = made()
    with pytest.raises(ModelError, match="choose them with the model's num_layers, max_seq_len and block_size"):
        model.patterns = patterns(made(max_seq_len=80))
    with pytest.raises(ModelError, match="blocks of"):
        model.patterns = patterns(made(block_size=16, max_seq_len=80))
    with pytest.raises(ModelError, match="blocks of"):
        model.patterns = patterns(model)[:2]
    with pytest.raises(ModelError, match="blocks of"):
        model.patterns = []


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_collector_sees_what_attention_works_on(pooling: str) -> None:
    model = made(pooling_mode=pooling)
    seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def collect(layer: int, query: Tensor, key: Tensor, mask: Tensor) -> None:
        seen[layer] = (query, key, mask)

    tokens = ids(33, 12)
    plain = model(tokens)
    assert torch.equal(model(tokens, collector=collect), plain)
    assert sorted(seen) == [0, 1, 2]
    query, key, mask = seen[0]
    length = 48 if pooling == "CLS" else 40
    assert query.shape == key.shape == (2, 2, length, 8)
    assert mask.sum(1).tolist() == ([34, 13] if pooling == "CLS" else [33, 12])
    assert not query.requires_grad and not key.requires_grad
    first = model.layers[0]
    x = functional.pad(model.embeddings(tokens), (0, 0, 0, length - 40 - (pooling == "CLS")))
    expected = first.attention.query(first.attention_norm(x)).unflatten(-1, (2, 8)).transpose(1, 2)
    torch.testing.assert_close(query, expected)


def test_pairs_are_collected_as_one_batch() -> None:
    model = made(towers=2)
    batches: list[int] = []
    model(ids(20, 9), ids(40, 3), collector=lambda _layer, query, _key, _mask: batches.append(len(query)))
    assert batches == [4, 4, 4]


@pytest.mark.parametrize("sparse", [False, True])
def test_every_weight_learns(sparse: bool) -> None:
    model = made(towers=2, pooling_mode="CLS", embedding_dim=12).train()
    if sparse:
        model.patterns = patterns(model)
    functional.cross_entropy(model(ids(20, 9), ids(40, 3)), torch.tensor([0, 3])).backward()
    silent = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    # A bias of keys moves all scores of a query alike, which softmax does not see.
    assert not [name for name in silent if not name.endswith("attention.key.bias")]
