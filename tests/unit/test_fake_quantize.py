"""NNCF's quantisers on torch's kernels: the values and gradients that NNCF's own reference gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medge import fake_quantize


def _range(
    channels: int, axis: int, *, signed: bool, narrow: bool, seed: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """low, extent and levels, as NNCF's symmetric quantiser derives them from a scale."""
    generator = torch.Generator().manual_seed(seed)
    shape = [1, 1, 1, 1]
    shape[axis] = channels
    scale = torch.rand(shape if channels > 1 else [1], generator=generator) * 4 + 0.1
    level_low, level_high = (-127 if narrow else -128, 127) if signed else (0, 255)
    low = scale * (level_low / level_high)
    return low, scale - low, level_high - level_low + 1


@settings(max_examples=60)
@given(
    channels=st.sampled_from([1, 3]),
    axis=st.sampled_from([0, 1]),
    signed=st.booleans(),
    narrow=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_values_and_gradients_are_those_of_nncfs_reference(
    channels: int, axis: int, signed: bool, narrow: bool, seed: int
) -> None:
    fake_quantize.imported_nncf()
    from nncf.torch.quantization.reference import ReferenceBackendType, ReferenceQuantize

    reference = ReferenceQuantize(ReferenceBackendType.TORCH)
    low, extent, levels = _range(channels, axis, signed=signed, narrow=narrow, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 3, 4, 4, generator=generator) * 3
    gradient = torch.randn(3, 3, 4, 4, generator=generator)
    step = float((extent / (levels - 1)).max())
    ours, theirs = fake_quantize.forward(values, low, extent, levels), reference.forward(values, low, extent, levels)
    # Values on a rounding tie may fall to either side of it.
    apart = (ours - theirs).abs()
    assert float(apart.max()) <= step * 1.001
    assert float((apart > step / 2).float().mean()) <= 0.02
    level_low, level_high = (-127 if narrow else -128, 127) if signed else (0, 255)
    got = fake_quantize.backward(gradient, values, low, extent, levels, level_low, level_high, False)
    expected = reference.backward(gradient, values, low, extent, levels, level_low, level_high)
    torch.testing.assert_close(got[0], expected[0])
    assert got[2].shape == extent.shape
    # The reference leaves a per-tensor gradient unsummed.
    summed = expected[2] if channels > 1 else expected[2].sum().reshape(1)
    torch.testing.assert_close(got[2], summed, rtol=1e-3, atol=2e-2)


def test_without_a_word_on_symmetry_as_nncf_asks_on_cuda_devices_every_gradient_is_there() -> None:
    low, extent, levels = _range(3, 1, signed=True, narrow=False, seed=0)
    values = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 3
    asked = (torch.ones_like(values), values, low, extent, levels, -128, 127)
    for given_, wanted in zip(fake_quantize.backward(*asked), fake_quantize.backward(*asked, True), strict=True):
        torch.testing.assert_close(given_, wanted)


def test_zero_stays_zero_and_values_saturate_at_the_ends_of_the_range() -> None:
    low, extent, levels = torch.tensor([-1.0]), torch.tensor([2.0 - 1 / 128]), 256
    values = torch.tensor([-9.0, 0.0, 9.0])
    assert fake_quantize.forward(values, low, extent, levels).tolist() == pytest.approx([-1.0, 0.0, 1 - 1 / 128])


def test_no_extension_is_compiled(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.utils.cpp_extension

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("NNCF compiles its extension")

    nncf = fake_quantize.imported_nncf()
    monkeypatch.setattr(torch.utils.cpp_extension, "load", refuse)
    from nncf.torch.quantization.quantize_functions import QuantizeSymmetric

    assert nncf.__version__
    values = torch.randn(2, 3, requires_grad=True)
    QuantizeSymmetric.apply(values, torch.tensor([1.0]), -128, 127, 256).sum().backward()
    assert values.grad is not None
