"""Post-training quantisation with NNCF: int8 weights per channel and activations per tensor, no training.

Ranges come from the calibration images. BatchNorms are folded first. The input's normalisation and the head stay in
float: int8 logits are so coarse that their ties alone cost AUC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medge import console
from medge.compressors._options import check_choice, check_flag, check_names, check_number, layers_named
from medge.fake_quantize import imported_nncf
from medge.quantised import keep_biases
from medge.quiet import quiet

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medge.compressors import Context

__all__ = ["LEAVES_IN_FLOAT", "QUANTISES", "Options", "apply", "quantise", "quantisers"]

QUANTISES = True
LEAVES_IN_FLOAT = "ignored"  # the option that a rollback adds its layers to; applying again trains nothing


@dataclass(frozen=True)
class Options:
    """How ranges are chosen and what is left in float.

    preset: `performance` (symmetric activations) or `mixed` (asymmetric where both signs occur).
    bias_correction: NNCF's fast one; its accurate one does not exist for torch models.
    overflow_fix: `disable`, `first_layer` or `enable`: halves the weights' range of no, the first, or every layer, so
        that processors whose 8-bit products saturate (x86 without VNNI) cannot overflow. NNCF's own default,
        `first_layer`, costs the stem one bit, which on EfficientNet-Lite0 caused most of the flipped decisions. With
        `disable` such a processor may still overflow: each device is judged by its own predictions.
    ignored: torch modules left in float with all below them, such as `backbone.conv_stem` or `backbone.blocks.0`, or
        functions that a module calls, such as the addition `backbone.blocks.1.1:add`; * and ? as in file names.
    subset_size: at most so many of the calibration images are used.
    signed: int8 activations with zero point 0 everywhere, as TensorRT reads them. NNCF gives uint8 to what is never
        negative, after ReLU say; signed, that keeps 7 of its 8 bits.
    """

    preset: str = "performance"
    bias_correction: bool = True
    overflow_fix: str = "disable"
    ignored: tuple[str, ...] = ()
    subset_size: int = 300
    signed: bool = False

    def __post_init__(self) -> None:
        check_choice("preset", self.preset, ("performance", "mixed"))
        check_flag("bias_correction", self.bias_correction)
        check_choice("overflow_fix", self.overflow_fix, ("disable", "first_layer", "enable"))
        object.__setattr__(self, "ignored", check_names("ignored", self.ignored))
        check_number("subset_size", self.subset_size, kind=int, low=1)
        check_flag("signed", self.signed)
        if self.signed and self.preset == "mixed":
            raise ValueError("signed needs the preset performance: mixed has zero points other than 0")


def apply(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """A quantised copy of `model`, in eval mode: NNCF's quantisers simulate int8 in float32.

    Raises RecipeError where `ignored` names nothing.
    """
    import torch

    from medge.fold import fold_batch_norms

    rows = context.calibration[: options.subset_size]
    example = torch.from_numpy(context.data.read(rows[:1]))
    folded, _ = fold_batch_norms(model, example)
    with console.progress("reading calibration images", len(rows)) as advance:

        def images() -> Iterator[torch.Tensor]:
            for row in rows:
                yield torch.from_numpy(context.data.read([row]))
                advance()

        return quantise(folded, images(), options)


def quantise(model: nn.Module, images: Iterator[torch.Tensor], options: Options) -> nn.Module:
    """Quantises a model without BatchNorms; `images` uint8 [1, H, W, 3] are read once. The model is not changed."""
    patterns = _float_patterns(model, options.ignored)
    nncf = imported_nncf()
    with quiet():
        from nncf.quantization.advanced_parameters import QuantizationParameters

        kept = list(images)
        quantised: nn.Module = nncf.quantize(
            model.eval(),
            nncf.Dataset(kept),
            preset=nncf.QuantizationPreset(options.preset),
            subset_size=len(kept),
            ignored_scope=nncf.IgnoredScope(patterns=patterns, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix[options.overflow_fix.upper()],
                disable_bias_correction=not options.bias_correction,
                # Per-channel scales before depthwise convolutions suit no engine but OpenVINO.
                activations_quantization_params=QuantizationParameters(per_channel=False),
            ),
        )
    if options.signed:
        _make_signed(quantised)
    keep_biases(quantised, model)
    return quantised.eval()


def quantisers(model: nn.Module) -> list[Any]:
    """NNCF's quantiser modules in a model, weights' and activations' alike; empty for a float model."""
    return [m for m in model.modules() if type(m).__module__ == "nncf.torch.quantization.layers"]


def _make_signed(model: nn.Module) -> None:
    """Turns uint8 quantisers into int8 ones of the same range; NNCF's `signedness_to_force` raises in 3.4."""
    for quantiser in quantisers(model):
        if not quantiser.signed:
            quantiser.signed = True


def _float_patterns(model: nn.Module, ignored: tuple[str, ...]) -> list[str]:
    """Regular expressions over NNCF's node names (`backbone/blocks/0/conv/conv2d/0`) of all that stays in float."""
    # Everything outside the backbone: the normalisation of the input, and the head.
    return ["(?!backbone/).*", *map(_pattern, layers_named(model, ignored))]


def _pattern(name: str) -> str:
    """`backbone.blocks.1.1:add` is backbone/blocks/1/1/add/0 and all further calls, `:add/1` the second call alone."""
    module, colon, function = name.partition(":")
    path = re.escape(module.replace(".", "/"))
    if not colon:
        return f"{path}/.*"
    return f"{path}/{re.escape(function)}" + ("" if "/" in function else "/[0-9]+")
