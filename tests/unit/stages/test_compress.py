"""The compress stage: which chain is kept and why, and what a killed stage does not do again."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medge import model as classifier
from medge import plugins, predictions, variants
from medge.compressors import Context
from medge.errors import IntegrityError, MedgeError, RecipeError, ToolError
from medge.recipe import parse
from medge.records import file_record, sha256_of_file, write_json
from medge.sections import CompressSection, Step, Variant
from medge.stages import compress
from medge.variants import CompressedVariant
from tests.synthetic_run import write_data
from tests.teachers import write_finetuned


@dataclass(frozen=True)
class Shift:
    by: float = 0.0


class Shifting:
    """A compressor that moves the second class's logit, and counts how often it was asked to."""

    Options = Shift

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.works: list[Path] = []
        self.killed_at: float | None = None

    def apply(self, model: nn.Module, options: Shift, context: Context) -> nn.Module:
        if options.by == self.killed_at:
            raise KeyboardInterrupt
        self.calls.append(options.by)
        self.works.append(context.work)
        context.log.append(f"moved by {options.by}")
        moved = copy.deepcopy(model)
        with torch.no_grad():
            moved.head[-1].bias[1] += options.by  # type: ignore[index]
        return moved


@pytest.fixture
def shifting(monkeypatch: pytest.MonkeyPatch) -> Shifting:
    compressor = Shifting()
    monkeypatch.setattr(plugins, "names", lambda kind: ["shift"])
    monkeypatch.setattr(plugins, "load", lambda kind, name: compressor)
    return compressor


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("run")
    write_data(folder / "1-data", images=60, size=32)
    torch.manual_seed(0)
    model = classifier.create(classifier.specify("test_efficientnet", classes=2, head="plain", dropout=0.0, size=32))
    return write_finetuned(folder, model)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def _section(*chains: float | list[float]) -> CompressSection:
    steps = [[{"shift": {"by": by}} for by in (c if isinstance(c, list) else [c])] for c in chains]
    # The margins of sensitivity and specificity cannot be met with so few images; flips alone decide here.
    margins = {name: -0.99 for name in ("auc", "sensitivity", "specificity", "f1", "accuracy")} | {"ece": 1.0}
    gate = {"margins": {**margins, "flips": 0.02}, "bootstrap": 200}
    value = {"calibration": {"images": 8}, "variants": {"v": {"first_passing": steps}}, "gate": gate}
    return parse({"compress": value}, origin="test").compress


def test_the_first_chain_that_passes_is_kept_with_why_the_others_were_not(
    shifting: Shifting, inputs: Any, work: Path
) -> None:
    values = compress.run(_section(50.0, 0.0, 1.0), inputs, work, 0)
    assert shifting.calls == [50.0, 0.0]
    assert {name: v["verdict"] for name, v in values["variants"].items()} == {"float": "pass", "v": "pass"}
    assert values["variants"]["v"]["chain"] == [{"compressor": "shift", "options": {"by": 0.0}}]
    kept = variants.load(work / "v")
    assert kept.log[0] == "moved by 50.0"
    assert "fail" in kept.log[1]
    assert "decisions flipped" in kept.log[1]
    assert "0 decisions flipped" in kept.log[3]
    assert kept.log[-1] == "[shift] is kept: it passed the gate."
    assert kept.gate["verdict"] == "pass"
    listed = values["calibration"]
    assert listed["images"] == 8
    assert re.fullmatch(r"calibration/phantom-[0-9a-f]{8}-0\.csv", listed["path"])


def test_the_best_chain_is_kept_where_none_passes(shifting: Shifting, inputs: Any, work: Path) -> None:
    values = compress.run(_section(50.0, 60.0), inputs, work, 0)
    assert values["variants"]["v"]["verdict"] == "fail"
    assert values["variants"]["v"]["chain"][0]["options"] == {"by": 50.0}, "it flips as many, and was tried first"
    best = "it has the best verdict with the fewest flips"
    assert variants.load(work / "v").log[-1] == f"[shift] is kept: no chain passed the gate as it is kept, and {best}."


def test_what_is_written_is_what_was_judged(shifting: Shifting, inputs: Any, work: Path) -> None:
    compress.run(_section([0.25, 0.5]), inputs, work, 0)
    assert [v.name for v in variants.load_all(work)] == ["float", "v"]
    before, after = (predictions.read(work / name / "validation.csv") for name in ("float", "v"))
    np.testing.assert_allclose(after.logits - before.logits, np.tile([0, 0.75], (len(before), 1)), atol=1e-4)
    assert before.sha256 == after.sha256


def test_a_killed_stage_repeats_no_chain_and_no_variant_that_it_had_finished(
    shifting: Shifting, inputs: Any, work: Path
) -> None:
    section = _section(50.0, 0.0)
    shifting.killed_at = 0.0
    with pytest.raises(KeyboardInterrupt):
        compress.run(section, inputs, work, 0)
    assert shifting.calls == [50.0]
    assert not (work / "v").exists()
    shifting.killed_at = None
    interrupted = compress.run(section, inputs, work, 0)
    assert shifting.calls == [50.0, 0.0]
    again = compress.run(section, inputs, work, 0)
    assert shifting.calls == [50.0, 0.0]
    assert again == interrupted


def _finish(work: Path) -> None:
    """What workspace does with a stage that ended."""
    shutil.rmtree(work / "scratch")
    files = sorted(p for p in work.rglob("*") if p.is_file())
    write_json(work / "record.json", {"outputs": [file_record(work, p) for p in files]})
    work.rename(work.with_name("3-compress"))
    work.mkdir()


def test_what_chains_begin_with_is_trained_in_one_place(shifting: Shifting, inputs: Any, work: Path) -> None:
    one = _section([0.25, 0.5])
    two = one.model_copy(update={"variants": {**one.variants, "w": _section([0.25, 0.75]).variants["v"]}})
    compress.run(two, inputs, work, 0)
    assert shifting.calls == [0.25, 0.5, 0.25, 0.75]
    first, last, again, other = shifting.works
    assert first == again
    assert len({first, last, other}) == 3


def test_a_variant_that_is_added_or_changed_costs_the_others_nothing(
    shifting: Shifting, inputs: Any, work: Path
) -> None:
    one = _section(0.0)
    compress.run(one, inputs, work, 0)
    _finish(work)
    other = _section(0.25).variants["v"]
    two = one.model_copy(update={"variants": {**one.variants, "w": other}})
    compress.run(two, inputs, work, 0)
    assert shifting.calls == [0.0, 0.25]
    assert [v.name for v in variants.load_all(work)] == ["float", "v", "w"]
    changed = one.model_copy(update={"variants": {"v": _section(0.5).variants["v"], "w": other}})
    compress.run(changed, inputs, work, 0)
    assert shifting.calls == [0.0, 0.25, 0.5]
    compress.run(one, inputs, work, 0)
    assert [v.name for v in variants.load_all(work)] == ["float", "v"], "a variant that is gone is gone"


def test_a_chain_that_cannot_be_followed_is_refused_before_any_work(inputs: Any) -> None:
    ptq = Step(compressor="ptq")
    section = CompressSection(variants={"v": Variant(first_passing=((ptq, ptq),))})
    with pytest.raises(RecipeError, match="quantise twice"):
        compress.look_ahead(section, inputs, 0)


def test_a_changed_onnx_file_is_noticed(shifting: Shifting, inputs: Any, work: Path) -> None:
    compress.run(_section(0.0), inputs, work, 0)
    with open(work / "v" / "model.onnx", "ab") as stream:
        stream.write(b"x")
    with pytest.raises(IntegrityError, match="not the recorded file"):
        variants.load_all(work)


def test_a_folder_without_the_float_variant_is_refused(shifting: Shifting, inputs: Any, work: Path) -> None:
    compress.run(_section(0.0), inputs, work, 0)
    about = json.loads((work / "float" / "variant.json").read_text())
    assert about["chain"] == []
    (work / "float" / "variant.json").unlink()
    with pytest.raises(IntegrityError, match="no float variant"):
        variants.load_all(work)


def test_a_variant_without_rollback_says_nothing_of_layers(inputs: Any, work: Path) -> None:
    value = {
        "calibration": {"images": 8},
        "variants": {
            "v": {"first_passing": [[{"ptq": {"subset_size": 8, "overflow_fix": "enable"}}]], "rollback": None}
        },
        "gate": {"margins": {"flips": 0.0}, "bootstrap": 200},
    }
    compress.run(parse({"compress": value}, origin="test").compress, inputs, work, 0)
    kept = variants.load(work / "v")
    assert (kept.in_float, len(kept.log)) == ([], 2)


@pytest.mark.parametrize(
    ("outcomes", "kept", "words"),
    [
        # (chain, with a rollback): verdict, share of flips
        ({(0, 0): ("fail", 0.02), (1, 0): ("pass", 0.004)}, (1, 0.004), "it passed the gate."),
        (
            {(0, 0): ("pass", 0.008), (1, 0): ("fail", 0.02), (0, 1): ("pass", 0.007), (1, 1): ("fail", 0.03)},
            (0, 0.007),
            "with the fewest flips; more flip than the rollback was to leave.",
        ),
        (
            {(0, 0): ("fail", 0.03), (1, 0): ("fail", 0.02), (0, 1): ("fail", 0.03), (1, 1): ("fail", 0.02)},
            (1, 0.02),
            "no chain passed the gate as it is kept, and it has the best verdict with the fewest flips.",
        ),
        (
            {
                (0, 0): ("inconclusive", 0.01),
                (1, 0): ("fail", 0.0),
                (0, 1): ("inconclusive", 0.02),
                (1, 1): ("fail", 0.0),
            },
            (0, 0.01),
            "no chain passed the gate as it is kept, and it has the best verdict with the fewest flips.",
        ),
    ],
)
def test_a_chain_that_passes_is_kept_whatever_comes_after_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcomes: Any, kept: Any, words: str
) -> None:
    chains = ((Step(compressor="ptq"),), (Step(compressor="qat"),))
    variant = Variant(first_passing=chains, rollback={"flips": 0.005})

    def attempt(bench: Any, name: str, chain: Any, place: Path, section: Any) -> CompressedVariant:
        verdict, flips = outcomes[chains.index(chain), int(section is not None)]
        (place / "done").mkdir(parents=True)
        (place / "done" / "model.onnx").write_text(f"{chain[0].compressor} {flips}")
        (place / "done" / "validation.csv").write_text("")
        digest = sha256_of_file(place / "done" / "model.onnx")
        steps = [step.model_dump(mode="json") for step in chain]
        return CompressedVariant("v", True, steps, ["tried"], digest, verdict, {"flips": {"rate": flips}})

    monkeypatch.setattr(compress, "_attempt", attempt)
    bench: Any = SimpleNamespace(work=tmp_path)
    found = compress._variant(bench, "v", "key", variant)
    assert (["ptq", "qat"].index(found.chain[0]["compressor"]), found.gate["flips"]["rate"]) == kept
    assert found.log[-1].endswith(words)
    assert (tmp_path / "v" / "model.onnx").read_text().endswith(str(kept[1]))


@pytest.mark.parametrize(
    ("chain", "kind", "words", "fix"),
    [
        (
            [{"resolution": {"scale": 0.5, "epochs": 16}}, {"ptq": {"ignored": ["backbone.conv_sten"]}}],
            RecipeError, "variants.late: [resolution, ptq]: ignored: the model has no layer 'backbone.conv_sten'",
            "'backbone.conv_stem'",
        ),
        (
            [{"prune": {"epochs": 16}}, {"qat": {"ignored": ["backbone.blocks.1.0:nosuch"]}}],
            RecipeError, "the model has no function 'backbone.blocks.1.0:nosuch'", "backbone.blocks.1.0",
        ),
        ([{"distill": {"student": "resnet10x"}}, "ptq"], RecipeError, "timm has no model 'resnet10x'", "resnet10t"),
        (
            [{"distill": {"student": "resnet10t", "weights": "none"}}, {"ptq": {"ignored": ["backbone.conv_stem"]}}],
            RecipeError, "the model has no layer 'backbone.conv_stem'", "backbone.conv1",
        ),
        (
            [{"distill": {"student": "vit_tiny_patch16_224", "weights": "none"}}, "prune", "ptq"],
            ToolError, "vit_tiny_patch16_224 cannot be followed", "Leave prune out",
        ),
    ],
)  # fmt: skip
def test_what_a_late_step_would_refuse_is_refused_before_anything_is_computed(
    chain: Any, kind: type[MedgeError], words: str, fix: str, inputs: Any, work: Path
) -> None:
    asked = {"early": [{"friendly": {"epochs": 16}}], "late": {"first_passing": [["ptq"], chain]}}
    value = {"calibration": {"images": 8}, "variants": asked}
    with pytest.raises(kind) as caught:
        compress.look_ahead(parse({"compress": value}, origin="test").compress, inputs, 0)
    assert words in caught.value.message
    assert fix in caught.value.fix
    assert sorted(p.name for p in inputs["finetune"].folder.iterdir()) == [
        "model.json",
        "model.safetensors",
        "predictions",
    ]
