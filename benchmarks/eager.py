"""Latency of a run's engines against eager PyTorch: the float model as it was trained, batch 1, on the same cores.

    python benchmarks/eager.py RUN [--engines NAME...] [--rounds 100]

RUN is a run folder with its stages data, finetune and compile finished; it is only read. One process each, rounds of
blocks of five in random order with an A/A control; a ratio is exp(median(log of block medians)) with a block-bootstrap
95 % interval. Writes benchmarks/results/eager.json. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
os.environ["MEDGE_PLUGIN_PATH"] = os.pathsep.join(
    filter(None, [str(HERE / "plugins"), os.environ.get("MEDGE_PLUGIN_PATH")])
)

import numpy as np  # noqa: E402
from provenance import provenance  # noqa: E402

from medge import engines, interleave, plugins  # noqa: E402  (the plug-in's place has to be known first)
from medge.errors import MedgeError  # noqa: E402
from medge.interleave import CONTROL, Interleaved  # noqa: E402
from medge.records import Engine, file_record, write_json  # noqa: E402
from medge.runtime.machine import cores_allowed  # noqa: E402
from medge.sections import ProfileSection  # noqa: E402
from medge.stages.profile import steadiness, write_images  # noqa: E402
from medge.statistics.latency import paired_ratio  # noqa: E402

EAGER = "float/torch_eager-float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--engines", nargs="+", default=None, help="such as int8/openvino-int8; all of the run if left out"
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--result", type=Path, default=HERE / "results" / "eager.json")
    chosen = parser.parse_args()
    compared = engines_of(chosen.run.resolve(), chosen.engines)
    measured = measure(chosen.run.resolve(), compared, rounds=chosen.rounds)
    if measured.failures:
        sys.exit("\n".join(measured.failures.values()))
    found = {
        **provenance(),
        "versions": {name: version for engine, _ in compared for name, version in engine.versions.items()},
        "rounds": measured.rounds,
        "p50_ms": {name: round(float(np.median(one.all_ns())) / 1e6, 3) for name, one in measured.series.items()},
        "to_eager": {name: ratio(measured, name, EAGER) for name in measured.series if name not in (EAGER, CONTROL)},
        "control": steadiness(measured, {}, {}, [], seed=0)[0],
    }
    write_json(chosen.result, found)
    print(json.dumps(found, indent=2))


def engines_of(run: Path, names: list[str] | None) -> list[tuple[Engine, Path]]:
    """The eager model, then those of the run's engines that were named, each with its folder."""
    try:
        built = engines.load_all(run / "4-compile")
    except MedgeError as error:
        sys.exit(f"{error.message} {error.fix}")
    known = [engine.name for engine, _ in built]
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        sys.exit(f"There is no engine {', '.join(unknown)}; there are {', '.join(known)}.")
    model = run / "2-finetune"
    files = tuple(file_record(model, model / name) for name in ("model.safetensors", "model.json"))
    versions = plugins.load("backends", "torch_eager").versions()
    eager = Engine("float", "torch_eager", "float32", files, "", versions)
    return [(eager, model), *(pair for pair in built if names is None or pair[0].name in names)]


def measure(run: Path, compared: list[tuple[Engine, Path]], *, rounds: int) -> Interleaved:
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(run / "1-data", Path(folder) / "images.npy")
        return interleave.measure(
            compared,
            images=images, threads=cores_allowed(), section=ProfileSection(blocks=rounds), seed=0, logs=Path(folder),
        )  # fmt: skip


def ratio(measured: Interleaved, name: str, to: str) -> dict[str, Any]:
    found = paired_ratio(measured.series[name].block_medians_ms(), measured.series[to].block_medians_ms(), seed=0)
    return {"ratio": round(found.ratio, 4), "lower": round(found.lower, 4), "upper": round(found.upper, 4)}


if __name__ == "__main__":
    main()
