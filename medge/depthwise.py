"""Depthwise convolutions in bfloat16 with a backward pass that is not slower than float32's.

oneDNN has no good bfloat16 kernels for two of their gradients. CPU time in ms on one core with AVX512-BF16, batch 32,
channels_last, float32 against bfloat16: the input's gradient with stride 2 (96 channels, 112 px) 97 against 383; the
weight's gradient of 5x5 kernels (672 channels, 14 px) 40 against 164. Everything else is faster in bfloat16.
So those two are computed in float32; together they were half of a training step of EfficientNet-Lite0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["FloatGradients"]


class FloatGradients(TorchFunctionMode):
    """A context in which autocast's bfloat16 depthwise convolutions on the CPU get the faster gradients."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7 and _applies(*args):
            image, weight, bias, stride, padding, _, groups = args
            output = _Depthwise.apply(image.to(torch.bfloat16), weight, stride, padding, groups)  # type: ignore[no-untyped-call]
            return output if bias is None else output + bias.to(torch.bfloat16).view(1, -1, 1, 1)
        return func(*args, **(kwargs or {}))


def _applies(image: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    return (
        groups > 1
        and groups == image.shape[1] == weight.shape[0]
        and image.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and not isinstance(padding, str)
        and tuple(dilation) == (1, 1)
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, stride: Any, padding: Any, groups: int) -> Tensor:
        ctx.save_for_backward(image, weight)
        ctx.geometry = (stride, padding, groups)
        with torch.autocast("cpu", enabled=False):
            return torch.nn.functional.conv2d(image, weight.to(torch.bfloat16), None, stride, padding, (1, 1), groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        image, weight = ctx.saved_tensors
        stride, padding, groups = ctx.geometry
        types = (
            torch.float32 if max(stride) > 1 else torch.bfloat16,
            torch.float32 if max(weight.shape[2:]) > 3 else torch.bfloat16,
        )
        found: list[Tensor | None] = [None, None]
        for which in (0, 1):
            if ctx.needs_input_grad[which]:
                found[which] = torch.ops.aten.convolution_backward(
                    gradient.to(types[which]), image.to(types[which]), weight.to(types[which]), None,
                    stride, padding, (1, 1), False, (0, 0), groups, (which == 0, which == 1, False),
                )[which]  # fmt: skip
        of_image, of_weight = found
        return (
            None if of_image is None else of_image.to(image.dtype),
            None if of_weight is None else of_weight.to(weight.dtype),
            None,
            None,
            None,
        )
