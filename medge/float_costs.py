"""What layers in float cost in latency: engines with more and more of them in float, measured side by side."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from medge import quantised
from medge.errors import MissingError, ToolError
from medge.quick_latency import QuickBench
from medge.records import from_json, read_json, sha256_of_json, write_json
from medge.statistics.latency import Ratio, paired_ratio

if TYPE_CHECKING:
    from torch import nn

__all__ = ["costs", "words"]


def costs(bench: QuickBench, model: nn.Module, layers: Sequence[str], *, key: str) -> list[tuple[float, Ratio]]:
    """For each layer the milliseconds of the engine with those before it in float, and the ratio that it adds to them.

    model: with all of them quantised; it is left as it was. `key` names the model: with the same key and layers the
    result kept in `bench.work` is given again. Raises MissingError where the backend cannot run here, ToolError where
    it refuses the model.
    """
    import torch

    path = bench.work / "latency.json"
    wanted = sha256_of_json({"model": key, "backend": bench.backend, "layers": list(layers)})
    if path.is_file():
        kept = read_json(path)
        if kept["key"] == wanted:
            return [(row["ms"], from_json(Ratio, row["ratio"])) for row in kept["layers"]]
    shutil.rmtree(bench.work, ignore_errors=True)
    bench.work.mkdir(parents=True)
    example = torch.from_numpy(bench.data.read(bench.calibration[:1]))
    known, served = quantised.layers(model, example)
    by_name = {layer.name: layer for layer in known}
    built = []
    for count in range(len(layers) + 1):
        lighter = copy.deepcopy(model)
        quantised.remove(lighter, quantised.serving(served, [by_name[name] for name in layers[:count]]))
        built.append(bench.build(f"{count}-in-float", lighter, precision="float32"))
    medians = bench.medians(built)
    series = [medians[engine.name] for engine, _ in built]
    found = [
        (float(np.median(before)), paired_ratio(after, before, seed=bench.seed)) for before, after in pairwise(series)
    ]
    for _, folder in built:
        shutil.rmtree(folder)
    write_json(path, {"key": wanted, "layers": [{"ms": ms, "ratio": ratio} for ms, ratio in found]})
    return found


def words(bench: QuickBench, model: nn.Module, layers: Sequence[str], *, key: str) -> list[str]:
    """The same as words for each layer, such as `+0.04 ms [+0.02, +0.06] on openvino`, or why they are not known."""
    try:
        found = costs(bench, model, layers, key=key)
    except (MissingError, ToolError) as error:
        return [f"its latency is not known ({error.message})"] * len(layers)
    return [
        f"{ms * (ratio.ratio - 1):+.3f} ms [{ms * (ratio.lower - 1):+.3f}, {ms * (ratio.upper - 1):+.3f}] on "
        f"{bench.backend} here"
        for ms, ratio in found
    ]
