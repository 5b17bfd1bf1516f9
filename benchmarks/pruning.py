"""What removing channels costs and buys on a fine-tuned model: AUC, flips and latency of OpenVINO against float.

    python benchmarks/pruning.py RUN [--ratios 0.3 0.5] [--epochs 2] [--images 1500] [--work FOLDER]

RUN is a run folder with its stages data and finetune finished; it is only read. For each ratio the chains [prune] and
[prune, ptq] go through the stages compress, compile, validate and profile in a run of their own in --work (a second
start goes on where it stopped). Printed and written to benchmarks/results/pruning.json: each engine's difference in AUC
and share of flipped decisions on test images, its verdict, and its latency as a ratio to the float OpenVINO engine.
Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from borrowed import beside

from medge import pipeline
from medge.recipe import load, parse
from medge.records import read_json, write_json

RESULT = Path(__file__).parent / "results" / "pruning.json"
STAGES = ("compress", "compile", "validate", "profile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--epochs", type=int, default=2, help="of recovery after pruning")
    parser.add_argument("--images", type=int, default=1500, help="training images per epoch")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args()
    chosen.result = chosen.result.resolve()
    source = chosen.run.resolve()
    folder = beside(source, chosen.work, "pruning")
    pipeline.run(_recipe(source, chosen), folder, stages=STAGES)
    found = {"model": read_json(source / "2-finetune" / "model.json")["timm_name"], **_settings(chosen)}
    found["engines"] = _engines(folder)
    write_json(chosen.result, found)
    print(json.dumps(found, indent=2))


def _settings(chosen: argparse.Namespace) -> dict[str, Any]:
    return {"ratios": chosen.ratios, "epochs": chosen.epochs, "images_per_epoch": chosen.images}


def _recipe(source: Path, chosen: argparse.Namespace) -> Any:
    """The run's own recipe with these variants, on OpenVINO alone."""
    value = load(source / "recipe.yaml").model_dump(mode="json", by_alias=True)
    variants: dict[str, Any] = {"int8": ["ptq"]}
    for ratio in chosen.ratios:
        step = {"prune": {"ratio": ratio, "epochs": chosen.epochs, "images_per_epoch": chosen.images}}
        both = {"pruned": [step], "pruned-int8": [step, "ptq"]}
        variants |= {f"{name}-{ratio:g}": chain for name, chain in both.items()}
    value["compress"]["variants"] = variants
    value["compile"] = {"backends": {"openvino": ["float32"]}}
    return parse(value, origin="benchmarks/pruning.py")


def _engines(folder: Path) -> dict[str, Any]:
    trials = read_json(folder / "5-validate" / "trials.json")["engines"]
    latency = read_json(folder / "6-profile" / "latency.json")
    return {name: _row(trials[name]["test"], latency, name) for name in sorted(trials)}


def _row(trial: dict[str, Any], latency: dict[str, Any], name: str) -> dict[str, Any]:
    auc = next(check for check in trial["checks"] if check["quantity"] == "auc")
    ratio = latency["ratio_to_float"].get(name) or {}
    measured = latency["engines"][name]
    return {
        "auc_difference": auc["difference"],
        "flips": trial["flips"]["rate"],
        "verdict": trial["verdict"],
        "p50_ms": measured["p50_ms"],
        "bytes": measured["bytes"],
        "latency_ratio": {key: ratio[key] for key in ("to", "ratio", "lower", "upper") if key in ratio},
    }


if __name__ == "__main__":
    main()
