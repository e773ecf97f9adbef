"""Sparse attention in small random transformers made from diffusers' own classes, at several video lengths."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

diffusers = pytest.importorskip("diffusers")

from secateur.attention import diffusion  # noqa: E402
from secateur.errors import InputError, ModelError  # noqa: E402

Inputs = Callable[[int], dict[str, torch.Tensor]]
SMALL = {"query_block": 16, "key_block": 16}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def cogvideox() -> tuple[nn.Module, Inputs]:
    model = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=12,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=8,
        use_rotary_positional_embeddings=True,
    )

    def inputs(frames: int) -> dict[str, torch.Tensor]:
        tokens = frames * 4 * 4
        rotary = torch.outer(torch.arange(tokens).float(), torch.linspace(0.1, 1, 8)).repeat_interleave(2, 1)
        return {
            "hidden_states": noise(1, frames, 4, 8, 8),
            "encoder_hidden_states": noise(1, 8, 12),
            "timestep": torch.tensor([3]),
            "image_rotary_emb": (rotary.cos(), rotary.sin()),
        }

    return model, inputs


def wan() -> tuple[nn.Module, Inputs]:
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=12,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    return model, lambda frames: {
        "hidden_states": noise(1, 4, frames, 8, 8),
        "encoder_hidden_states": noise(1, 8, 12),
        "timestep": torch.tensor([3]),
    }


def flux() -> tuple[nn.Module, Inputs]:
    model = diffusers.FluxTransformer2DModel(
        in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=6,
        axes_dims_rope=(4, 4, 8),
    )

    def inputs(frames: int) -> dict[str, torch.Tensor]:
        tokens = 16 * frames
        ids = torch.stack([torch.zeros(tokens), torch.arange(tokens) // 8, torch.arange(tokens) % 8], 1)
        return {
            "hidden_states": noise(1, tokens, 8),
            "encoder_hidden_states": noise(1, 8, 12),
            "pooled_projections": noise(1, 6),
            "timestep": torch.tensor([0.5]),
            "img_ids": ids,
            "txt_ids": torch.zeros(8, 3),
        }

    return model, inputs


def hunyuan() -> tuple[nn.Module, Inputs]:
    model = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=12,
        pooled_projection_dim=6,
        rope_axes_dim=(4, 4, 8),
    )
    return model, lambda frames: {
        "hidden_states": noise(2, 4, frames, 8, 8),
        "encoder_hidden_states": noise(2, 8, 12),
        "encoder_attention_mask": torch.tensor([[1] * 8, [1] * 5 + [0] * 3]),
        "timestep": torch.tensor([3, 3]),
        "pooled_projections": noise(2, 6),
        "guidance": torch.tensor([1.0, 1.0]),
    }


KINDS = {"cogvideox": cogvideox, "wan": wan, "flux": flux, "hunyuan": hunyuan}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> tuple[nn.Module, Inputs]:
    torch.manual_seed(0)
    model, inputs = KINDS[request.param]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2)
    return model.eval(), inputs


@torch.no_grad()
def output(model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    return model(**inputs, return_dict=False)[0]


@pytest.mark.parametrize("frames", [3, 5])
def test_with_all_blocks_it_is_the_dense_model(kind: tuple[nn.Module, Inputs], frames: int) -> None:
    model, inputs = kind
    dense = output(model, inputs(frames))
    applied = diffusion.apply(model, topk=1.0, **SMALL)
    torch.testing.assert_close(output(model, inputs(frames)), dense, rtol=1e-4, atol=1e-4)
    assert applied.layers
    assert applied.sparsity == 0
    applied = diffusion.apply(model, topk=0.3, **SMALL)
    sparse = output(model, inputs(frames))
    assert 0.2 < applied.sparsity < 0.7
    assert (sparse - dense).abs().max() > 1e-4
    diffusion.remove(model)
    assert torch.equal(output(model, inputs(frames)), dense)


def test_tuning_over_prompts(kind: tuple[nn.Module, Inputs]) -> None:
    model, inputs = kind
    dense = output(model, inputs(4))
    calls = [lambda frames=frames: output(model, inputs(frames)) for frames in (3, 4, 5)]
    profile = diffusion.tune(model, calls, l1=0.2, pv_l1=0.25, **SMALL)
    assert torch.equal(output(model, inputs(4)), dense)
    assert all((layer.error <= 0.25 + 1e-5).all() for layer in profile.layers.values())
    diffusion.apply(model, profile)
    assert (output(model, inputs(4)) - dense).norm() < 0.5 * dense.norm()
    other = type(model).from_config(model.config)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="the profile was tuned on another model"):
        diffusion.apply(other, profile)


def test_a_pipeline_is_taken_by_its_transformer() -> None:
    model, inputs = wan()
    pipeline = type("Pipeline", (), {"transformer": model})()
    applied = diffusion.apply(pipeline, topk=0.5, **SMALL)
    for _ in range(2):
        output(model, inputs(4))
        assert applied.sparsity > 0
        applied.reset()
        assert applied.sparsity == 0
    diffusion.remove(pipeline)


def test_both_sequences_of_a_guided_batch_are_measured() -> None:
    model, inputs = wan()
    single = inputs(4)
    guided = {name: torch.cat([value, 3 * value]) if value.dim() > 1 else value for name, value in single.items()}
    guided["timestep"] = torch.tensor([3, 3])
    meters = []
    original = diffusion.Meter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "Meter", lambda *arguments: meters.append(original(*arguments)) or meters[-1])
        diffusion.tune(model, [lambda: output(model, guided)], **SMALL)
    assert {len(meter.curve.squares) for meter in meters if meter.curve is not None} == {2}


def test_what_cannot_be_made_sparse(tiny_model: Callable[..., nn.Module]) -> None:
    with pytest.raises(ModelError, match="has no attention processors"):
        diffusion.apply(tiny_model(), topk=0.5)
    with pytest.raises(ModelError, match="this pipeline has no transformer"):
        diffusion.apply(object(), topk=0.5)
    with pytest.raises(InputError, match="tuning needs at least one run"):
        diffusion.tune(wan()[0], [])
    model, inputs = wan()
    with pytest.raises(InputError, match="no attention in these runs was over 256 tokens or more"):
        diffusion.tune(model, [lambda: output(model, inputs(3))])
