"""Any Linux machine over ssh: what devices/local.py reads there. Light ring."""

from __future__ import annotations

from medge.devices.local import facts, state

__all__ = ["facts", "state"]
