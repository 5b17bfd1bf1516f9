"""A receipt beside the made-up stages of tests.fake_stages, as a device would have given it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from medge import engines
from medge.receipts import FOLDER, Receipt, file_name, sealed, write_all
from medge.records import Engine, read_json, sha256_of_json
from medge.runtime.machine import machine
from medge.workspace import Stage

__all__ = ["chosen", "give_receipt"]


def chosen(run: dict[str, Stage]) -> Engine:
    """The engine that select chose."""
    name = read_json(run["select"].folder / "choice.json")["chosen"]
    return next(one for one, _ in engines.load_all(run["compile"].folder) if one.name == name)


def give_receipt(run: dict[str, Stage], **changes: Any) -> Path:
    """Writes a sealed receipt of the chosen engine on cart7, but for `changes`; returns its path."""
    engine = chosen(run)
    facts = {"cpu": "x", "cores": 4, "board": None}
    receipt = Receipt(
        engine=engine.name, engine_sha256=engine.sha256, onnx_sha256=engine.onnx_sha256, device="cart7", kind="linux",
        facts=facts, facts_sha256=sha256_of_json(facts), machine=machine({"onnxruntime": "1"}),
        power_mode={"name": "25W", "id": 1}, threads=1,
        selftest={"verdict": "pass", "vectors": 16, "largest_difference": 1e-7, "tolerance": 0.001},
        metrics={"set": "test", "images": 18, "accuracy": 0.9, "auc": 0.95},
        latency={"queries": 60, "p50_ms": 1.5, "p90_ms": 2.0, "p99_ms": None}, aa_control="stable",
        time="2026-01-01T00:00:00+00:00", job_seal="5" * 64,
        caches={"times": {"sha256": "6" * 64, "pin": {"gpu": "Orin"}, "given": None}}, answers={"test": "7" * 64},
    )  # fmt: skip
    write_all(run["profile"].folder, [sealed(replace(receipt, **changes))])
    return run["profile"].folder / FOLDER / file_name(engine.name)
