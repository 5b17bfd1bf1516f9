"""Folding BatchNorm: the same function, and only where nothing else reads what lies between."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medge import torchvision_ops
from medge.fold import fold_batch_norms

torchvision_ops.define_missing()


def _with_statistics(model: nn.Module, seed: int) -> nn.Module:
    """Every BatchNorm with statistics and an affine map far from the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 2, generator=generator)
            module.running_var.uniform_(0.05, 9, generator=generator)
            if module.affine:
                module.weight.data.normal_(0, 2, generator=generator)
                module.bias.data.normal_(0, 2, generator=generator)
    return model.eval()


def _norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


@settings(max_examples=40)
@given(
    groups=st.sampled_from([1, 2, 4]),
    per_group=st.integers(1, 3),
    kernel=st.sampled_from([1, 3]),
    bias=st.booleans(),
    affine=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_folded_convolution_computes_the_same_to_rounding(
    groups: int, per_group: int, kernel: int, bias: bool, affine: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    channels = groups * per_group
    conv = nn.Conv2d(4 * groups, channels, kernel, groups=groups, bias=bias, padding=1)
    model = _with_statistics(nn.Sequential(conv, nn.BatchNorm2d(channels, affine=affine), nn.ReLU()), seed)
    images = torch.randn(2, 4 * groups, 5, 5)
    folded, count = fold_batch_norms(model, images[:1])
    assert (count, _norms(folded)) == (1, 0)
    torch.testing.assert_close(folded.double()(images.double()), model.double()(images.double()), rtol=1e-5, atol=1e-4)


@settings(max_examples=40)
@given(width=st.integers(1, 9), bias=st.booleans(), dropout=st.booleans(), seed=st.integers(0, 2**31))
def test_a_batch_norm_before_a_linear_layer_is_folded_into_it(width: int, bias: bool, dropout: bool, seed: int) -> None:
    torch.manual_seed(seed)
    between = [nn.Dropout(0.5)] if dropout else []
    model = _with_statistics(nn.Sequential(nn.BatchNorm1d(width), *between, nn.Linear(width, 3, bias=bias)), seed)
    features = torch.randn(4, width)
    folded, count = fold_batch_norms(model, features[:1])
    assert (count, _norms(folded)) == (1, 0)
    torch.testing.assert_close(
        folded.double()(features.double()), model.double()(features.double()), rtol=1e-5, atol=1e-4
    )


def test_the_activation_inside_timms_batch_norm_is_kept() -> None:
    from timm.layers import BatchNormAct2d

    model = _with_statistics(nn.Sequential(nn.Conv2d(3, 5, 3), BatchNormAct2d(5, act_layer=nn.SiLU)), 1)
    images = torch.randn(2, 3, 8, 8)
    folded, count = fold_batch_norms(model, images)
    assert count == 1
    assert [type(m) for m in folded] == [nn.Conv2d, nn.SiLU]
    torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-5)


class _Shared(nn.Module):
    """The convolution's output is read by the BatchNorm and by an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        return self.norm(x) + x


class _Returned(_Shared):
    """The convolution's output is read by the BatchNorm and returned."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x = self.conv(images)
        return self.norm(x), x


class _Twice(_Shared):
    """One convolution serves two places, and only one of them has a BatchNorm."""

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(images)))


@pytest.mark.parametrize("kind", [_Shared, _Returned, _Twice])
def test_an_output_that_something_else_reads_is_left_alone(kind: type[_Shared]) -> None:
    model = _with_statistics(kind(), 2)
    images = torch.randn(1, 3, 4, 4)
    folded, count = fold_batch_norms(model, images)
    assert (count, _norms(folded)) == (0, 1)
    torch.testing.assert_close(folded(images), model(images))


def test_a_batch_norm_that_depends_on_the_batch_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    assert fold_batch_norms(model, torch.randn(2, 3, 4, 4))[1] == 0


def test_the_model_given_is_not_changed() -> None:
    model = _with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 3)
    before = copy.deepcopy(model.state_dict())
    fold_batch_norms(model, torch.randn(1, 3, 4, 4))
    assert _norms(model) == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "norms"), [("tf_efficientnet_lite0", 49), ("resnet18", 20), ("mobilenetv3_small_100", 34)]
)
def test_every_batch_norm_of_a_backbone_and_its_head_is_folded(name: str, norms: int) -> None:
    from medge.model import create, specify

    torch.manual_seed(0)
    model = _with_statistics(create(specify(name, classes=2, head="batchnorm", dropout=0.2, size=64)), 4)
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    folded, count = fold_batch_norms(model, images)
    assert (count, _norms(folded)) == (norms + 1, 0)
    with torch.no_grad():
        before, after = model(images), folded(images)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4 * float(one.abs().max()))
