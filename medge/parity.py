"""Does an engine compute what its model computed in torch? A few validation images, logits against logits.

float32 must agree closely; anything else is recorded here and judged by validate, by decisions and not by distance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medge import predictions
from medge.data.dataset import DataSet
from medge.errors import DataError, ToolError
from medge.records import Engine
from medge.runtime.child import logits_in_child
from medge.runtime.machine import cores_allowed

__all__ = ["FILE", "IMAGES", "TOLERANCE", "measure", "sentence"]

FILE = "parity.json"
IMAGES = 16
TOLERANCE = (
    1e-3  # of the largest logit, or of 1 if that is larger: float32 in another order of summation stays far below
)


def measure(engine: Engine, folder: Path, data: DataSet, table: Path, scratch: Path) -> dict[str, Any]:
    """{"images", "max_abs_logit_difference", "changed_decisions"} of an engine against torch's `table` of validation
    outputs (a decision here is the largest logit). Raises ToolError where a float32 engine is further than TOLERANCE,
    DataError where the table holds none of the images."""
    torch_outputs = predictions.read(table)
    index = {digest: k for k, digest in enumerate(torch_outputs.sha256)}
    known = [int(k) for k in data.indices("validation") if data.sha256s[k] in index]
    rows = [known[k] for k in np.unique(np.linspace(0, len(known) - 1, IMAGES).astype(int))] if known else []
    if not rows:
        raise DataError(f"{table} holds no validation image of {data.name}.", fix="Make it again: medge compress.")
    expected = torch_outputs.logits[[index[data.sha256s[k]] for k in rows]]
    actual = logits_in_child(
        engine,
        folder,
        images=data.folder / "images.u8",
        rows=rows,
        height=data.preprocess.height,
        width=data.preprocess.width,
        threads=cores_allowed(),
        output=scratch / "logits.npy",
    )
    if actual.shape != expected.shape:
        raise ToolError(f"{engine.name} gives logits {list(actual.shape)}, torch {list(expected.shape)}.", fix=_AGAIN)
    difference = float(np.abs(actual - expected).max())
    if engine.precision == "float32" and not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ToolError(f"{engine.name} disagrees with torch: logits differ by up to {difference:.3g}.", fix=_AGAIN)
    changed = int((actual.argmax(axis=1) != expected.argmax(axis=1)).sum())
    # Five decimals: the order of summation, which changes between runs, stays below.
    return {"images": len(rows), "max_abs_logit_difference": round(difference, 5), "changed_decisions": changed}


def sentence(figures: dict[str, Any]) -> str:
    """The figures of `measure` in words."""
    return (
        f"as built: logits within {figures['max_abs_logit_difference']:.2g} of the same variant's in torch, "
        f"{figures['changed_decisions']} of {figures['images']} decisions changed"
    )


_AGAIN = "Compile again; if it stays so, report the model, and leave this backend out."
