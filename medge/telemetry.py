"""Keeps Intel's telemetry client out of the process: medge makes no network call that its user did not ask for. That of
ONNX Runtime is switched off in medge/__init__.py, for every process and those that it starts.

NNCF and OpenVINO both `import openvino_telemetry` and fall back to a stub of their own where it is not installed.
Standard library only; call it before the first import of nncf or openvino.
"""

from __future__ import annotations

import sys

__all__ = ["silence"]


def silence() -> None:
    """Makes `import openvino_telemetry` fail in this process, unless something else has imported it already.

    Unlike the package's opt-out it writes nothing into the home folder, and unlike NNCF_CI it is not inherited by
    the processes that this one starts.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # the documented way to block a module
