"""The chain of recipes/chest-xray-small.yaml with fewer epochs: what is exported is what was judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from medge import predictions, recipe, variants
from medge.data import dataset
from medge.sections import Step, Variant
from medge.stages import compress
from tests import nets
from tests.synthetic_run import write_data
from tests.teachers import SIZE, teacher_of, write_finetuned

RECIPE = Path(__file__).parents[2] / "recipes/chest-xray-small.yaml"
QUICK = {"batch_size": 8, "images_per_epoch": 16, "learning_rate": 1e-4}


def _step(step: Step) -> Step:
    """With one epoch where it has any, and not more of it than the few images here allow."""
    quick = {**QUICK, "epochs": 1} if step.options.get("epochs") else {}
    return step.model_copy(update={"options": {**step.options, **quick}})


@pytest.mark.slow
def test_the_exported_short_chain_answers_as_its_validation_table_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = recipe.load(RECIPE)
    chain = tuple(map(_step, shipped.compress.variants["short-int8"].first_passing[0]))
    assert [step.compressor for step in chain] == ["resolution", "shorten", "distill", "ptq"]
    write_data(tmp_path / "1-data", images=40, size=SIZE)
    data = dataset.load(tmp_path / "1-data")
    inputs = write_finetuned(tmp_path, teacher_of(shipped.finetune.model, data))
    made = {"float-short": chain[:-1], "short-int8": chain}
    section = recipe.parse({"compress": {"calibration": {"images": 8}}}, origin="test").compress
    asked = {name: Variant(first_passing=(steps,), rollback=None) for name, steps in made.items()}
    (tmp_path / "work").mkdir()
    compress.run(section.model_copy(update={"variants": asked}), inputs, tmp_path / "work", 0)

    rows = data.indices("validation")
    names = ("float", "float-short", "short-int8")
    said = {name: predictions.read(tmp_path / "work" / name / "validation.csv").logits for name in names}
    found = {n: nets.run_plainly(tmp_path / "work" / n / "model.onnx", data.read(rows))[0] for n in names}
    np.testing.assert_allclose(found["float-short"], said["float-short"], rtol=1e-3, atol=1e-3)  # rounding errors
    # A value on a rounding tie of int8 falls to either side in two runtimes, and what comes after spreads that: to an
    # eighth of what quantising changed where it was measured. Without any one of the steps the answers are farther off
    # than quantising brings them.
    changed = np.linalg.norm(said["short-int8"] - said["float-short"])
    assert np.linalg.norm(found["short-int8"] - said["short-int8"]) < 0.5 * changed
    assert changed < np.linalg.norm(said["short-int8"] - said["float"])

    log = variants.load(tmp_path / "work/short-int8").log
    starts = [
        "resolution: the model sees 48 x 48",
        "shorten: all 9 blocks",
        "shorten: divergence",
        "distill: divergence",
    ]
    assert [line[: len(start)] for line, start in zip(log, starts, strict=False)] == starts
    _assert_structure(tmp_path / "work/short-int8/model.onnx")


def _assert_structure(path: Path) -> None:
    """The image is reduced, nine blocks of sixteen are out, and the first layers alone are left in float."""
    graph = onnx.load(path).graph
    assert "Resize" in {node.op_type for node in graph.node}
    written = {output for node in graph.node for output in node.output}
    # /backbone/blocks/blocks.4/blocks.4.0/conv_pw/Conv, and whether its weights are integers
    convolutions = {n.name.split("/", 1)[1]: n.input[1] in written for n in graph.node if n.op_type == "Conv"}
    assert len({name.split("/")[3] for name in convolutions if name.startswith("backbone/blocks/")}) == 16 - 9
    in_float = {
        name.removeprefix("backbone/").removesuffix("/Conv") for name, whole in convolutions.items() if not whole
    }
    first = "blocks/blocks.0/blocks.0.0"
    assert in_float == {"conv_stem", f"{first}/conv_dw", f"{first}/conv_pw"}
