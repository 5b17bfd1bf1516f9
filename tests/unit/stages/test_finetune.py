"""The finetune stage: files and values, repeatability, kill -9 anywhere, several processes, limits, bad input."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge import model as models
from medge import predictions
from medge.data.dataset import load as load_data
from medge.errors import RecipeError
from medge.records import sha256_of_file
from medge.sections import AbsoluteLimits, Augment, FinetuneSection
from medge.stages import finetune
from tests.tiny_data import data_stage

pytestmark = pytest.mark.slow

SECTION = FinetuneSection(
    model="test_efficientnet", weights="none", frozen_epochs=2, epochs=3, batch_size=16, learning_rate=3e-3,
    unfreeze_blocks_per_epoch=2, patience=9, augment=Augment(zoom=(0.95, 1.05)),
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[3]

# Runs the stage in a process of its own and kills it with -9 at the nth call of a function, if told so.
CHILD = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from medge.sections import FinetuneSection
from medge.stages import finetune
from tests.tiny_data import data_stage
data, work, section, module, name, count = sys.argv[1:]
if module:
    import importlib
    holder = importlib.import_module(module)
    inner, calls = getattr(holder, name), []
    def deadly(*args, **kwargs):
        calls.append(1)
        if len(calls) == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **kwargs)
    setattr(holder, name, deadly)
finetune.run(FinetuneSection.model_validate_json(section), {"data": data_stage(Path(data))}, Path(work), 0)
"""


def child(data: Path, work: Path, *, kill: tuple[str, str, int] = ("", "", 0), launch: tuple[str, ...] = ()) -> int:
    work.mkdir(exist_ok=True)
    script = work.parent / "child.py"
    script.write_text(CHILD, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [str(data), str(work), SECTION.model_dump_json(), *map(str, kill)]
    command = [sys.executable, *launch, str(script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def stage(tmp_path: Path, section: FinetuneSection = SECTION, *, name: str = "work", **data: Any) -> dict[str, Any]:
    (tmp_path / name).mkdir()
    return finetune.run(section, {"data": data_stage(tmp_path / "data", **data)}, tmp_path / name, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished stage, made in a process of its own with one thread, as the killed ones are."""
    folder = tmp_path_factory.mktemp("trained")
    assert child(folder / "data", folder / "work") == 0
    return folder, json.loads((folder / "work" / "history.json").read_text(encoding="utf-8"))


def test_the_stage_writes_a_model_its_history_and_its_predictions(trained: tuple[Path, Any]) -> None:
    folder, history = trained
    data = load_data(folder / "data")
    rows = data.indices("validation")
    table = predictions.read(folder / "work" / "predictions" / "validation.csv")
    model = models.load(folder / "work")
    np.testing.assert_allclose(table.logits, models.predict(model, data, rows, description=""), rtol=1e-4, atol=1e-5)
    assert list(table.sha256) == [data.sha256s[k] for k in rows]
    assert [(e["phase"], e["unfrozen_blocks"]) for e in history] == [
        ("head", 0), ("head", 0), ("blocks", 2), ("blocks", 4), ("blocks", 6),
    ]  # fmt: skip


def test_killed_again_and_again_it_continues_to_the_same_weights(trained: tuple[Path, Any], tmp_path: Path) -> None:
    for kill in (
        ("medge.epochs", "_write", 2),  # a best head is kept, its checkpoint is not
        ("medge.augmentation", "_transform", 75),  # in the middle of an epoch
        ("medge.model", "save", 1),  # when all epochs are done
    ):
        assert child(tmp_path / "data", tmp_path / "work", kill=kill) == -signal.SIGKILL
    assert child(tmp_path / "data", tmp_path / "work") == 0
    for name in ("model.safetensors", "history.json", "predictions/validation.csv"):
        assert sha256_of_file(tmp_path / "work" / name) == sha256_of_file(trained[0] / "work" / name), name


LAUNCH = (
    "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port",
)  # fmt: skip


def free_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return str(unused.getsockname()[1])


def test_two_processes_share_the_work(trained: tuple[Path, Any], tmp_path: Path) -> None:
    data_stage(tmp_path / "data")
    assert child(tmp_path / "data", tmp_path / "work", launch=(*LAUNCH, free_port())) == 0
    history = json.loads((tmp_path / "work" / "history.json").read_text(encoding="utf-8"))
    assert [e["phase"] for e in history] == [e["phase"] for e in trained[1]]
    assert history[1]["loss"] == pytest.approx(trained[1][1]["loss"], rel=1e-3)  # the head's phase is the same work
    assert models.load(tmp_path / "work").spec == models.load(trained[0] / "work").spec


def test_a_launch_of_the_command_itself_has_one_main_process(tmp_path: Path) -> None:
    recipe = {
        "name": "two",
        "data": {"source": "phantom", "positive": "opacity", "phantom": {"images": 80}, "size": 32},
        "finetune": {**SECTION.model_dump(mode="json"), "frozen_epochs": 1, "epochs": 1},
    }
    run = tmp_path / "runs" / "two"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    command = [sys.executable, *LAUNCH, free_port(), "-m", "medge", "finetune", "--run", "two", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (run / "2-finetune" / "record.json").is_file()
    json.loads(done.stdout)  # helpers print nothing


def test_it_learns_three_classes_and_reaches_its_limits(tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"epochs": 5, "limits": AbsoluteLimits(auc=0.9)})
    values = stage(tmp_path, section, train=96, validation=48, classes=3)
    assert values["verdict"] == "pass", values
    assert values["limits"][0]["quantity"] == "auc"


def test_a_limit_that_is_missed_fails_and_is_named(tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"frozen_epochs": 0, "epochs": 0, "limits": AbsoluteLimits(accuracy=1.0)})
    values = stage(tmp_path, section)
    assert values["verdict"] == "fail"
    assert values["limits"][0]["verdict"] == "fail"


def test_nothing_in_the_values_changes_from_run_to_run(tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"frozen_epochs": 1, "epochs": 1})
    assert stage(tmp_path, section) == stage(tmp_path, section, name="again")
    assert sha256_of_file(tmp_path / "work" / "model.safetensors") == sha256_of_file(
        tmp_path / "again" / "model.safetensors"
    )


def test_the_weights_file_is_part_of_what_the_stage_depends_on(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"one")
    section = SECTION.model_copy(update={"weights": str(tmp_path / "w.pth")})
    first = finetune.fingerprint(section)
    (tmp_path / "w.pth").write_bytes(b"two")
    assert first != finetune.fingerprint(section)


def test_an_unknown_model_stops_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="timm has no model"):
        stage(tmp_path, SECTION.model_copy(update={"model": "efficientnet_bo"}))
