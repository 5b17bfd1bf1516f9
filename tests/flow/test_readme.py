"""Every command of the README, run as a user would type it, on a small folder of drawn radiographs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]

# What makes the commands quick on a few hundred small images; the margins are wide: so few images decide nothing.
SMALL = [
    "finetune.weights=none",
    "data.size=64",
    "finetune.frozen_epochs=1",
    "finetune.epochs=1",
    "finetune.limits.auc=0.0",
    "compress.calibration.images=16",
    "compress.variants={int8: [ptq]}",
    "validate.margins={auc: -0.9, sensitivity: -0.99, specificity: -0.99, f1: -0.99, flips: 1.0, ece: 1.0}",
    "validate.bootstrap=200",
    "profile.blocks=10",
    "profile.seconds=0.5",
    "profile.warmup_seconds=0.1",
    "select.accept_inconclusive=true",
    "stress.corruptions={images: 16, severities: [3]}",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a clone's, with `xrays/`: drawn radiographs in files, and a manifest as the recipe wants it."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    from tests.flow.images import write_folder

    write_folder(folder / "xrays", images=240)
    return folder


def run(command: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=500)


def test_the_readme_has_commands() -> None:
    assert {"run", "finetune", "compress", "compile", "validate", "profile", "select", "package", "report", "data"} <= {
        command.split()[1] for command in COMMANDS if command.startswith("medge ")
    }


@pytest.mark.slow
def test_every_command_of_the_readme_does_what_it_says(home: Path) -> None:
    for line in COMMANDS:
        words = shlex.split(
            line.replace("DIR", "xrays").replace("BUNDLE", "xrays").replace("IMAGE", "xrays/normal/0.png")
        )
        if words[0] == "medge" and words[1] in ("run", "finetune"):
            words += [part for setting in SMALL for part in ("--set", setting)]
        if words[0] == "python3":
            words[0] = sys.executable
        done = run(words, home)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        if "predict" in words:
            answer = json.loads(done.stdout)
            assert answer["notice"] == "research use; not a medical device"
            assert abs(sum(answer["probabilities"].values()) - 1) < 1e-6


def test_make_demo_runs_the_quickstart_and_make_test_runs_pytest() -> None:
    def printed(target: str) -> str:
        return subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "medge run recipes/quickstart.yaml" in printed("demo")
    assert "-m pytest" in printed("test")
