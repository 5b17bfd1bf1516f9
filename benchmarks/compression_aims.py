"""What compression is to reach, beside what was measured: read from benchmarks/results alone, nothing is run.

    .venv/bin/python benchmarks/compression_aims.py

One row an aim: the figure, of a latency with its interval; what the gate said; whether it is met; the file it is from.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from medge.records import read_json

RESULTS = Path(__file__).resolve().parent / "results"
FLOAT = "float/openvino-float32"


@dataclass(frozen=True)
class Row:
    """met: None where there is nothing to reach, and the figure is reported."""

    aim: str
    measured: str
    met: bool | None
    file: str


def main() -> None:
    table = Table(*(Column(name, overflow="fold") for name in ("aim", "measured", "met", "file")))
    for row in rows():
        table.add_row(row.aim, row.measured, {True: "yes", False: "no", None: "-"}[row.met], row.file)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def rows() -> list[Row]:
    parts = (_best_chain, _eager, _int8_alone, _b0, _sparse, _search, _beside_others)
    return [row for part in parts for row in part()]


def _best_chain() -> list[Row]:
    """Of each float model that the shortest network was made of, and of the search."""
    files = ("chest_xray_small", "chest_xray_mixed", "chest_xray_search", "chest_xray_160", "chest_xray_176")
    return [row for file in files for row in _chosen(file)]


def _chosen(file: str) -> list[Row]:
    run = _read(file)
    name = run["choice"]["chosen"]
    engine, ratio = run["engines"][name], run["ratio_to_float"][name]
    passed = (engine["validation"], engine["verdict"]) == ("pass", "pass")
    share = engine["bytes"] / run["engines"][FLOAT]["bytes"]
    verdicts = f"{_verdicts(engine)}, {_flips(engine)}"
    latency = f"{name}: {_interval(ratio)}, latencies {run['aa_control']['verdict']}; {verdicts}"
    return [
        Row(
            "best chain: at most 0.22 x of OpenVINO float32, the gate passed",
            latency,
            ratio["ratio"] <= 0.22 and passed,
            f"{file}.json",
        ),
        Row(
            "the same: at most 1/8 of the float file",
            f"{share:.3f}; {verdicts}",
            share <= 1 / 8 and passed,
            f"{file}.json",
        ),
    ]


def _eager() -> list[Row]:
    measured = _read("eager")["to_eager"]
    name = min(measured, key=lambda engine: measured[engine]["ratio"])
    return [Row("against eager PyTorch", f"{name}: {_interval(measured[name])}", None, "eager.json")]


def _int8_alone() -> list[Row]:
    """Of each processor by itself: an engine that is fast on one and exact on another is neither."""
    aim = "int8 alone: at most 0.5 % flips at at most 0.48 x"
    by_rollback = [
        (file, "int8", aim) for file in ("chest_xray_small", "chest_xray_short", "chest_xray_mixed", "chest_xray_160")
    ]
    trained = ("chest_xray_qat", "d", "the same, not by the rollback: QAT, its layers in float named by hand")
    found = []
    for file, wanted, words in (*by_rollback, trained):
        run = _read(file)
        for name, engine in run["engines"].items():
            variant, _, precision = name.partition("/")
            if variant == wanted and precision.startswith("openvino"):
                ratio = run["ratio_to_float"][name]
                measured = f"{name}: {_flips(engine)}, {_interval(ratio)}; {_verdicts(engine)}"
                met = engine["flips"]["rate"] <= 0.005 and ratio["ratio"] <= 0.48
                found.append(Row(words, measured, met, f"{file}.json"))
    return found


def _b0() -> list[Row]:
    run = _read("chest_xray_b0")
    trained, naive = (_check(run["engines"][f"{n}/openvino-int8"], "auc") for n in ("qat", "nncf-defaults"))
    chosen = run["choice"]["chosen"]
    faster = run["ratio_to_float"][chosen]
    return [
        Row(
            "EfficientNet-B0 after QAT: AUC at most 0.002 less",
            f"{-trained['difference']:.4f} less, at most {-trained['decided_lower']:.4f} (naive PTQ: "
            f"{-naive['difference']:.4f}); {_verdicts(run['engines']['qat/openvino-int8'])}",
            -trained["difference"] <= 0.002,
            "chest_xray_b0.json",
        ),
        Row(
            "its ONNX Runtime int8 is chosen only where it is faster than float there",
            f"chosen: {chosen}, {_interval(faster)} of {faster['to']}, latencies {run['aa_control']['verdict']}; "
            f"{_verdicts(run['engines'][chosen])}",
            faster["upper"] < 1,
            "chest_xray_b0.json",
        ),
    ]


def _sparse() -> list[Row]:
    engines = _read("sparse")["engines"]
    found = []
    for name, engine in engines.items():
        if name.startswith("unstructured"):
            words = f"{name}: {_interval(engine['latency_to_dense'])} of the dense one, {engine['flips']:.1%} flips"
            found.append(Row("80 % zeros", words, None, "sparse.json"))
    return found


def _search() -> list[Row]:
    run, hand = _read("chest_xray_search"), _read("chest_xray_blocks")
    name, other = run["choice"]["chosen"], hand["choice"]["chosen"]
    engine, ratio, best = run["engines"][name], run["ratio_to_float"][name], hand["ratio_to_float"][other]
    passed = (engine["validation"], engine["verdict"]) == ("pass", "pass")
    words = (
        f"{name}: {_interval(ratio)}, {_flips(engine)}; {_verdicts(engine)}; by hand: {_interval(best)}, "
        f"{_flips(hand['engines'][other])}"
    )
    as_good = passed and ratio["lower"] <= best["upper"]
    return [
        Row("the search: as good as the best chain written by hand", words, as_good, "chest_xray_search.json"),
        _minutes(_read("search_blocks")),
    ]


def _minutes(search: dict[str, Any]) -> Row:
    """When the chain was found: searches write it down since that one."""
    minute = next(trial.get("minute") for trial in search["trials"] if trial["key"] == search["chosen"])
    words = "not recorded in this file" if minute is None else f"minute {minute:g}"
    aim = "the same: in 60 minutes"
    return Row(aim, words, None if minute is None else minute <= 60, "search_blocks.json")


def _beside_others() -> list[Row]:
    found = []
    for name, stands in _read("quantise_side_by_side")["standing"].items():
        ahead = [stands[at]["ahead"] == "yes" for at in ("at_equal_latency", "at_equal_flips")]
        aim = "beside other tools: ahead on flips and on latency"
        found.append(Row(aim, f"{name}: {stands['sentence']}", all(ahead), "quantise_side_by_side.json"))
    return found


def _check(engine: dict[str, Any], quantity: str) -> dict[str, Any]:
    return next(check for check in engine["checks"] if check["quantity"] == quantity)


def _verdicts(engine: dict[str, Any]) -> str:
    return f"{engine['validation']} on validation, {engine['verdict']} on test"


def _flips(engine: dict[str, Any]) -> str:
    flips = engine["flips"]
    return f"{flips['count']} flips ({flips['rate']:.2%})"


def _interval(ratio: dict[str, Any]) -> str:
    return f"{ratio['ratio']:.3f} x [{ratio['lower']:.3f}, {ratio['upper']:.3f}]"


def _read(name: str) -> Any:
    return read_json(RESULTS / f"{name}.json")


if __name__ == "__main__":
    main()
