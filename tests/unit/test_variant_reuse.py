"""What a compress takes over of an earlier one: all that was made of the same, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medge import variant_reuse, variants
from medge.records import file_record, sha256_of_file, write_json
from medge.sections import CompressSection, Step
from medge.variant_reuse import SEARCH, STEPS, TRIALS, drop, keys, scratch, take_over, works
from medge.variants import CompressedVariant

INPUTS: Any = {"data": SimpleNamespace(sha256="d"), "finetune": SimpleNamespace(sha256="f")}
CHAINS = {"a": [{"prune": {"ratio": 0.5}}], "b": [{"prune": {"ratio": 0.5}}, "ptq"]}


def _section(**changes: Any) -> CompressSection:
    return CompressSection.model_validate({"variants": CHAINS, **changes})


def _keys(section: CompressSection, calibration: str = "c", seed: int = 0) -> dict[str, str]:
    return keys(section, INPUTS, calibration, seed)


def _changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _finished(folder: Path, made_of: str) -> None:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "validation.csv").write_text("logits")
    digest = sha256_of_file(folder / "model.onnx")
    variants.save(CompressedVariant(folder.name, False, [], [], digest, "pass", made_of=made_of), folder)


def _record(stage: Path) -> None:
    """What a stage that ended has written of its files."""
    files = sorted(p for p in stage.rglob("*") if p.is_file())
    write_json(stage / "record.json", {"outputs": [file_record(stage, p) for p in files]})


def test_a_changed_variant_changes_its_own_key_and_no_other() -> None:
    before = _keys(_section())
    assert set(before) == {"float", "a", "b", STEPS}
    assert len(set(before.values())) == 4
    assert _changed(before, _keys(_section(variants={**CHAINS, "a": [{"prune": {"ratio": 0.4}}]}))) == {"a"}
    assert _changed(before, _keys(_section(variants={**CHAINS, "c": ["ptq"]}))) == {"c"}


def test_a_gate_changes_every_verdict_and_no_training() -> None:
    before = _keys(_section())
    assert _changed(before, _keys(_section(gate={"bootstrap": 200}))) == {"float", "a", "b"}


@pytest.mark.parametrize("change", [{"calibration": "other"}, {"seed": 1}])
def test_other_images_or_another_seed_change_all(change: dict[str, Any]) -> None:
    before = _keys(_section())
    assert _changed(before, _keys(_section(), **change)) == set(before)


def test_another_float_model_changes_all(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _keys(_section())
    monkeypatch.setitem(INPUTS, "finetune", SimpleNamespace(sha256="g"))
    assert _changed(before, _keys(_section())) == set(before)


def test_a_larger_budget_of_the_search_leaves_its_trials() -> None:
    before = _keys(_section(search={"minutes": 5}))
    assert _changed(before, _keys(_section(search={"minutes": 6, "trials": 9}))) == set()
    assert _changed(before, _keys(_section(search={"minutes": 5, "ratios": [0.5]}))) == {TRIALS}


def test_a_student_is_known_by_its_weights_and_not_only_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("one")
    chains = {**CHAINS, "c": [{"distill": {"student": str(tmp_path)}}]}
    before = _keys(_section(variants=chains))
    (tmp_path / "model.safetensors").write_text("two")
    assert _changed(before, _keys(_section(variants=chains))) == set(before)


def test_unfinished_work_stays_where_it_is_of_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, key in (
        ("a", "1"),
        ("b", "2"),
        (STEPS, "3"),
        (TRIALS, "x"),
        ("gone", "4"),
        ("empty", "5"),
        (SEARCH, "6"),
    ):
        (scratch(tmp_path, name, key) / "0").mkdir()
        if name != "empty":
            (tmp_path / "scratch" / name / "0" / "checkpoint").touch()
    (tmp_path / "scratch" / "unmarked").mkdir()
    (tmp_path / ".key").touch()
    (tmp_path / "search.json").touch()
    take_over(tmp_path, tmp_path / "none", {"a": "1", "b": "other", STEPS: "3"})
    assert sorted(p.name for p in (tmp_path / "scratch").iterdir()) == [STEPS, "a", SEARCH]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".key", "scratch"]
    said = "what there was is dropped: it was of other settings or another input."
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {name}: {said}" for name in ("the search's trials", "b", "gone")
    ]


def test_finished_variants_are_taken_over_from_this_try_and_from_the_last_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, finished = tmp_path / "work", tmp_path / "3-compress"
    for folder, name, key in ((work, "a", "1"), (work, "stale", "2"), (finished, "b", "3"), (finished, "c", "4")):
        _finished(folder / name, key)
    _record(finished)
    take_over(work, finished, {"a": "1", "stale": "new", "b": "3", "c": "new"})
    assert sorted(p.name for p in work.iterdir()) == ["a", "b", "scratch"]
    assert variants.load(work / "b").made_of == "3"
    err = capsys.readouterr().err
    assert "b: unchanged, taken over" in err
    assert err.count("dropped") == err.count("stale: what there was is dropped") == 1


@pytest.mark.parametrize("harm", ["model.onnx", "variant.json", "validation.csv"])
def test_a_damaged_variant_is_made_again(tmp_path: Path, harm: str) -> None:
    _finished(tmp_path / "3-compress" / "a", "1")
    _record(tmp_path / "3-compress")
    (tmp_path / "3-compress" / "a" / harm).write_text("{")
    (tmp_path / "work").mkdir()
    take_over(tmp_path / "work", tmp_path / "3-compress", {"a": "1"})
    assert not (tmp_path / "work" / "a").exists()


def test_a_removal_that_is_killed_leaves_nothing_to_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _finished(tmp_path / "work" / "a", "1")
    monkeypatch.setattr(variant_reuse.shutil, "rmtree", lambda *a, **k: None)
    drop(tmp_path / "work" / "a")
    monkeypatch.undo()
    assert (tmp_path / "work" / "a" / "model.onnx").exists()
    take_over(tmp_path / "work", tmp_path / "none", {"a": "1"})
    assert not (tmp_path / "work" / "a").exists()


def test_steps_share_a_folder_as_long_as_their_chains_begin_alike() -> None:
    a, b, c = (Step(compressor="prune", options={"ratio": ratio}) for ratio in (0.1, 0.2, 0.3))
    one, two, other = (works(Path("x"), chain) for chain in ((a, b), (a, c), (b, c)))
    assert one[0] == two[0]
    assert len({*one, *two, *other}) == 5, "the second step of (a, c) is another than that of (b, c)"
    assert all(path.parent == Path("x") and path.name.startswith("prune-") for path in one)
    assert variant_reuse.works(Path("x"), (a, b)) == one
