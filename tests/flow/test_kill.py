"""A whole run killed with SIGKILL in the middle of every stage ends as one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from medge.workspace import STAGES

RECIPE = """
name: small
data: {source: phantom, positive: opacity, phantom: {images: 240, difficulty: 0.2}, size: 64,
       split: {train: 0.5, validation: 0.25, test: 0.25}}
finetune: {weights: none, model: tf_efficientnet_lite0, frozen_epochs: 1, epochs: 1, batch_size: 16}
compress: {calibration: {images: 16}, variants: {int8: [ptq]}}
compile: {backends: {onnxruntime: [float32], openvino: [float32]}}
validate: {bootstrap: 200,
           margins: {auc: -0.9, sensitivity: -0.99, specificity: -0.99, f1: -0.99, flips: 1.0, ece: 1.0}}
profile: {blocks: 10, seconds: 0.5, warmup_seconds: 0.1}
select: {engine: int8/openvino-int8, accept_inconclusive: true}
stress: {corruptions: {images: 16, kinds: [gaussian_noise, jpeg, brightness_down], severities: [3]}, saliency: 2}
"""
COMMAND = [sys.executable, "-m", "medge", "run", "small.yaml"]


def finished(folder: Path) -> None:
    done = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr


def killed_in(stage: str, folder: Path, *, after_seconds: float) -> bool:
    """Starts the run and kills it and its children that long after the stage began; False where it was over by then."""
    process = subprocess.Popen(
        COMMAND, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if line.strip() == stage:
            break
    else:
        raise AssertionError(f"{stage} never began:\n{''.join(said)}")
    drain = threading.Thread(target=process.stderr.read, daemon=True)
    drain.start()
    time.sleep(after_seconds)
    over = process.poll() is not None
    if not over:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    drain.join()
    return not over


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on interruptions: all but times."""
    run = folder / "runs" / "small"

    def read(pattern: str) -> Any:
        (path,) = run.glob(pattern)
        return json.loads(path.read_text(encoding="utf-8"))

    engines = {
        str(path.parent.relative_to(run)): json.loads(path.read_text(encoding="utf-8"))["files"]
        for path in sorted(run.glob("*-compile/*/*/engine.json"))
    }
    choice = read("*-select/choice.json")
    kept = {key: choice[key] for key in ("chosen", "verdict", "operating_point")}
    return {"engines": engines, "trials": read("*-validate/trials.json"), "choice": kept}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_in_the_middle_of_every_stage_ends_with_the_same_engines_metrics_and_choice(
    tmp_path: Path,
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in (whole, torn):
        folder.mkdir()
        (folder / "small.yaml").write_text(RECIPE, encoding="utf-8")
    finished(whole)
    seconds = {
        stage: json.loads(path.read_text(encoding="utf-8"))["seconds"]
        for stage in STAGES
        for path in (whole / "runs" / "small").glob(f"*-{stage}/record.json")
    }
    assert set(seconds) == set(STAGES)
    killed = {stage: killed_in(stage, torn, after_seconds=0.4 * seconds[stage]) for stage in STAGES}
    assert sum(killed.values()) >= len(STAGES) - 1  # a stage of milliseconds may be over before the signal
    finished(torn)
    assert outcome(torn) == outcome(whole)
