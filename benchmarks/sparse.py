"""What zeros among the weights buy, and cost, on a fine-tuned model: 80 % unstructured and 2:4, in float and in int8.

    python benchmarks/sparse.py RUN [--ratio 0.8] [--epochs 2] [--images 1500] [--work FOLDER]

RUN is a run folder with its stages data and finetune finished; it is only read. The chains go through the stages
compress, compile, validate and profile in a run of their own in --work (a second start goes on where it stopped), on
ONNX Runtime, on OpenVINO, and on OpenVINO asked to unpack sparse weights. Printed and written to
benchmarks/results/sparse.json: latency as a ratio to the dense engine of the same backend and precision, measured in
the same interleaved blocks; bytes of the files as they are and zipped; difference in AUC and share of flipped decisions
on test images. TensorRT, which alone skips 2:4, is not among them: it needs a GPU. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
os.environ["MEDGE_PLUGIN_PATH"] = os.pathsep.join(
    filter(None, [str(HERE / "plugins"), os.environ.get("MEDGE_PLUGIN_PATH")])
)

from borrowed import beside  # noqa: E402

from medge import engines, pipeline  # noqa: E402  (the plug-in's place has to be known first)
from medge.recipe import load, parse  # noqa: E402
from medge.records import read_json, write_json  # noqa: E402

STAGES = ("compress", "compile", "validate", "profile")
BACKENDS = ("onnxruntime", "openvino", "openvino_sparse")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ratio", type=float, default=0.8, help="of the unstructured zeros")
    parser.add_argument("--epochs", type=int, default=2, help="of recovery")
    parser.add_argument("--images", type=int, default=1500, help="training images per epoch")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--result", type=Path, default=HERE / "results" / "sparse.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the run's recipe")
    chosen = parser.parse_args()
    chosen.result = chosen.result.resolve()
    source = chosen.run.resolve()
    folder = beside(source, chosen.work, "sparse")
    pipeline.run(_recipe(source, chosen), folder, stages=STAGES)
    found = {
        "model": read_json(source / "2-finetune" / "model.json")["timm_name"],
        "ratio": chosen.ratio,
        "epochs": chosen.epochs,
        "images_per_epoch": chosen.images,
        "engines": _rows(folder),
    }
    write_json(chosen.result, found)
    print(json.dumps(found, indent=2))


def _recipe(source: Path, chosen: argparse.Namespace) -> Any:
    """The run's own recipe with these variants and backends."""
    value = load(source / "recipe.yaml", chosen.set).model_dump(mode="json", by_alias=True)
    training = {"epochs": chosen.epochs, "images_per_epoch": chosen.images}
    steps = {
        "unstructured": {"sparsify": {"ratio": chosen.ratio, **training}},
        "two-of-four": {"sparsify": {"pattern": "2:4", **training}},
    }
    chains: dict[str, list[Any]] = {"int8": ["ptq"]}
    for name, step in steps.items():
        chains |= {name: [step], f"{name}-int8": [step, "ptq"]}
    # No layer goes back to float: the dense engine and the sparse ones are to differ in their zeros alone.
    value["compress"]["variants"] = {
        name: {"first_passing": [chain], "rollback": None} for name, chain in chains.items()
    }
    value["compile"] = {"backends": {name: ["float32"] for name in BACKENDS}}
    return parse(value, origin="benchmarks/sparse.py")


def _rows(folder: Path) -> dict[str, Any]:
    trials = read_json(folder / "5-validate" / "trials.json")["engines"]
    latency = read_json(folder / "6-profile" / "latency.json")
    return {
        engine.name: {
            **_judged(trials[engine.name]["test"]),
            **_sizes(place, [file.path for file in engine.files]),
            "p50_ms": latency["engines"][engine.name]["p50_ms"],
            "latency_to_dense": _to_dense(engine, latency["ratios"]),
        }
        for engine, place in engines.load_all(folder / "4-compile")
    }


def _judged(trial: dict[str, Any]) -> dict[str, Any]:
    auc = next(check for check in trial["checks"] if check["quantity"] == "auc")
    flips = trial["flips"]["rate"]
    return {"auc": auc["engine"], "auc_difference": auc["difference"], "flips": flips, "verdict": trial["verdict"]}


def _sizes(place: Path, files: list[str]) -> dict[str, int]:
    data = [(place / name).read_bytes() for name in files]
    return {"bytes": sum(map(len, data)), "bytes_zipped": sum(len(gzip.compress(d, mtime=0)) for d in data)}


def _to_dense(engine: Any, ratios: dict[str, Any]) -> dict[str, Any] | None:
    """To the dense engine of the same precision on the plain backend, so that the property's own effect is in it."""
    backend = engine.backend.removesuffix("_sparse")
    dense = f"{'int8' if engine.precision == 'int8' else 'float'}/{backend}-{engine.precision}"
    found = ratios.get(engine.name, {}).get(dense)
    return None if found is None else {"to": dense, **found}


if __name__ == "__main__":
    main()
