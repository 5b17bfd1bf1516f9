"""Run folders: whole or absent, skipped when unchanged, held by one process."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medge import workspace
from medge.errors import MedgeError, RecipeError
from medge.sections import CompileSection, ProfileSection


def counting_stage(calls: list[str]) -> Any:
    def run(section: Any, inputs: Any, work: Path, seed: int) -> dict[str, Any]:
        calls.append("run")
        (work / "out.txt").write_text(f"{section.blocks} {seed}")
        (work / "scratch").mkdir(exist_ok=True)
        (work / "scratch" / "big").write_text("not kept")
        return {"answer": 42}

    return SimpleNamespace(run=run)


def test_a_finished_stage_is_skipped_and_its_record_is_the_same(tmp_path: Path) -> None:
    calls: list[str] = []
    first = workspace.step(tmp_path, "profile", ProfileSection(), {}, counting_stage(calls), seed=1)
    second = workspace.step(tmp_path, "profile", ProfileSection(), {}, counting_stage(calls), seed=1)
    assert calls == ["run"]
    assert (first.skipped, second.skipped) == (False, True)
    assert first.sha256 == second.sha256
    assert second.values == {"answer": 42}
    assert not (second.folder / "scratch").exists()


@pytest.mark.parametrize("change", ["section", "seed", "fingerprint", "parent"])
def test_a_stage_is_repeated_when_what_it_is_made_from_changes(tmp_path: Path, change: str) -> None:
    calls: list[str] = []
    stage = counting_stage(calls)
    parent = workspace.step(tmp_path, "data", CompileSection(), {}, SimpleNamespace(run=lambda *_: {"n": 1}), seed=1)
    workspace.step(tmp_path, "profile", ProfileSection(), {"data": parent}, stage, seed=1)
    section, seed = ProfileSection(), 1
    if change == "section":
        section = ProfileSection(blocks=11)
    elif change == "seed":
        seed = 2
    elif change == "fingerprint":
        stage.fingerprint = lambda section: "other files"
    else:
        parent = workspace.step(
            tmp_path, "data", CompileSection(), {}, SimpleNamespace(run=lambda *_: {"n": 2}), seed=9
        )
    workspace.step(tmp_path, "profile", section, {"data": parent}, stage, seed=seed)
    assert calls == ["run", "run"]


def test_an_output_changed_by_hand_is_noticed_and_made_again(tmp_path: Path) -> None:
    calls: list[str] = []
    done = workspace.step(tmp_path, "profile", ProfileSection(), {}, counting_stage(calls), seed=1)
    (done.folder / "out.txt").write_text("tampered")
    again = workspace.step(tmp_path, "profile", ProfileSection(), {}, counting_stage(calls), seed=1)
    assert calls == ["run", "run"]
    assert (again.folder / "out.txt").read_text() == "100 1"


def test_a_stage_made_from_an_older_parent_is_not_built_on(tmp_path: Path) -> None:
    def parent(n: int) -> workspace.Stage:
        return workspace.step(tmp_path, "data", CompileSection(), {}, SimpleNamespace(run=lambda *_: {"n": n}), seed=n)

    workspace.step(tmp_path, "profile", ProfileSection(), {"data": parent(1)}, counting_stage([]), seed=1)
    assert workspace.required(tmp_path, "profile").name == "profile"
    parent(2)
    with pytest.raises(RecipeError, match="another data stage"):
        workspace.required(tmp_path, "profile")


def test_a_stage_that_fails_leaves_no_finished_folder(tmp_path: Path) -> None:
    def run(section: Any, inputs: Any, work: Path, seed: int) -> dict[str, Any]:
        (work / "half.txt").write_text("half")
        raise MedgeError("no")

    with pytest.raises(MedgeError):
        workspace.step(tmp_path, "profile", ProfileSection(), {}, SimpleNamespace(run=run), seed=1)
    assert workspace.completed(tmp_path, "profile") is None


def test_what_an_interrupted_stage_left_survives_a_refusal_and_its_end_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(section: Any, inputs: Any, work: Path, seed: int) -> dict[str, Any]:
        (work / "half.txt").write_text("half")
        raise KeyboardInterrupt

    def refuse(section: Any, inputs: Any, seed: int) -> None:
        if section.blocks == 11:
            raise RecipeError("no", fix="yes")

    stage: Any = SimpleNamespace(run=run, look_ahead=refuse)
    half = tmp_path / ".6-profile.partial" / "half.txt"
    with pytest.raises(KeyboardInterrupt):
        workspace.step(tmp_path, "profile", ProfileSection(), {}, stage, seed=1)
    with pytest.raises(RecipeError):
        workspace.step(tmp_path, "profile", ProfileSection(blocks=11), {}, stage, seed=1)
    assert half.read_text() == "half"
    stage.run = lambda *_: {"n": 1}
    workspace.step(tmp_path, "profile", ProfileSection(blocks=12), {}, stage, seed=1)
    assert not half.exists()
    assert "What an interrupted profile had done is dropped" in " ".join(capsys.readouterr().err.split())


def test_a_stage_that_keeps_parts_finds_what_an_interrupted_one_of_other_settings_left(tmp_path: Path) -> None:
    def run(section: Any, inputs: Any, work: Path, seed: int) -> dict[str, Any]:
        if not (work / "part.txt").exists():
            (work / "part.txt").write_text("part")
            raise KeyboardInterrupt
        return {"found": (work / "part.txt").read_text()}

    stage: Any = SimpleNamespace(run=run, KEEPS_PARTS=True)
    with pytest.raises(KeyboardInterrupt):
        workspace.step(tmp_path, "profile", ProfileSection(), {}, stage, seed=1)
    done = workspace.step(tmp_path, "profile", ProfileSection(blocks=11), {}, stage, seed=1)
    assert done.values == {"found": "part"}
    assert importlib.import_module("medge.stages.compress").KEEPS_PARTS is True


def test_a_stage_is_current_until_what_it_is_made_from_changes(tmp_path: Path) -> None:
    stage = counting_stage([])
    asked = (tmp_path, "profile", ProfileSection(), {}, stage)
    assert not workspace.is_current(*asked, seed=1)
    workspace.step(*asked, seed=1)
    assert workspace.is_current(*asked, seed=1)
    assert not workspace.is_current(*asked, seed=2)
    assert not workspace.is_current(tmp_path, "profile", ProfileSection(blocks=11), {}, stage, seed=1)


def test_a_full_disk_is_a_clear_error_and_nothing_is_taken_for_whole(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, the device that is always full")

    def run(section: Any, inputs: Any, work: Path, seed: int) -> dict[str, Any]:
        with open("/dev/full", "w") as stream:
            stream.write("x" * 100_000)
        return {}

    with pytest.raises(MedgeError, match="No space left on device") as caught:
        workspace.step(tmp_path, "profile", ProfileSection(), {}, SimpleNamespace(run=run), seed=1)
    assert "continues where it stopped" in caught.value.fix
    assert workspace.completed(tmp_path, "profile") is None


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from types import SimpleNamespace
    from medge import workspace
    from medge.sections import ProfileSection

    def run(section, inputs, work, seed):
        for k in range(3):
            part = work / f"part-{k}"
            if not part.exists():
                part.write_text(str(k))
                print("made", k, flush=True)
                if k == 1 and sys.argv[2] == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
        return {}

    with workspace.locked(Path(sys.argv[1])):
        workspace.step(Path(sys.argv[1]), "profile", ProfileSection(), {}, SimpleNamespace(run=run), seed=0)
"""


def test_a_killed_stage_continues_where_it_was(tmp_path: Path) -> None:
    script = tmp_path / "stage.py"
    script.write_text(textwrap.dedent(KILLED))
    run = tmp_path / "run"
    run.mkdir()
    first = subprocess.run([sys.executable, script, run, "die"], capture_output=True, text=True, check=False)
    assert first.returncode == -signal.SIGKILL
    assert workspace.completed(run, "profile") is None
    second = subprocess.run([sys.executable, script, run, "live"], capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert second.stdout.split() == ["made", "2"]
    done = workspace.completed(run, "profile")
    assert done is not None
    assert sorted(p.name for p in done.folder.iterdir()) == ["part-0", "part-1", "part-2", "record.json"]


def test_a_second_process_is_refused_while_the_first_holds_the_run(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", f"from medge import workspace; from pathlib import Path\n"
         f"with workspace.locked(Path({str(tmp_path)!r})): print('held', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RecipeError, match=f"in use by process {holder.pid}"), workspace.locked(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with workspace.locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
