"""What a finished run on real images found, condensed for benchmarks/results/ from the run's own records.

    medge run recipes/chest-xray.yaml --set data.path=DIR
    python benchmarks/real_run.py runs/chest-xray
Writes benchmarks/results/<run>.json: verdicts, test metrics with intervals, latencies, seconds per stage, and the
sha256 of every stage's record and engine that the figures come from.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medge.data.dataset import SPLITS
from medge.records import NOTICE, write_json
from medge.report.gather import Found, gather

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--command", help="how the run was made, where the recipe alone does not say it")
    chosen = parser.parse_args()
    document = condensed(chosen.run)
    if chosen.command:
        document["command"] = chosen.command
    path = RESULTS / f"{document['run'].replace('-', '_')}.json"
    write_json(path, document)
    print(path)


def condensed(run: Path) -> dict[str, Any]:
    """The figures of a run, each beside the hash of what it came from. Raises IntegrityError for a broken run."""
    found = gather(run)
    sha256 = {engine.name: {"engine_sha256": engine.sha256, "bytes": engine.bytes} for engine in found.engines}
    latency = found.latency
    first = next(iter(found.judged.values()))["test"]
    return {
        "run": run.name,
        "command": f"medge run recipes/{run.name}.yaml --set data.path=DIR",
        "notice": NOTICE,
        "stages": {
            name: {"seconds": record["seconds"], "sha256": record["sha256"]} for name, record in found.records.items()
        },
        "data_sha256": found.data.sha256 if found.data else None,
        "protocol": found.trials["protocol"],
        "protocol_sha256": found.trials["protocol_sha256"],
        "test_images": first["images"],
        "float": first["metrics"]["float"],
        "engines": {
            name: {**sha256[name], **_on_validation(of["validation"]), **_figures(of["test"])}
            for name, of in found.judged.items()
        },
        "p50_ms": {name: engine["p50_ms"] for name, engine in latency.get("engines", {}).items()},
        "ratio_to_float": latency.get("ratio_to_float"),
        "aa_control": latency.get("aa_control"),
        "device": latency.get("device", {}).get("facts"),
        "variants": {one["name"]: one["log"] for one in found.variants},
        "images": _counts(found),
        "refusal": (found.stress.get("ood") or {}).get("engines"),
        "choice": {key: found.choice.get(key) for key in ("chosen", "verdict", "sentence", "operating_point")},
    }


def _counts(found: Found) -> dict[str, dict[str, int]]:
    """Images and groups (patients, lesions) of each split that has any."""
    data = found.data
    if data is None:
        return {}
    rows = {split: data.indices(split).tolist() for split in SPLITS}
    return {split: {"images": len(at), "groups": len({data.groups[k] for k in at})} for split, at in rows.items() if at}


def _on_validation(trial: dict[str, Any]) -> dict[str, Any]:
    flips = {key: trial["flips"][key] for key in ("count", "rate")}
    return {"validation": trial["verdict"], "validation_flips": flips}


def _figures(trial: dict[str, Any]) -> dict[str, Any]:
    flips = {key: value for key, value in trial["flips"].items() if key != "rows"}
    return {
        "verdict": trial["verdict"],
        "metrics": trial["metrics"]["engine"],
        "checks": trial["checks"],
        "flips": flips,
    }


if __name__ == "__main__":
    main()
