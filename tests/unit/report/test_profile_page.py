"""profile.html from a made-up run: one file, the verdict seen, throttling drawn, estimates never without the word."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge import report, scenario_results
from medge.estimate import ESTIMATE
from medge.measured import show_latencies
from medge.records import sha256_of_file, write_json
from medge.report import costs, profile_page, there
from medge.report.gather import Found, gather

SOAKED = "int8/openvino-int8"


def soak(*, drift: float, throttles: bool) -> dict[str, Any]:
    """200 blocks in 100 s that take `drift` times as long at the end, warming from 50 to 80 °C."""
    random = np.random.default_rng(0)
    level = np.linspace(1, drift, 200)
    wall = [(3.3e6 * f * random.normal(1, 0.01, 20)).astype(int).tolist() for f in level]
    samples = [
        {"at_s": float(k), "temperature_c": 50 + 0.3 * k, "frequency_mhz": 1500 - (400 if throttles and k > 60 else 0),
         "power_mw": 9000 - 10 * k, "power_of": "VDD_IN", "throttled": ["gpu-throttle-alert"] * (throttles and k > 60),
         "throttle_counts": {}}
        for k in range(101)
    ]  # fmt: skip
    idle = [{"at_s": float(k), "power_mw": 4000} for k in range(12)]
    one = {"at_s": [0.5 * k for k in range(1, 201)], "wall_ns": wall, "samples": samples, "idle_samples": idle}
    return {"settings": {"seconds": 100.0, "engines": "fastest"}, "engines": {SOAKED: one}, "failures": {}}


def measured(run: Path, folder: Path, raw: dict[str, Any], **more: Any) -> Found:
    """The made-up run as if its profile stage had measured `raw` as well."""
    found = gather(run)
    p50 = {name: one["p50_ms"] for name, one in found.latency["engines"].items()}
    others = scenario_results.summarise(raw, p50, seed=0)
    stability = scenario_results.stability(found.latency["aa_control"], others, [], engines={})
    (folder / "raw").mkdir(parents=True)
    outputs = []
    for name, values in raw.items():
        write_json(folder / f"raw/{name}.json", values)
        outputs.append({"path": f"raw/{name}.json", "sha256": sha256_of_file(folder / f"raw/{name}.json")})
    for name in found.latency["engines"]:
        path = folder / f"raw/{name.replace('/', '__')}.csv"
        rows = [f"{k // 5},0,{k % 5},{int(p50[name] * 1e6 * (1 + 0.01 * (k % 7)))},0" for k in range(500)]
        path.write_text("block,place,query,wall_ns,block_cpu_ns\n" + "\n".join(rows) + "\n")
        outputs.append({"path": f"raw/{path.name}", "sha256": sha256_of_file(path)})
    record = {**found.records["profile"], "outputs": outputs}
    return replace(
        found, folders={**found.folders, "profile": folder}, records={**found.records, "profile": record},
        latency={**found.latency, "scenarios": others, "stability": stability, **more},
    )  # fmt: skip


def cold_and_sporadic() -> dict[str, Any]:
    starts = {"cold_start_ms": [410.0, 420.0, 500.0], "first_inference_ms": [300.0, 310.0, 390.0]}
    return {
        "sporadic": {"settings": {}, "wall_ns": {SOAKED: [6_600_000] * 20}, "failures": {"x/y-z": "x/y-z: it died."}},
        "cold": {"settings": {}, "engines": {SOAKED: starts}, "failures": {}},
    }


def test_a_steady_machine_is_shown_as_one(run: Path, tmp_path: Path) -> None:
    found = measured(run, tmp_path / "p", {**cold_and_sporadic(), "soak": soak(drift=1.0, throttles=False)})
    page = profile_page.render(found)
    assert found.latency["stability"]["verdict"] == "stable"
    assert '<p class="word">stable</p>' in page
    assert page.count("<svg") == 4  # spread, rounds, soak, front
    assert "mJ an image (VDD_IN:" in page
    assert "x/y-z: it died." in page
    assert "410 to 500 ms" in page


def test_throttling_and_drift_are_seen_on_the_page_and_in_the_terminal_s_table(run: Path, tmp_path: Path) -> None:
    calm = profile_page.render(measured(run, tmp_path / "a", {"soak": soak(drift=1.0, throttles=False)}))
    found = measured(run, tmp_path / "b", {"soak": soak(drift=1.3, throttles=True)})
    page = profile_page.render(found)
    assert '<p class="word">unstable</p>' in page
    assert "gpu-throttle-alert: on in 40 readings" in page
    assert page.count("fill: #a3341f; opacity: 0.14") >= 40 > calm.count("fill: #a3341f; opacity: 0.14") == 0
    rows, unstable = costs.scenario_rows(found)
    assert {row["stability"] for row in rows} == {"unstable"}
    assert [row["engine"] for row in rows if row["x reference"] == "reference"] == ["float/openvino-float32"]
    assert {row["engine"]: row["drift"] for row in rows if row["drift"] != "–"} == {SOAKED: "1.27 [1.26, 1.28]"}
    assert unstable is not None
    assert "times as long as the first" in unstable


def test_an_estimate_is_never_shown_without_the_word(run: Path, tmp_path: Path) -> None:
    variant = {"what": ESTIMATE, "precision": "int8", "estimate_ms": 0.28, "memory_bound_share": 1.0,
               "operations": 7.7e8, "bytes": 1.9e7}  # fmt: skip
    error = {"machine": "A Processor", "peak_gops": {"float32": 60.0}, "bandwidth_gb_s": 20.0, "source": "measured",
             "measured_over_estimate": {"float/openvino-float32": 2.5}, "reason": None}  # fmt: skip
    machines = {"jetson-orin-nano": {"what": ESTIMATE, "source": "a sheet", "variants": {"int8": variant}}}
    estimates = {"what": ESTIMATE, "machines": machines, "error": error}
    found = measured(run, tmp_path / "p", {}, estimates=estimates)
    section = profile_page.render(found).split("estimates, not measurements</h2>")[1].split("</section>")[0]
    assert "Estimate, not measured." in section
    assert "estimate, not measured</small>" in section
    assert re.search(r"float/openvino-float32 took <b>2.5</b> times its estimate", section)
    rows, _ = costs.scenario_rows(found)
    estimated = [row for row in rows if "~" in row["p50 ms"]]
    assert [(row["engine"], row["stability"]) for row in estimated] == [("int8, int8 on jetson-orin-nano", ESTIMATE)]
    assert "not measured" not in profile_page.render(measured(run, tmp_path / "q", {})).split("<main>")[1]


def test_the_page_needs_nothing_from_elsewhere(run: Path, tmp_path: Path) -> None:
    page = profile_page.render(measured(run, tmp_path / "p", {"soak": soak(drift=1.0, throttles=False)}))
    assert (
        re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|https?://(?!www\.w3\.org)[^"\s<]*|@import|url\((?!#)', page) == []
    )


def test_the_report_writes_it_beside_the_others(run: Path) -> None:
    report.write(run)
    assert "<h1>made-up, measured on local</h1>" in (run / report.PROFILE).read_text()


def test_a_machine_that_changed_its_mode_says_so(run: Path, tmp_path: Path) -> None:
    found = measured(run, tmp_path / "p", {})
    modes = [
        {"power_mode": {"id": k, "name": name}, "clocks": {"locked": k == 0}} for k, name in ((1, "25W"), (0, "15W"))
    ]
    device = {**found.latency["device"], "power": {"before": modes[0], "during": modes[1]}}
    page = profile_page.render(replace(found, latency={**found.latency, "device": device}))
    assert "power mode 25W (1) → 15W (0), clocks locked" in page
    assert "Nothing of it was changed" not in page


def test_a_sweep_has_a_row_for_each_engine_batch_size_and_threads(run: Path, tmp_path: Path) -> None:
    rows = [
        {"engine": SOAKED, "batch_size": 8, "threads": 2, "wall_ns": [16_000_000] * 75, "refused": None},
        {"engine": "x/y-z", "batch_size": 8, "threads": 2, "wall_ns": [], "refused": "it has a fixed batch of 1"},
    ]
    found = measured(run, tmp_path / "p", {"sweep": {"settings": {}, "rows": rows, "failures": {}}})
    section = profile_page.render(found).split("<h2>Batch sizes and threads</h2>")[1].split("</section>")[0]
    cells = [re.sub(r"<[^>]*>", " ", line).split() for line in section.split("<tbody>")[1].split("</tr>")[:2]]
    assert cells == [[SOAKED, "8", "2", "16.0", "16.0", "500.0"], ["x/y-z", "8", "2", "–", "–", "–",
                     "it", "has", "a", "fixed", "batch", "of", "1"]]  # fmt: skip
    assert "Batch sizes and threads" not in profile_page.render(measured(run, tmp_path / "q", {}))


def test_the_latencies_are_the_answer_of_profile_on_stdout(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_latencies(run)
    out, err = capsys.readouterr()
    assert "int8/openvino-int8" in out
    assert "int8/openvino-int8" not in err
    assert "profile.html" in err


def on_cart7(run: Path, folder: Path) -> Found:
    """The made-up run as if cart7, a Jetson, had measured it, with a receipt of one engine."""
    found = measured(run, folder, {})
    receipt = {"engine": SOAKED, "selftest": {"verdict": "pass", "vectors": 16},
               "metrics": {"set": "test", "images": 240, "accuracy": 0.8567, "auc": 0.91}}  # fmt: skip
    path = f"receipts/{SOAKED.replace('/', '__')}.json"
    (folder / "receipts").mkdir()
    write_json(folder / path, receipt)
    record = found.records["profile"]
    outputs = [*record["outputs"], {"path": path, "sha256": sha256_of_file(folder / path)}]
    device = {**found.latency["device"], "name": "cart7", "kind": "jetson"}
    return replace(found, latency={**found.latency, "device": device},
                   records={**found.records, "profile": {**record, "outputs": outputs}})  # fmt: skip


def test_the_device_that_was_measured_is_named_with_what_its_engines_answered(run: Path, tmp_path: Path) -> None:
    found = on_cart7(run, tmp_path / "p")
    page = profile_page.render(found)
    assert "<h1>made-up, measured on cart7 (jetson)</h1>" in page
    assert "<h2>Selftest and answers on cart7 (jetson)</h2>" in page
    assert there.rows(found) == [
        {"engine": SOAKED, "selftest": "pass: 16 images", "images": "240 test",
         "accuracy, most probable class": "0.857", "AUC": "0.9100"}
    ]  # fmt: skip
    assert there.rows(measured(run, tmp_path / "q", {})) == []


def test_the_terminal_names_the_device(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = on_cart7(run, tmp_path / "p")
    monkeypatch.setattr("medge.report.gather.gather", lambda _: found)
    show_latencies(run)
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("measured on cart7 (jetson), ")
    assert "pass: 16 images" in out


def test_threads_that_the_machine_does_not_have_are_one_row() -> None:
    rows = [
        {"engine": name, "batch_size": size, "threads": threads, "p50_ms": None if threads == 99 else 1.0,
         "p90_ms": None, "images_per_second": None, "refused": "this machine gives 2 cores" if threads == 99 else None}
        for name in ("a", "b") for threads in (1, 99) for size in (1, 4)
    ]  # fmt: skip
    shown = costs.sweep_rows({"scenarios": {"sweep": {"rows": rows}}})
    assert [(row["engine"], row["batch"], row["threads"]) for row in shown] == [
        ("a", "1", "1"), ("a", "4", "1"), ("all engines", "all", "99"), ("b", "1", "1"), ("b", "4", "1"),
    ]  # fmt: skip
