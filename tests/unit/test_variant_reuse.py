"""What a compress takes over of an earlier one: all that was made of the same, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medge import variant_reuse, variants
from medge.records import sha256_of_file
from medge.sections import CompressSection, Step
from medge.variant_reuse import STEPS, TRIALS, keys, scratch, take_over, works
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
    digest = sha256_of_file(folder / "model.onnx")
    variants.save(CompressedVariant(folder.name, False, [], [], digest, "pass", made_of=made_of), folder)


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
    assert _changed(before, _keys(_section(search={"minutes": 6, "trials": 9}))) == {"search"}
    assert _changed(before, _keys(_section(search={"minutes": 5, "ratios": [0.5]}))) == {"search", TRIALS}


def test_unfinished_work_stays_where_it_is_of_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, key in (("a", "1"), ("b", "2"), (STEPS, "3"), ("gone", "4"), ("empty", "5")):
        (scratch(tmp_path, name, key) / "0").mkdir()
        if name != "empty":
            (tmp_path / "scratch" / name / "0" / "checkpoint").touch()
    (tmp_path / "scratch" / "unmarked").mkdir()
    (tmp_path / ".key").touch()
    (tmp_path / "search.json").touch()
    take_over(tmp_path, tmp_path / "none", {"a": "1", "b": "other", STEPS: "3"})
    assert sorted(p.name for p in (tmp_path / "scratch").iterdir()) == [STEPS, "a"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".key", "scratch"]
    assert capsys.readouterr().err.splitlines() == [
        "warning: b: unfinished work is dropped: it was of other settings or another input.",
        "warning: gone: unfinished work is dropped: it was of other settings or another input.",
    ]


def test_finished_variants_are_taken_over_from_this_try_and_from_the_last_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, finished = tmp_path / "work", tmp_path / "3-compress"
    for folder, name, key in ((work, "a", "1"), (work, "stale", "2"), (finished, "b", "3"), (finished, "c", "4")):
        _finished(folder / name, key)
    take_over(work, finished, {"a": "1", "stale": "new", "b": "3", "c": "new"})
    assert sorted(p.name for p in work.iterdir()) == ["a", "b", "scratch"]
    assert variants.load(work / "b").made_of == "3"
    assert "b: unchanged, taken over" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["model.onnx", "variant.json"])
def test_a_damaged_variant_is_made_again(tmp_path: Path, harm: str) -> None:
    _finished(tmp_path / "3-compress" / "a", "1")
    (tmp_path / "3-compress" / "a" / harm).write_text("{")
    (tmp_path / "work").mkdir()
    take_over(tmp_path / "work", tmp_path / "3-compress", {"a": "1"})
    assert not (tmp_path / "work" / "a").exists()


def test_steps_share_a_folder_as_long_as_their_chains_begin_alike() -> None:
    a, b, c = (Step(compressor="prune", options={"ratio": ratio}) for ratio in (0.1, 0.2, 0.3))
    one, two, other = (works(Path("x"), chain) for chain in ((a, b), (a, c), (b, c)))
    assert one[0] == two[0]
    assert len({*one, *two, *other}) == 5, "the second step of (a, c) is another than that of (b, c)"
    assert all(path.parent == Path("x") and path.name.startswith("prune-") for path in one)
    assert variant_reuse.works(Path("x"), (a, b)) == one
