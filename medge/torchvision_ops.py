"""Makes `import torchvision` (and so `import timm`) work beside a CPU-only torch.

torchvision's Linux wheel is a CUDA build. Where its extension cannot load, the import fails with "operator
torchvision::nms does not exist": torchvision registers a fake kernel for an operator that only the extension defines.
Declaring the two schemas is enough; medge uses neither operator. Call `define_missing` before the first import.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

__all__ = ["define_missing"]

_SCHEMAS = ("nms", "qnms")
_declared: list[torch.library.Library] = []  # a Library withdraws its schemas when it is collected


def define_missing() -> bool:
    """True where the schemas had to be declared; False where torchvision is absent, imported or loads by itself."""
    if _declared or "torchvision" in sys.modules or _extension_loads():
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in _SCHEMAS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _declared.append(library)
    return True


def _extension_loads() -> bool:
    """Whether torchvision's extension loads here (then it stays loaded), or there is no torchvision to mend."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True
    folder = Path(next(iter(spec.submodule_search_locations)))
    for path in sorted(p for p in folder.glob("_C*") if p.suffix in (".so", ".pyd", ".dylib")):
        try:
            torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
        except OSError:
            return False
        return True
    return False
