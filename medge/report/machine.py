"""The machine of a measurement in words: what it is, and how it was before and after."""

from __future__ import annotations

from typing import Any

__all__ = ["machine", "where"]


def machine(device: dict[str, Any]) -> dict[str, Any]:
    """Facts as pairs; states before and after side by side, with the reason for what the machine does not show."""
    facts, before, after = device["facts"], device["before"], device["after"]
    missing = facts.get("missing", {}) | before.get("missing", {})

    def text(value: Any, name: str) -> str:
        return f"not shown ({missing.get(name, 'no reason given')})" if value is None else _words(value)

    shown = [(n.replace("_", " "), text(v, n)) for n, v in facts.items() if n != "missing" and v is not None]
    states = [(n.replace("_", " "), text(before[n], n), text(after.get(n), n)) for n in before if n != "missing"]
    return {"kind": device["kind"], "where": where(device), "facts": shown, "states": states}


def where(device: dict[str, Any]) -> str:
    """`cart7 (jetson)`: its name in the device book and its kind; `local` for this host."""
    return f"{device['name']} ({device['kind']})" if device.get("name") else str(device["kind"])


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_words(one)}" for key, one in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return (
            "; ".join(map(_words, value))
            if any(isinstance(v, dict) for v in value)
            else (", ".join(map(str, value)) or "none")
        )
    return str(value)
