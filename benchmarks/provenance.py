"""Where a figure comes from: the command, the day and the machine."""

from __future__ import annotations

import datetime
import sys
from typing import Any

from medge.devices import local

__all__ = ["provenance"]


def provenance() -> dict[str, Any]:
    """{command, date, machine} for a file in benchmarks/results."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": local.facts(),
    }
