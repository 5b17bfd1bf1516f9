"""Does a bundle decide on an arm64 processor as it did on x86-64? Emulated: it says nothing about speed.

    PYTHONPATH=. python benchmarks/arm64_agreement.py --run runs/chest-xray \
        --bundle deploy/chest-float --bundle deploy/chest-int8 [--images 200] [--cpu cortex-a72] [--root FOLDER]

Makes an arm64 root (see tests/arm64_root.py), runs each bundle's own selftest there, then gives the bundle's engine the
same test images of the run here and there, and compares the decisions at the bundle's operating point. The images are
drawn with a seed from the run's test split, at model size; that resizing is the same is a part of the selftest.
Bars: decisions of a float engine equal on 200 X-rays; of an INT8 engine in at least 99 %.
Needs a bundle of an onnxruntime engine on an x86-64 Debian. Writes benchmarks/results/arm64_agreement.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from medge.data import dataset
from medge.records import to_json, write_json
from medge.runtime import bundle as bundles
from medge.runtime.bundle import Bundle
from medge.runtime.child import Job, logits_in_child
from medge.runtime.decision import decide, probabilities
from medge.runtime.machine import machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.arm64_root import Arm64, make

RESULT = Path(__file__).parent / "results" / "arm64_agreement.json"
AIMS = {"float32": 1.0, "int8": 0.99}
_REPO = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, dest="folder", help="a run: its test images are used")
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--cpu", default="cortex-a72")
    parser.add_argument("--root", type=Path, default=Path(tempfile.gettempdir()) / "medge-arm64")
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args()
    arm64 = make(chosen.root, cpu=chosen.cpu)
    data = dataset.load(chosen.folder / "1-data")
    test = data.indices("test")
    rows = np.sort(np.random.default_rng(0).choice(test, min(chosen.images, len(test)), replace=False)).tolist()
    found = []
    for folder in chosen.bundle:
        found.append(compare(arm64, bundles.load(folder), data, rows))
        print(json.dumps({k: v for k, v in found[-1].items() if k != "different_decisions"}), flush=True)
    document = {
        "what": "decisions of the same bundle, emulated arm64 against x86-64, on the same test images",
        "data": {"name": data.name, "synthetic": data.synthetic, "sha256": data.sha256, "images": len(rows)},
        "size_px": [data.preprocess.width, data.preprocess.height],
        "emulated": {
            "cpu": chosen.cpu,
            "qemu": _qemu(arm64),
            "onnxruntime": (arm64.folder / "done").read_text().strip(),
        },
        "here": machine({"onnxruntime": version("onnxruntime")}),
        "bundles": found,
    }
    write_json(chosen.result, document)
    return 0 if all(one["pass"] for one in found) else 5


def compare(arm64: Arm64, bundle: Bundle, data: Any, rows: list[int]) -> dict[str, Any]:
    """Selftest there, then logits here and there, and the decisions that differ."""
    selftest = arm64.run([str(bundle.folder.resolve() / bundles.RUNTIME), "selftest", "--json"], seconds=3600)
    with tempfile.TemporaryDirectory() as scratch:
        here = logits_in_child(
            bundle.engine, bundle.engine_folder, output=Path(scratch, "here.npy"), **_job(data, rows)
        )
        begun = time.monotonic()
        there = _logits_there(arm64, bundle, data, rows, Path(scratch, "there.npy"))
        seconds = time.monotonic() - begun
    decisions = [[_decision(bundle, row) for row in logits] for logits in (here, there)]
    differ = [k for k, (a, b) in enumerate(zip(*decisions, strict=True)) if a != b]
    aim = AIMS[bundle.engine.precision]
    agreement = 1 - len(differ) / len(rows)
    largest = float(np.abs(here).max())
    return {
        "bundle": bundle.name if hasattr(bundle, "name") else bundle.folder.name,
        "engine": bundle.engine.name,
        "engine_sha256": bundle.engine.sha256,
        "selftest": json.loads(selftest.stdout) if selftest.stdout.strip() else selftest.stderr.strip(),
        "selftest_exit_code": selftest.returncode,
        "images": len(rows),
        "decisions_equal": len(rows) - len(differ),
        "agreement": agreement,
        "aim": aim,
        "largest_logit_difference": float(np.abs(here - there).max()),
        "largest_logit_difference_share": float(np.abs(here - there).max() / largest),
        "different_decisions": [
            {"sha256": data.sha256s[rows[k]], "here": here[k].tolist(), "there": there[k].tolist()} for k in differ
        ],
        "emulated_seconds": round(seconds),
        "pass": selftest.returncode == 0 and agreement >= aim,
    }


def _job(data: Any, rows: list[int]) -> dict[str, Any]:
    size = data.preprocess
    images = data.folder / "images.u8"
    return {"images": images, "rows": rows, "height": size.height, "width": size.width, "threads": 1}


def _logits_there(arm64: Arm64, bundle: Bundle, data: Any, rows: list[int], output: Path) -> Any:
    of = _job(data, rows)
    job = Job(
        bundle.engine, str(bundle.engine_folder.resolve()), str(of["images"].resolve()), tuple(rows), of["height"],
        of["width"], 1, str(output),
    )  # fmt: skip
    done = arm64.run(
        ["-m", "medge.runtime.child"], pythonpath=[_REPO], seconds=6 * 3600, stdin=json.dumps(to_json(job))
    )
    if done.returncode != 0:
        raise SystemExit(f"the emulated engine ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    return np.load(output, allow_pickle=False)


def _decision(bundle: Bundle, logits: Any) -> str:
    probability = probabilities(logits, temperature=bundle.operating_point.temperature)
    return str(decide(probability, labels=bundle.labels, point=bundle.operating_point))


def _qemu(arm64: Arm64) -> str:
    import subprocess

    done = subprocess.run([str(arm64.folder / "qemu-aarch64"), "--version"], capture_output=True, text=True)
    return done.stdout.splitlines()[0].strip()


if __name__ == "__main__":
    sys.exit(main())
