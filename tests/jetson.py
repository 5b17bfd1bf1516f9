"""A `run` whose commands are those of the fake Jetson."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from medge.errors import MissingError, ToolError
from medge.protocols import Run

FAKE_JETSON = Path(__file__).parent / "fake_jetson"


def fake_run(state: Path, **environment: str) -> Run:
    """Runs commands here with the fake's folder first on PATH. Keywords are environment variables, e.g.
    FAKE_JETSON_USER."""
    env = {
        **os.environ,
        "PATH": f"{FAKE_JETSON}{os.pathsep}{os.environ['PATH']}",
        "FAKE_JETSON_STATE": str(state),
        **environment,
    }

    def run(command: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                ["/usr/bin/env", *command],
                capture_output=True,
                text=True,
                env=env,
                timeout=20,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise ToolError(f"'{' '.join(command)}' did not end.") from None
        if done.returncode == 127:
            raise MissingError(f"There is no command '{command[0]}' there.")
        if done.returncode != 0:
            raise ToolError(done.stderr.strip() or f"exit {done.returncode}")
        return done.stdout

    return run
