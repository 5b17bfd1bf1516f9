"""What layers in float cost in latency: engines with more and more of them in float, measured side by side."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from medge import quantised
from medge.errors import MissingError, ToolError
from medge.quick_latency import Built, QuickBench
from medge.records import from_json, read_json, sha256_of_json, write_json
from medge.statistics.latency import Ratio, paired_ratio

if TYPE_CHECKING:
    from torch import nn

__all__ = ["costs", "words"]

_TOGETHER = 5  # engines measured side by side, each a process; the first of a group is the last of the group before
_SPENT = "its latency was not measured: the budget is spent"


def costs(
    clock: QuickBench, model: nn.Module, layers: Sequence[str], *, key: str, seconds: float
) -> list[tuple[float, Ratio]]:
    """For each layer k the median latency in ms of the engine with layers[:k] in float, and the ratio of the engine
    with layers[:k + 1] to it. Of as many layers, from the first on, as `seconds` allow.

    model: with all of them quantised; it is left as it was. `key` names the model: with the same key and layers the
    result kept in `clock.work` is given again. Raises MissingError where the backend cannot run here, ToolError where
    it refuses the model.
    """
    import torch

    path = clock.work / "latency.json"
    wanted = sha256_of_json({"model": key, "backend": clock.backend, "layers": list(layers)})
    if path.is_file():
        kept = read_json(path)
        if kept["key"] == wanted:
            return [(row["ms"], from_json(Ratio, row["ratio"])) for row in kept["layers"]]
    shutil.rmtree(clock.work, ignore_errors=True)
    clock.work.mkdir(parents=True)
    example = torch.from_numpy(clock.data.read(clock.calibration[:1]))
    known, served = quantised.layers(model, example)
    by_name = {layer.name: layer for layer in known}

    def build(count: int) -> Built:
        lighter = copy.deepcopy(model)
        quantised.remove(lighter, quantised.serving(served, [by_name[name] for name in layers[:count]]))
        return clock.build(f"{count}-in-float", lighter, precision="float32")

    found: list[tuple[float, Ratio]] = []
    until = time.monotonic() + seconds
    while len(found) < len(layers) and time.monotonic() < until:
        first = len(found)
        built = [build(count) for count in range(first, min(first + _TOGETHER, len(layers) + 1))]
        medians = clock.medians(built)
        series = [medians[engine.name] for engine, _ in built]
        found += [(float(np.median(a)), paired_ratio(b, a, seed=clock.seed)) for a, b in pairwise(series)]
        for _, folder in built:
            shutil.rmtree(folder)
    if len(found) == len(layers):
        write_json(path, {"key": wanted, "layers": [{"ms": ms, "ratio": ratio} for ms, ratio in found]})
    return found


def words(clock: QuickBench, model: nn.Module, layers: Sequence[str], *, key: str, seconds: float) -> list[str]:
    """The same as words for each layer, such as `+0.04 ms [+0.02, +0.06] on openvino`, or why they are not known."""
    try:
        found = costs(clock, model, layers, key=key, seconds=seconds)
    except (MissingError, ToolError) as error:
        return [f"its latency is not known ({error.message})"] * len(layers)
    said = [
        f"{ms * (ratio.ratio - 1):+.3f} ms [{ms * (ratio.lower - 1):+.3f}, {ms * (ratio.upper - 1):+.3f}] on "
        f"{clock.backend} here"
        for ms, ratio in found
    ]
    return said + [_SPENT] * (len(layers) - len(said))
