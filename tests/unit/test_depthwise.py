"""Depthwise convolutions under bfloat16 autocast: the same results, whichever precision the gradients take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medge.depthwise import FloatGradients


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_agree_with_float32(kernel: int, stride: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=bias)
    image = torch.randn(4, 8, 12, 12).requires_grad_()
    inputs = [image, *layer.parameters()]
    expected_output = layer(image)
    weights = torch.randn_like(expected_output)
    expected = torch.autograd.grad((expected_output * weights).sum(), inputs)
    with torch.autocast("cpu", torch.bfloat16), FloatGradients():
        output = layer(image)
    assert output.dtype is torch.bfloat16
    found = torch.autograd.grad((output * weights).sum(), inputs)
    torch.testing.assert_close(output.float(), expected_output, rtol=0.02, atol=0.03)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999
        assert ours.dtype is theirs.dtype


def test_without_autocast_nothing_changes() -> None:
    layer, image = nn.Conv2d(4, 4, 3, groups=4), torch.randn(1, 4, 8, 8)
    with FloatGradients():
        assert torch.equal(layer(image), nn.functional.conv2d(image, layer.weight, layer.bias, groups=4))


def test_frozen_weights_get_no_gradient_and_pass_it_on() -> None:
    layer, image = nn.Conv2d(4, 4, 3, groups=4, bias=False), torch.randn(1, 4, 8, 8, requires_grad=True)
    layer.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16), FloatGradients():
        layer(image).float().sum().backward()
    assert image.grad is not None
    assert layer.weight.grad is None
