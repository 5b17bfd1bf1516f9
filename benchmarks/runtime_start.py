"""From process start to the first answer: `medge-runtime.pyz predict` against a bare script on the same engine file.

    python benchmarks/runtime_start.py BUNDLE... [--rounds 30]

The bare script imports the engine, compiles the same file with the same settings and runs it once on zeros: no
decoding, no hashes, no decision. Both, and the bare script once more as A/A control, are started in turn in random
order; times are wall clock of the whole process up to the line of the answer. The page cache is warm.
Writes benchmarks/results/runtime_start.json. Aim: ratio at most 1.3; neither torch nor typer imported.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medge.devices import local
from medge.records import write_json
from medge.runtime import bundle as bundles
from medge.runtime.bundle import RUNTIME, Bundle
from medge.statistics.latency import paired_ratio

RESULT = Path(__file__).parent / "results" / "runtime_start.json"
AIM = 1.3
BANNED = ("torch", "typer", "pydantic", "rich", "onnx", "scipy", "sklearn")

BARE = {
    "onnxruntime": """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
print(session.run(None, {given.name: np.zeros(given.shape, np.uint8)})[0].tolist(), flush=True)
""",
    "openvino": """
import sys, numpy as np, openvino as ov
hint = {"float32": "f32", "int8": "f32", "bfloat16": "bf16", "float16": "f16"}[sys.argv[3]]
settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": int(sys.argv[2]), "PERFORMANCE_HINT": "LATENCY"}
compiled = ov.Core().compile_model(sys.argv[1], "CPU", settings)
print(compiled(np.zeros(tuple(compiled.input(0).shape), np.uint8))[0].tolist(), flush=True)
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    chosen = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.jpg"
        write_jpeg(image)
        for path in chosen.bundles:
            bundle = bundles.load(path.resolve())
            results[f"{bundle.manifest['name']}: {bundle.engine.name}"] = measure(bundle, image, rounds=chosen.rounds)
    document = {"command": " ".join(["python", *sys.argv]), "device": local.facts(), "aim": AIM, "results": results}
    write_json(RESULT, document)
    print(json.dumps(document, indent=2))


def write_jpeg(path: Path, *, width: int = 2000, height: int = 1500) -> None:
    """A grey picture with structure at every scale, as a JPEG of ordinary quality."""
    random_ = np.random.default_rng(0)
    picture = np.zeros((height, width))
    for power in range(1, 9):
        small = random_.normal(0, 1, (max(2, height >> power), max(2, width >> power))).astype(np.float32)
        picture += np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)) * power
    grey = (128 + 40 * picture / picture.std()).clip(0, 255).astype(np.uint8)
    Image.fromarray(grey).save(path, quality=90)


def measure(bundle: Bundle, image: Path, *, rounds: int) -> dict[str, Any]:
    commands = commands_for(bundle, image)
    for command in commands.values():  # warm: page cache, and a note of a broken command before any is timed
        first_answer_ms(command)
    taken: dict[str, list[float]] = {name: [] for name in commands}
    order = random.Random(0)
    for _ in range(rounds):
        names = list(commands)
        order.shuffle(names)
        for name in names:
            taken[name].append(first_answer_ms(commands[name]))
    series = {name: np.asarray(values) for name, values in taken.items()}
    ratio = paired_ratio(series["pyz"], series["bare"], seed=0)
    control = paired_ratio(series["bare again"], series["bare"], seed=0)
    imported = banned_imports(commands["pyz"])
    return {
        "engine_bytes": bundle.engine.bytes,
        "rounds": rounds,
        "pyz_ms": round(float(np.median(series["pyz"])), 1),
        "bare_ms": round(float(np.median(series["bare"])), 1),
        "ratio": [round(v, 4) for v in (ratio.ratio, ratio.lower, ratio.upper)],
        "aa_control": [round(v, 4) for v in (control.ratio, control.lower, control.upper)],
        "banned_imports": imported,
        "reached": ratio.ratio <= AIM and not imported,
        "raw_ms": {name: [round(v, 2) for v in values] for name, values in taken.items()},
    }


def commands_for(bundle: Bundle, image: Path) -> dict[str, list[str]]:
    bare_path = image.parent / f"bare_{bundle.engine.backend}.py"
    bare_path.write_text(BARE[bundle.engine.backend], encoding="utf-8")
    # OpenVINO reads its .xml, which names the .bin beside it.
    graph = next(file.path for file in bundle.engine.files if not file.path.endswith(".bin"))
    engine = str(bundle.engine_folder / graph)
    bare = [sys.executable, str(bare_path), engine, str(bundle.threads), bundle.engine.precision]
    pyz = [sys.executable, str(bundle.folder / RUNTIME), "predict", str(image)]
    return {"pyz": pyz, "bare": bare, "bare again": bare}


def first_answer_ms(command: list[str]) -> float:
    start = time.perf_counter_ns()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = time.perf_counter_ns() - start
        _, errors = process.communicate(timeout=60)
    if process.returncode != 0 or not line:
        raise SystemExit(f"{' '.join(command)} failed: {errors.decode(errors='replace')}")
    return taken / 1e6


def banned_imports(command: list[str]) -> list[str]:
    """Of BANNED, what the process imports, as `python -X importtime` lists it."""
    listed = subprocess.run([command[0], "-X", "importtime", *command[1:]], capture_output=True, text=True, check=True)
    modules = {line.rsplit("|", 1)[-1].strip() for line in listed.stderr.splitlines() if line.startswith("import time")}
    return sorted(name for name in BANNED if name in modules)


if __name__ == "__main__":
    main()
