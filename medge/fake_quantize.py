"""NNCF, ready for use: without telemetry or chatter, and with its quantisers on torch's own kernels.

NNCF compiles a C++ extension into the user's cache when a quantiser first runs. That needs a compiler, takes a minute,
is refused after 60 s on a slow machine, and hangs for ever on the lock that a killed run leaves. The extension only
chains ATen operators; torch's fused fake-quantize computes the same, and exactly what the exported graph computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from medge import telemetry
from medge.quiet import quiet

if TYPE_CHECKING:
    import torch

__all__ = ["backward", "forward", "imported_nncf"]


def imported_nncf() -> Any:
    """The module nncf. Call it before anything of NNCF is imported or run."""
    telemetry.silence()
    with quiet():
        import nncf
        from nncf.torch.quantization import quantize_functions

        quantize_functions.QuantizedFunctionsCPU = _Kernels
        quantize_functions.QuantizedFunctionsCUDA = _Kernels
    return nncf


class _Kernels:
    """Stands where NNCF looks its compiled functions up."""

    @staticmethod
    def get(name: str) -> Callable[..., Any]:
        functions: dict[str, Callable[..., Any]] = {"Quantize_forward": forward, "Quantize_backward": backward}
        return functions[name]


def forward(values: torch.Tensor, low: torch.Tensor, extent: torch.Tensor, levels: int) -> torch.Tensor:
    """`values` rounded to the nearest of `levels` steps from `low` to `low + extent`, 0 being one of them.

    low and extent have one element, or one per channel in the place of the channel's axis.
    """
    import torch

    scale = extent / (levels - 1)
    zero_point = torch.round(-low / scale)
    if scale.numel() == 1:
        return torch.fake_quantize_per_tensor_affine(values, scale.item(), int(zero_point.item()), 0, levels - 1)
    axis = max(range(scale.dim()), key=lambda k: scale.shape[k])
    return torch.fake_quantize_per_channel_affine(
        values, scale.flatten(), zero_point.flatten().to(torch.int32), axis, 0, levels - 1
    )


def backward(
    gradient: torch.Tensor,
    values: torch.Tensor,
    low: torch.Tensor,
    extent: torch.Tensor,
    levels: int,
    level_low: int,
    level_high: int,
    asymmetric: bool = True,
) -> list[torch.Tensor]:
    """Gradients of values, low and extent, as NNCF defines them (functions_cpu.cpp, q_cpu_backward).

    Straight through inside the range; outside it the values get none and the range moves. NNCF says on processors alone
    whether it will read the gradient of low (`asymmetric`); on CUDA devices it is always there.
    """
    import torch

    above, below = values > low + extent, values < low
    outside = above | below
    error = (forward(values, low, extent, levels) - values) / extent
    error = error.masked_fill_(above, 1.0).masked_fill_(below, level_low / level_high).mul_(gradient)
    # In the symmetric mode low follows from extent, and NNCF does not read its gradient.
    of_low = _summed(gradient.masked_fill(~outside, 0.0), low) if asymmetric else torch.zeros_like(low)
    return [gradient.masked_fill(outside, 0.0), of_low, _summed(error, extent)]


def _summed(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Summed over the axes along which `like` is constant."""
    if like.numel() == 1:
        return values.sum().reshape(like.shape)
    return values.sum([k for k in range(values.dim()) if like.shape[k] == 1], keepdim=True)
