"""When a model counts as sparse: by secateur's record, by a pattern, by its user's word; not by quantised zeros."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Quantisation
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import secateur
from secateur.errors import InputError
from secateur.evaluation import diagnose
from secateur.models.masks import (
    describe_zeros,
    lost_zeros,
    masks_of_all_zeros,
    share_of_zeros,
    zero_masks,
    zeros_to_keep,
)
from secateur.models.zeros_record import projections_of, zeros_file, zeros_in
from secateur.recovery import RecoverConfig, merge_adapter
from secateur.recovery.config import MergeConfig

TinyModel = Callable[..., PreTrainedModel]
Change = Callable[[torch.Tensor], torch.Tensor]

WIDE = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 32, "num_hidden_layers": 2}
QUICK: dict[str, Any] = {"calibration": "pydocs[:2%]", "samples": 2, "seqlen": 32}
FEW: dict[str, Any] = {"samples": 8, "seqlen": 32, "val_size": 0, "batch_size": 4, "data": "pydocs[:2%]"}


@torch.no_grad()
def changed(model: PreTrainedModel, change: Change) -> PreTrainedModel:
    for linear in projections_of(model).values():
        linear.weight.copy_(change(linear.weight))
    return model


def quantised(kind: Quantisation) -> Change:
    """What a GGUF file of this kind gives back of a matrix."""

    def change(weight: torch.Tensor) -> torch.Tensor:
        packed = gguf.quants.quantize(weight.numpy(), kind)
        return torch.from_numpy(gguf.quants.dequantize(packed, kind).astype(np.float32))

    return change


def heavy_tailed(weight: torch.Tensor, freedom: float = 4) -> torch.Tensor:
    """Student's t instead of the normal distribution: a few large weights beside many small ones."""
    generator = np.random.default_rng(int(weight.abs().sum() * 1000))
    return torch.from_numpy(generator.standard_t(freedom, weight.shape).astype(np.float32))


def three_bits(weight: torch.Tensor) -> torch.Tensor:
    """Eight steps of the largest of 16, as Q3_K: more than a third is zero where a matrix has heavy tails."""
    blocks = weight.reshape(-1, 16)
    scale = blocks.abs().amax(1, keepdim=True) / 4
    return ((blocks / scale).round().clamp(-4, 3) * scale).view_as(weight)


def of_every(kept: int, group: int) -> Change:
    def change(weight: torch.Tensor) -> torch.Tensor:
        groups = weight.reshape(-1, group).clone()
        groups.scatter_(1, groups.abs().argsort(1)[:, : group - kept], 0.0)
        return groups.view_as(weight)

    return change


def at_random(share: float) -> Change:
    generator = torch.Generator().manual_seed(0)
    return lambda weight: weight * (torch.rand(weight.shape, generator=generator) >= share)


def ternary(share: float) -> Change:
    return lambda weight: 0.1 * at_random(share)(weight.sign())


DENSE_KINDS = ("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")


@pytest.mark.parametrize("kind", DENSE_KINDS)
@pytest.mark.parametrize("tails", [False, True])
def test_a_dense_model_from_a_quantised_file_is_dense(kind: str, tails: bool, tiny_model: TinyModel) -> None:
    model = changed(tiny_model(**WIDE), heavy_tailed) if tails else tiny_model(**WIDE)
    model = changed(model, quantised(Quantisation[kind]))
    zeros = len(masks_of_all_zeros(model))
    assert zeros == 14 or kind in ("F16", "BF16", "Q4_1", "Q5_1")
    assert zero_masks(model) == {} and share_of_zeros(model) == 0
    for other in (torch.bfloat16, torch.float16):
        assert zero_masks(model.to(other)) == {}


@pytest.mark.parametrize(
    "change",
    [lambda w: three_bits(heavy_tailed(w, 2.5)), ternary(0.34), ternary(0.42)],
    ids=["3 bits", "ternary", "more"],
)
def test_more_than_a_third_of_quantised_zeros(change: Change, tiny_model: TinyModel) -> None:
    model = changed(tiny_model(**WIDE), change)
    weights = [linear.weight for linear in projections_of(model).values()]
    assert max(float((weight == 0).float().mean()) for weight in weights) > 1 / 3
    assert zero_masks(model) == {} and zero_masks(model.bfloat16()) == {}
    assert len(zeros_to_keep(model, "keep")) == 14


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
def test_ternary_formats_of_other_weights_make_them_sparse(kind: str, tiny_model: TinyModel) -> None:
    model = changed(tiny_model(**WIDE), quantised(Quantisation[kind]))
    assert len(zero_masks(model)) == 14 and share_of_zeros(model) > 0.5


@pytest.mark.parametrize(
    ("change", "sparse"),
    [
        (of_every(2, 4), True),
        (of_every(3, 4), True),
        (of_every(7, 8), True),
        (of_every(15, 16), True),
        (lambda weight: of_every(2, 4)(quantised(Quantisation.Q4_0)(weight)), True),
        (lambda weight: quantised(Quantisation.Q4_0)(of_every(2, 4)(weight)), True),
        (at_random(0.35), True),
        (at_random(0.5), True),
        (at_random(0.3), False),
        (at_random(0.02), False),
    ],
)
def test_patterns_of_others(change: Change, sparse: bool, tiny_model: TinyModel) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = changed(tiny_model(**WIDE), change).to(dtype)
        assert len(zero_masks(model)) == (14 if sparse else 0)


def test_one_sparse_matrix_is_enough(tiny_model: TinyModel) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(torch.rand(96, 64) > 0.5)
    assert set(zero_masks(model)) == {"1.up_proj"}


def in_eight_bits(model: PreTrainedModel) -> PreTrainedModel:
    """As bitsandbytes holds weights: int8, each row by its largest."""
    for linear in projections_of(model).values():
        weight = linear.weight.detach()
        scaled = (127 * weight / weight.abs().amax(1, keepdim=True)).round().to(torch.int8)
        linear.weight = torch.nn.Parameter(scaled, requires_grad=False)
    return model


def test_zeros_of_eight_bits_are_not_looked_at(tiny_model: TinyModel) -> None:
    """Rounding makes about one in a hundred; a row with one large weight is mostly zero then."""
    model = in_eight_bits(tiny_model())
    zeros = sum(zeros_in(linear.weight) for linear in projections_of(model).values())
    assert zeros > 0.005 * sum(linear.weight.numel() for linear in projections_of(model).values())
    outliers = tiny_model()
    with torch.no_grad():
        for linear in projections_of(outliers).values():
            linear.weight[:, 0] = 1000.0
    for dense in (model, in_eight_bits(outliers)):
        assert zero_masks(dense) == {} and zeros_to_keep(dense, "keep") == {} and share_of_zeros(dense) == 0
        assert describe_zeros(dense).endswith("the zeros of weights in 8 bits are not looked at")
    settled = RecoverConfig(load_in_8bit=True).settled(sparse=bool(zeros_to_keep(model)))
    assert settled.method == "lora"
    settled.require_fit(sparse=False)


def test_what_is_left_of_a_record_in_eight_bits(
    tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """A matrix that the record names has more zeros in 8 bits than were made; those left out of 8 bits keep masks."""
    model = tiny_model()
    secateur.sparsify(model, tiny_tokenizer, sparsity=0.5, method="magnitude")
    expected = zero_masks(model)
    secateur.save(model, tiny_tokenizer, tmp_path / "sparse")
    loaded, _ = secateur.load(tmp_path / "sparse", dtype="float32")
    whole = projections_of(loaded)["1.up_proj"].weight
    in_eight_bits(loaded)
    assert zero_masks(loaded) == {}
    projections_of(loaded)["1.up_proj"].weight = whole
    assert set(zero_masks(loaded)) == {"1.up_proj"}
    assert torch.equal(zero_masks(loaded)["1.up_proj"], expected["1.up_proj"])


def test_the_reason_is_one_logged_line(tiny_model: TinyModel, caplog: pytest.LogCaptureFixture) -> None:
    cases: list[tuple[PreTrainedModel, Any, str]] = [
        (tiny_model(), "auto", "counts as dense: no zeros in its projections"),
        (changed(tiny_model(**WIDE), quantised(Quantisation.Q4_0)), "auto", "are zero, and without a pattern"),
        (changed(tiny_model(), of_every(2, 4)), "auto", "counts as sparse, 50.0% zeros in 28 of its 28 matrices"),
        (changed(tiny_model(), of_every(2, 4)), "fill", "may be filled, as zeros= says"),
        (
            changed(tiny_model(), at_random(0.1)),
            "keep",
            "zeros in 28 of the model's matrices are kept, as zeros= says",
        ),
    ]
    for model, zeros, message in cases:
        caplog.clear()
        with caplog.at_level(logging.DEBUG, logger="secateur"):
            zeros_to_keep(model, zeros)
        assert len(caplog.records) == 1 and message in caplog.records[0].getMessage()


def test_a_zero_here_and_there_is_no_word_worth(tiny_model: TinyModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="secateur"):
        zeros_to_keep(changed(tiny_model(), at_random(0.002)))
        assert not caplog.records
        zeros_to_keep(changed(tiny_model(), at_random(0.05)))
    assert "counts as dense: 5." in caplog.text or "counts as dense: 4." in caplog.text


@pytest.fixture
def four_bits(tiny_model: TinyModel) -> PreTrainedModel:
    return changed(tiny_model(**WIDE), quantised(Quantisation.Q4_0))


def test_what_commands_do_with_a_dense_model_of_four_bits(
    four_bits: PreTrainedModel, tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    assert diagnose(four_bits).zeros.startswith("The model counts as dense")
    figures = secateur.evaluate(four_bits, tiny_tokenizer, data=["pydocs[:20%]"], windows=1, seqlen=32, speed=False)
    assert figures.sparsity == 0
    result = secateur.recover(four_bits, tiny_tokenizer, tmp_path / "adapter", **FEW)
    assert result.method == "lora" and result.sparsity is None
    model = changed(tiny_model(**WIDE), quantised(Quantisation.Q4_0))
    merged = secateur.merge(model, tmp_path / "adapter")
    secateur.prune(merged, tiny_tokenizer, ratio=0.1, **QUICK)


def test_a_user_s_word(four_bits: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Kept zeros stay through training, and are known by the record when the model is loaded."""
    with pytest.raises(InputError, match="has zeros, which the re-fit would fill"):
        secateur.prune(four_bits, tiny_tokenizer, ratio=0.1, zeros="keep", **QUICK)
    masks = masks_of_all_zeros(four_bits)
    result = secateur.recover(four_bits, tiny_tokenizer, tmp_path / "kept", zeros="keep", **FEW)
    assert result.method == "masked-lora"
    loaded, _ = secateur.load(tmp_path / "kept", dtype="float32")
    assert lost_zeros(loaded, masks) == 0 and len(zero_masks(loaded)) == 14


@pytest.fixture
def slightly_sparse(tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    model = tiny_model()
    secateur.sparsify(model, tiny_tokenizer, method="magnitude", sparsity=0.1)
    return model


def test_low_sparsity_is_known_at_once_and_remembered(
    slightly_sparse: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    assert len(zero_masks(slightly_sparse)) == 28
    assert share_of_zeros(slightly_sparse) == pytest.approx(0.1, abs=1e-3)
    with pytest.raises(InputError, match="has zeros, which the re-fit would fill"):
        secateur.prune(slightly_sparse, tiny_tokenizer, ratio=0.1, **QUICK)
    secateur.save(slightly_sparse, tiny_tokenizer, tmp_path / "sparse")
    loaded, _ = secateur.load(tmp_path / "sparse", dtype="float32")
    masks = zero_masks(loaded)
    assert len(masks) == 28
    assert diagnose(loaded).sparsity == pytest.approx(0.1, abs=1e-3)
    result = secateur.recover(loaded, tiny_tokenizer, tmp_path / "recovered", **FEW)
    assert result.method == "masked-lora"
    again, _ = secateur.load(tmp_path / "recovered", dtype="float32")
    assert lost_zeros(again, masks) == 0 and zero_masks(again).keys() == masks.keys()


def test_a_half_precision_file_keeps_the_record(
    slightly_sparse: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    with torch.no_grad():
        slightly_sparse.model.layers[0].mlp.up_proj.weight[0, :5] = 1e-30  # zero in float16
    secateur.save(slightly_sparse.half(), tiny_tokenizer, tmp_path / "half")
    loaded, _ = secateur.load(tmp_path / "half", dtype="float32")
    assert len(zero_masks(loaded)) == 28


def test_a_second_cut_adds_to_the_record(
    tiny_model: TinyModel, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = tiny_model()
    secateur.sparsify(model, tiny_tokenizer, method="magnitude", sparsity=0.1, layers="0:1")
    secateur.sparsify(model, tiny_tokenizer, method="magnitude", sparsity=0.2, layers="2:3")
    assert {name[0] for name in zero_masks(model)} == {"0", "2"}
    secateur.save(model, tiny_tokenizer, tmp_path / "model")
    record = json.loads((tmp_path / "model" / "sparsity.json").read_text())
    assert {matrix["layer"] for matrix in record["matrices"]} == {0, 2}
    assert record["zeros"] == sum(matrix["zeros"] for matrix in record["matrices"])
    assert record["reached"] == pytest.approx(0.15, abs=0.01) and record["settings"]["sparsity"] == 0.2


def test_a_cut_without_a_re_fit_keeps_the_record(
    slightly_sparse: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    options = {"ratio": 0.2, "compensate": False, "importance": "magnitude", "allocation": "uniform", **QUICK}
    secateur.prune(slightly_sparse, tiny_tokenizer, **options)
    secateur.save(slightly_sparse, tiny_tokenizer, tmp_path / "cut")
    loaded, _ = secateur.load(tmp_path / "cut", dtype="float32")
    assert len(zero_masks(loaded)) == 28
    record = json.loads((tmp_path / "cut" / "sparsity.json").read_text())
    assert all(0.02 < matrix["sparsity"] < 0.2 for matrix in record["matrices"])


def test_filled_zeros_are_forgotten(
    slightly_sparse: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    secateur.prune(slightly_sparse, tiny_tokenizer, ratio=0.1, zeros="fill", **QUICK)
    assert zero_masks(slightly_sparse) == {}
    secateur.save(slightly_sparse, tiny_tokenizer, tmp_path / "cut")
    assert not (tmp_path / "cut" / "sparsity.json").exists()


def test_merging_into_a_slightly_sparse_model(
    slightly_sparse: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    masks = zero_masks(slightly_sparse)
    secateur.save(slightly_sparse, tiny_tokenizer, tmp_path / "sparse")
    adapter = tmp_path / "adapter"
    secateur.recover(slightly_sparse, tiny_tokenizer, adapter, method="lora", lr=1e-2, **FEW)
    models = [secateur.load(tmp_path / "sparse", dtype="float32")[0] for _ in range(3)]
    with pytest.raises(InputError, match="10% zeros, which a merged adapter would fill"):
        merge_adapter(models[0], adapter)
    kept, filled = merge_adapter(models[1], adapter, zeros="keep"), merge_adapter(models[2], adapter, zeros="fill")
    assert lost_zeros(kept, masks) == 0 and zero_masks(kept).keys() == masks.keys()
    assert zeros_file(kept)["sparsity.json"]["settings"]["sparsity"] == 0.1
    assert lost_zeros(filled, masks) > 100 and zero_masks(filled) == {}
    with pytest.raises(InputError, match="zeros fill and keep_zeros exclude each other"):
        merge_adapter(models[0], adapter, zeros="fill", keep_zeros=True)


def test_short_options_of_merge() -> None:
    assert MergeConfig(adapter="x", keep_zeros=True).said_zeros == "keep"
    assert MergeConfig(adapter="x", allow_dense=True).said_zeros == "fill"
    assert MergeConfig(adapter="x", zeros="fill", allow_dense=True).said_zeros == "fill"
    with pytest.raises(ValueError, match="zeros keep and allow_dense exclude each other"):
        MergeConfig(adapter="x", zeros="keep", allow_dense=True)
    with pytest.raises(ValueError, match="method masked keeps zeros"):
        RecoverConfig(method="masked", zeros="fill")


def wrong_layers(record: dict[str, Any]) -> None:
    record["matrices"][-1]["layer"] = 7


def wrong_shape(record: dict[str, Any]) -> None:
    record["matrices"][0]["shape"] = [64, 64]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: None, "is of other weights than the model's (0 zeros in 0.q_proj, there 819)"),
        (wrong_layers, "is of other weights than the model's ("),
        (wrong_shape, "is of other weights than the model's (0.q_proj is (128, 64), there (64, 64))"),
    ],
)
def test_a_record_beside_another_model_is_not_believed(
    slightly_sparse: PreTrainedModel,
    tiny_model: TinyModel,
    tiny_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    secateur.save(slightly_sparse, tiny_tokenizer, tmp_path / "sparse")
    secateur.save(tiny_model(), tiny_tokenizer, tmp_path / "dense")
    record = json.loads((tmp_path / "sparse" / "sparsity.json").read_text())
    change(record)
    (tmp_path / "dense" / "sparsity.json").write_text(json.dumps(record))
    model, _ = secateur.load(tmp_path / "dense", dtype="float32")
    assert zero_masks(model) == {}
    (warning,) = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert message in warning and "\n" not in warning
    secateur.save(model, tiny_tokenizer, tmp_path / "again")
    assert not (tmp_path / "again" / "sparsity.json").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"matrices": 3}',
        b'{"matrices": [{"layer": -1, "name": "q_proj", "shape": [1, 1], "zeros": 0}]}',
        b'{"matrices": [{"layer": true, "name": "q_proj", "shape": [1, 1], "zeros": 0}]}',
        b'{"matrices": [{"layer": 0, "name": "q_proj", "shape": [1], "zeros": 0}]}',
        b'{"matrices": [], "asked": NaN}',
        b'{"matrices": [], "asked": 1e999}',
        b'{"matrices": [], "asked": "\\ud800"}',
    ],
)
def test_a_damaged_record_is_said_and_not_used(
    tiny_model: TinyModel,
    tiny_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
) -> None:
    secateur.save(tiny_model(), tiny_tokenizer, tmp_path / "model")
    (tmp_path / "model" / "sparsity.json").write_bytes(content)
    model, _ = secateur.load(tmp_path / "model", dtype="float32")
    (warning,) = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert "sparsity.json cannot be used (" in warning and "\n" not in warning
    assert zero_masks(model) == {}
