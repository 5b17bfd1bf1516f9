"""Peak memory of the finetune stage on 50,000 images against 5,000: it must not grow with the number of images.

    python benchmarks/finetune_memory.py [--small 5000] [--large 50000]

Each size runs in a process of its own on drawn 32 px images, through both phases (features of every image, then one
epoch of the blocks), with timm's test_efficientnet. The peak is the process's VmHWM, from /proc, which counts what is
resident, pages of mapped files too. The data stage's folder is made by another process. The largest table that grows
with N, the manifest's columns, is part of it. Writes benchmarks/results/finetune_memory.json. Aim: ratio at most 1.15.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from medge.devices import local
from medge.records import sha256_of_file, write_json

RESULT = Path(__file__).parent / "results" / "finetune_memory.json"
AIM, SIZE = 1.15, 32

CHILD = """
import json, re, sys
from pathlib import Path
from medge.sections import FinetuneSection
from medge.stages import finetune
from medge.workspace import Stage
data, work = map(Path, sys.argv[1:])
stage = Stage(name="data", folder=data, key="", sha256="", values={}, seconds=0.0, inputs={}, skipped=False)
section = FinetuneSection(model="test_efficientnet", weights="none", frozen_epochs=1, epochs=1)
finetune.run(section, {"data": stage}, work, 0)
status = Path("/proc/self/status").read_text()
print(json.dumps({"peak_kb": int(re.search(r"VmHWM:\\s+(\\d+)", status).group(1))}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=5000)
    parser.add_argument("--large", type=int, default=50000)
    chosen = parser.parse_args()
    small, large = measure(chosen.small), measure(chosen.large)
    ratio = large["peak_mb"] / small["peak_mb"]
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": local.facts(),
        "image_size": SIZE,
        "model": "test_efficientnet",
        "small": small,
        "large": large,
        "ratio": ratio,
        "aim": AIM,
        "reached": ratio <= AIM,
    }
    write_json(RESULT, result)
    print(f"peak on {chosen.large} / {chosen.small} images: {ratio:.3f} (aim {AIM})")


def measure(images: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        data, work = Path(folder) / "data", Path(folder) / "work"
        data.mkdir()
        work.mkdir()
        draw(data, images)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(data), str(work)], stdout=subprocess.PIPE, text=True, check=True
        )
        peak = json.loads(done.stdout)["peak_kb"] / 1024
        print(f"{images} images: {peak:.0f} MB", file=sys.stderr, flush=True)
        return {"images": images, "peak_mb": peak, "seconds": round(time.monotonic() - began, 1)}


def draw(folder: Path, images: int) -> None:
    """A data stage's folder of noise with a brighter left or right half; paths and groups as long as real ones."""
    random = np.random.default_rng(0)
    with (
        open(folder / "images.u8", "wb") as pixels,
        open(folder / "manifest.csv", "w", encoding="utf-8", newline="") as table,
    ):
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["path", "label", "group", "split", "sha256"])
        for number in range(images):
            image = random.integers(0, 200, (SIZE, SIZE, 3), dtype=np.uint8)
            half = slice(None, SIZE // 2) if number % 2 else slice(SIZE // 2, None)
            image[:, half] += 50
            pixels.write(image.tobytes())
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            split = ("train",) * 7 + ("validation",) + ("test",) * 2
            path = f"class{number % 2}/person{number // 2}_image_{number}.jpeg"
            writer.writerow([path, f"class{number % 2}", f"person{number // 2}", split[number // 2 % 10], digest])
    about = {
        "schema": 1,
        "name": "noise",
        "labels": ["class0", "class1"],
        "preprocess": {"width": SIZE, "height": SIZE, "resize": "squash", "interpolation": "bicubic"},
        "synthetic": True,
        "sha256": sha256_of_file(folder / "manifest.csv"),
    }
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")


if __name__ == "__main__":
    main()
