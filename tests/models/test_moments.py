"""Moments of bfloat16 activations lose nothing to the units that multiply them."""

import torch

from secateur.calibration.moments import Gram


def test_products_of_bfloat16_inputs_are_those_of_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 24, generator=generator).bfloat16()
    target = torch.randn(300, 8, generator=generator).bfloat16()
    gram = Gram.of_pairs([(inputs, target), (inputs, target)])
    wide, goal = inputs.double(), target.double()
    torch.testing.assert_close(gram.inputs.double(), 2 * wide.T @ wide, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(gram.cross.double(), 2 * wide.T @ goal, rtol=1e-5, atol=1e-3)
    assert gram.tokens == 600


def test_products_of_float32_stay_as_exact_as_they_are() -> None:
    inputs = 1 + torch.rand(64, 4, generator=torch.Generator().manual_seed(1)) / 1000
    Gram.of_pairs([(inputs.bfloat16(), inputs.bfloat16())])
    gram = Gram.of_pairs([(inputs, inputs)])
    expected = inputs.double().T @ inputs.double()
    assert (gram.inputs.double() / expected - 1).abs().max() < 1e-6
