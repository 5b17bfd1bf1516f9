"""PyTorch run eagerly on the processor: what benchmarks/eager.py compares engines with. Its file is a torch model that
medge saved; nothing is compiled, so there is no `build`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medge.protocols import QuantRules

__all__ = ["PACKAGE", "PRECISIONS", "QUANT", "missing", "start", "versions"]

PACKAGE = "torch"
PRECISIONS = ("float32",)
QUANT = QuantRules(activations="as-is")


def missing(precision: str) -> str | None:
    return None if precision in PRECISIONS else f"eager PyTorch is measured in {PRECISIONS[0]} alone."


def versions() -> dict[str, str]:
    import torch

    return {"torch": torch.__version__}


def start(folder: Path, files: Sequence[str], *, precision: str, threads: int) -> Any:
    """A session on `medge.model.save`'s files in `folder`."""
    import torch

    from medge import model

    torch.set_num_threads(threads)
    return _Eager(model.load(folder))


class _Eager:
    def __init__(self, model: Any) -> None:
        self._model = model

    def run(self, images: Any) -> tuple[Any, Any]:
        """uint8 [1, height, width, 3] -> logits float32 [1, classes], features float32 [1, dimensions]."""
        import torch

        with torch.inference_mode():
            logits, features = self._model(torch.from_numpy(images))
        return logits.numpy(), features.numpy()
