"""Post-training quantisation with NNCF: int8 weights per channel and activations per tensor, no training.

Ranges come from the calibration images. BatchNorms are folded first. The input's normalisation and the head stay in
float: int8 logits are so coarse that their ties alone cost AUC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medge import console
from medge.compressors._options import check_choice, check_flag, check_names, check_number, layers_named
from medge.errors import RecipeError
from medge.fake_quantize import imported_nncf
from medge.quantised import graph_of, keep_biases, squeezes
from medge.quiet import quiet
from medge.records import read_json, write_json
from medge.setting_search import best_setting

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medge.compressors import Context
    from medge.model import Classifier

__all__ = ["LEAVES_IN_FLOAT", "QUANTISES", "Options", "apply", "check", "quantise", "quantisers", "settled"]

QUANTISES = True
LEAVES_IN_FLOAT = "ignored"  # the option that a rollback adds its layers to; applying again trains nothing
_CHOSEN = "chosen.json"  # of a search
RANGE_ESTIMATORS = (
    "default", "minmax", "mean_minmax", "median_minmax", "mean_no_outliers_minmax", "mean_quantile", "histogram",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """How ranges are chosen and what is left in float.

    preset: `performance` (symmetric activations) or `mixed` (asymmetric where both signs occur).
    bias_correction: NNCF's fast one; its accurate one takes an exported graph (torch.fx), and no torch module.
    overflow_fix: `disable`, `first_layer` or `enable`: halves the weights' range of no, the first, or every layer, so
        that processors whose 8-bit products saturate (x86 without VNNI) cannot overflow. NNCF's own default,
        `first_layer`, costs the stem one bit, which on EfficientNet-Lite0 caused most of the flipped decisions. With
        `disable` such a processor may still overflow: each device is judged by its own predictions.
    ignored: torch modules left in float with all below them, such as `backbone.conv_stem` or `backbone.blocks.0`, or
        functions that a module calls, such as the addition `backbone.blocks.1.1:add`; * and ? as in file names.
    subset_size: at most so many of the calibration images are used.
    range_estimator: how an activation's range follows from the calibration images: `default` (NNCF's choice),
        `minmax`, `mean_minmax`, `median_minmax`, `mean_no_outliers_minmax`, `mean_quantile` or `histogram`.
    smooth_quant_alpha: SmoothQuant moves large inputs of linear layers into their weights, the more the larger (0 to
        1): for vision transformers, as which NNCF then treats the model; none and -1 leave it out.
    se_in_float: squeeze-and-excitation blocks stay in float.
    search: so many settings of these options are tried and the one nearest to the float model on validation images
        kept (medge.setting_search); 0 quantises once.
    signed: int8 activations with zero point 0 everywhere, as TensorRT reads them. NNCF gives uint8 to what is never
        negative, after ReLU say; signed, that keeps 7 of its 8 bits.
    """

    preset: str = "performance"
    bias_correction: bool = True
    overflow_fix: str = "disable"
    ignored: tuple[str, ...] = ()
    subset_size: int = 300
    signed: bool = False
    range_estimator: str = "default"
    smooth_quant_alpha: float | None = None
    se_in_float: bool = False
    search: int = 0

    def __post_init__(self) -> None:
        check_choice("preset", self.preset, ("performance", "mixed"))
        check_flag("bias_correction", self.bias_correction)
        check_choice("overflow_fix", self.overflow_fix, ("disable", "first_layer", "enable"))
        object.__setattr__(self, "ignored", check_names("ignored", self.ignored))
        check_number("subset_size", self.subset_size, kind=int, low=1)
        check_flag("signed", self.signed)
        check_choice("range_estimator", self.range_estimator, RANGE_ESTIMATORS)
        if self.smooth_quant_alpha is not None and self.smooth_quant_alpha != -1:
            check_number("smooth_quant_alpha", self.smooth_quant_alpha, low=0, high=1)
        check_flag("se_in_float", self.se_in_float)
        check_number("search", self.search, kind=int, low=0)
        if self.signed and self.preset == "mixed":
            raise ValueError("signed needs the preset performance: mixed has zero points other than 0")


def apply(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """A quantised copy of `model`, in eval mode: NNCF's quantisers simulate int8 in float32.

    Raises RecipeError where `ignored` names nothing.
    """
    import torch

    from medge.fold import fold_batch_norms

    example = torch.from_numpy(context.data.read(context.calibration[:1]))
    folded, _ = fold_batch_norms(model, example)

    def quantised(setting: Options) -> nn.Module:
        rows = context.calibration[: setting.subset_size]
        return quantise(folded, (torch.from_numpy(context.data.read([row])) for row in rows), setting)

    if not options.search:
        return quantised(options)
    best, found = best_setting(options, quantised, context, settings=options.search)
    write_json(context.work / _CHOSEN, asdict(replace(best, search=0)))
    return found


def settled(options: Options, work: Path) -> Options:
    """The options that `apply` came to in `work`: without a search the same, with one those that it chose."""
    return Options(**read_json(work / _CHOSEN)) if options.search else options


def check(model: Classifier, options: Options, context: Context) -> Classifier:
    """See medge.protocols.LooksAhead. The model itself: what follows is checked as if it were not quantised."""
    import torch

    from medge.fold import fold_batch_norms

    example = torch.from_numpy(context.data.read(context.calibration[:1]))
    folded = fold_batch_norms(model, example)[0]
    _float_patterns(folded, options, example)
    if not _left(folded, options):
        raise RecipeError(
            "ptq: every layer stays in float, so nothing would be quantised.", fix="Give fewer names in ignored."
        )
    return model


def quantise(model: nn.Module, images: Iterable[torch.Tensor], options: Options) -> nn.Module:
    """Quantises a model without BatchNorms; `images` uint8 [1, H, W, 3] are read once. The model is not changed."""
    nncf = imported_nncf()
    kept = _Counted(images)
    patterns = _float_patterns(model.eval(), options, kept.images[0])
    with quiet():
        quantised: nn.Module = nncf.quantize(
            model,
            nncf.Dataset(kept),
            preset=nncf.QuantizationPreset(options.preset),
            subset_size=len(kept),
            # NNCF leaves SmoothQuant out, whatever its alpha, for what is not called a transformer.
            model_type=None if options.smooth_quant_alpha in (None, -1) else nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(patterns=patterns, validate=False),
            advanced_parameters=_advanced(nncf, options),
        )
    if options.signed:
        _make_signed(quantised)
    keep_biases(quantised, model)
    return quantised.eval()


class _Counted:
    """Calibration images; each of NNCF's passes over them is a bar of its own."""

    def __init__(self, images: Iterable[torch.Tensor]) -> None:
        self.images = list(images)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[torch.Tensor]:
        with console.progress("calibration", len(self)) as advance:
            for image in self.images:
                yield image
                advance()


def _advanced(nncf: Any, options: Options) -> Any:
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters, QuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    given: dict[str, Any] = {}
    if options.range_estimator != "default":
        estimator = getattr(RangeEstimatorParametersSet, options.range_estimator.upper())
        given["activations_range_estimator_params"] = estimator
    if options.smooth_quant_alpha is not None:
        given["smooth_quant_alphas"] = AdvancedSmoothQuantParameters(matmul=options.smooth_quant_alpha)
    return nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix[options.overflow_fix.upper()],
        disable_bias_correction=not options.bias_correction,
        # Per-channel scales before depthwise convolutions suit no engine but OpenVINO.
        activations_quantization_params=QuantizationParameters(per_channel=False),
        **given,
    )


def quantisers(model: nn.Module) -> list[Any]:
    """NNCF's quantiser modules in a model, weights' and activations' alike; empty for a float model."""
    return [m for m in model.modules() if type(m).__module__ == "nncf.torch.quantization.layers"]


def _make_signed(model: nn.Module) -> None:
    """Turns uint8 quantisers into int8 ones of the same range; NNCF's `signedness_to_force` raises in 3.4."""
    for quantiser in quantisers(model):
        if not quantiser.signed:
            quantiser.signed = True


def _float_patterns(model: nn.Module, options: Options, example: torch.Tensor) -> list[str]:
    """Regular expressions over NNCF's node names (`backbone/blocks/0/conv/conv2d/0`) of all that stays in float."""
    functions = _functions(model, example) if any(":" in name for name in options.ignored) else []
    names = layers_named(model, options.ignored, functions=functions)
    names += squeezes(model) if options.se_in_float else []
    # Everything outside the backbone: the normalisation of the input, and the head.
    return ["(?!backbone/).*", *map(_pattern, names)]


def _left(model: nn.Module, options: Options) -> list[str]:
    """Names of the backbone's convolutions and linear layers that do not stay in float."""
    from torch import nn

    kept = layers_named(model, [name for name in options.ignored if ":" not in name])
    kept += squeezes(model) if options.se_in_float else []
    weighted = [name for name, layer in model.named_modules() if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear))]
    inside = [name for name in weighted if name.startswith("backbone.")]
    return [name for name in inside if not any(f"{name}.".startswith(f"{other}.") for other in kept)]


def _functions(model: nn.Module, example: torch.Tensor) -> list[str]:
    """All that the model computes for `example`, as `ignored` names it: `backbone.blocks.1.1:add`, and by the call."""
    nodes = [node.node_name for node in graph_of(model, example).get_all_nodes()]
    calls = [node.rsplit("/", 2) for node in nodes if "/" in node]  # of constants and inputs the names have none
    named = [(f"{module.replace('/', '.')}:{function}", number) for module, function, number in calls]
    return list(dict.fromkeys(name for whole, number in named for name in (whole, f"{whole}/{number}")))


def _pattern(name: str) -> str:
    """`backbone.blocks.1.1:add` is backbone/blocks/1/1/add/0 and all further calls, `:add/1` the second call alone."""
    module, colon, function = name.partition(":")
    path = re.escape(module.replace(".", "/"))
    if not colon:
        return f"{path}/.*"
    return f"{path}/{re.escape(function)}" + ("" if "/" in function else "/[0-9]+")
