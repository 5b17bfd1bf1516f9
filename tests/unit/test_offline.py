"""Jobs for a machine without a network: out as a zip, run by python3 alone, back as a zip."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medge import device_book, offline, remote_profile
from medge.device_book import Device
from medge.errors import IntegrityError, MissingError, RecipeError
from medge.job import run as job_run
from medge.job.spec import seal_of
from medge.records import read_json
from medge.sections import ProfileSection, Sweep
from medge.stages import profile
from medge.workspace import Stage
from tests import remote_run
from tests.remote_run import SECTION

CART = Device("cart7", "linux", "")
SAID: dict[Path, list[str]] = {}  # on stderr, by the folder of the stick


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Stage]:
    remote_run.use_sleeper(monkeypatch)
    monkeypatch.setenv("MEDGE_DEVICES", str(tmp_path / "devices.json"))
    device_book.add(CART)
    return remote_run.write_inputs(tmp_path / "run")


def exported(tmp_path: Path, inputs: dict[str, Stage], section: ProfileSection = SECTION) -> Path:
    """The job's zip, unpacked on the stick."""
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    made = remote_profile.make(section, inputs, scratch, device=CART, seed=0)
    offline.export(made, tmp_path / "job.zip", tmp_path / "run")
    with zipfile.ZipFile(tmp_path / "job.zip") as archive:
        archive.extractall(tmp_path / "stick")
    return tmp_path / "stick"


def done(stick: Path) -> Path:
    """What `python3 job.pyz` writes there, with nothing of this process's environment."""
    environment = {"PATH": os.defpath, "HOME": str(stick)}
    ran = subprocess.run(
        [sys.executable, "-I", "job.pyz"], cwd=stick, env=environment, capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    SAID[stick] = ran.stderr.splitlines()
    return stick / "result.zip"


def changed(path: Path, change: Callable[[dict[str, Any]], None], *, seal: bool) -> Path:
    with zipfile.ZipFile(path) as archive:
        result = json.loads(archive.read("result.json"))
    change(result)
    if seal:
        result["seal"] = seal_of(result)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("result.json", json.dumps(result))
    return path


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that exported a job, and the result of that job: measured once for all tests."""
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        remote_run.use_sleeper(patch)
        stick = exported(folder, remote_run.write_inputs(folder / "run"))
        before = sorted(path.name for path in stick.iterdir())
        result = done(stick)
        assert sorted(path.name for path in stick.iterdir()) == sorted([*before, "result.zip"])
    return folder / "run", result


def brought_to(tmp_path: Path, brought: tuple[Path, Path]) -> tuple[Path, Path, dict[str, Stage]]:
    run = Path(shutil.copytree(brought[0], tmp_path / "copy"))
    result = Path(shutil.copyfile(brought[1], tmp_path / "result.zip"))
    stages = {
        name: Stage(name, run / place, "", "", {}, 0.0, {}, False)
        for name, place in (("data", "1-data"), ("compile", "4-compile"))
    }
    return run, result, stages


def test_what_was_measured_on_a_stick_becomes_the_profile_stage(
    tmp_path: Path, inputs: dict[str, Stage], brought: tuple[Path, Path]
) -> None:
    run, result, stages = brought_to(tmp_path, brought)
    copy, spec = offline.keep(result, run)
    assert (copy.parent, spec.device) == (run / "offline", "cart7")
    section = SECTION.model_copy(update={"result": str(copy)})
    (tmp_path / "work").mkdir()
    values = profile.run(section, stages, tmp_path / "work", 0)
    assert set(values["engines"]) == set(remote_run.ENGINES)
    receipt = read_json(tmp_path / "work/receipts/int8__sleeper-int8.json")
    assert (receipt["device"], receipt["selftest"]["verdict"]) == ("cart7", "pass")
    assert profile.fingerprint(section) == profile.fingerprint(section)


def test_where_nobody_watches_a_job_says_one_line_an_engine(brought: tuple[Path, Path]) -> None:
    lines = SAID[brought[1].parent]
    assert len(lines) == len(remote_run.ENGINES)
    for number, (line, name) in enumerate(zip(lines, remote_run.ENGINES, strict=True), start=1):
        assert re.fullmatch(rf"engine {number} of 2: {name}, \d+ s so far, about \d+ s left", line), line


def test_a_sweep_on_a_stick_comes_home_with_its_rows(tmp_path: Path, inputs: dict[str, Stage]) -> None:
    remote_run.write_engine(tmp_path / "run/4-compile", "int8/sleeper-int8", {"milliseconds": 1, "largest_batch": 4})
    section = SECTION.model_copy(
        update={"scenarios": ("steady", "sweep"), "sweep": Sweep(batch_sizes=(1, 4), threads=(1,), blocks=3)}
    )
    result = done(exported(tmp_path, inputs, section))
    copy, _ = offline.keep(result, tmp_path / "run")
    (tmp_path / "work").mkdir()
    profile.run(section.model_copy(update={"result": str(copy)}), inputs, tmp_path / "work", 0)
    report = read_json(tmp_path / "work/latency.json")
    found = {(row["engine"], row["batch_size"]): row for row in report["scenarios"]["sweep"]["rows"]}
    assert found["int8/sleeper-int8", 4]["calls"] == 15
    assert "cannot take 4 images" in found["float/sleeper-float32", 4]["refused"]
    assert found["float/sleeper-float32", 1]["refused"] is None


def with_a_slow_fifth(one: dict[str, Any]) -> None:
    """Every worker alike: 1 ms, but each fifth image 9 ms. So the medians, and with them the control, agree exactly."""
    for series in one["measured"]["series"].values():
        series["wall_ns"] = [[1_000_000] * 4 + [9_000_000]] * 2 * len(series["wall_ns"])  # enough to carry a p90
        series["cpu_ns"], series["order"] = series["cpu_ns"] * 2, series["order"] * 2


def test_a_wide_spread_is_unstable_in_an_imported_result_as_in_a_local_one(
    tmp_path: Path, inputs: dict[str, Stage], brought: tuple[Path, Path]
) -> None:
    run, result, stages = brought_to(tmp_path, brought)
    copy, _ = offline.keep(changed(result, with_a_slow_fifth, seal=True), run)
    (tmp_path / "work").mkdir()
    values = profile.run(SECTION.model_copy(update={"result": str(copy)}), stages, tmp_path / "work", 0)
    there = read_json(tmp_path / "work/latency.json")
    assert (there["aa_control"]["verdict"], values["stability"]) == ("stable", "unstable")
    raw = offline._read(copy)
    here = profile.assemble(
        list(offline._spec_of(copy.with_suffix(".json")).engines), remote_profile.measured_of(raw["measured"]),
        device={}, threads=1, seed=0,
    )  # fmt: skip
    assert here["stability"] == there["stability"]
    assert "9.0 times the median or longer" in here["stability"]["reasons"][0]


def test_a_changed_result_is_refused(tmp_path: Path, inputs: dict[str, Stage], brought: tuple[Path, Path]) -> None:
    run, result, _ = brought_to(tmp_path, brought)
    changed(result, lambda one: one["measured"].update(rounds=1), seal=False)
    with pytest.raises(IntegrityError, match="not as the device sealed it"):
        offline.keep(result, run)


def test_the_result_of_other_engines_is_refused(
    tmp_path: Path, inputs: dict[str, Stage], brought: tuple[Path, Path]
) -> None:
    run, result, _ = brought_to(tmp_path, brought)
    changed(result, lambda one: one["engines"]["int8/sleeper-int8"].update(sha256="0" * 64), seal=True)
    with pytest.raises(IntegrityError, match="other engines"):
        offline.keep(result, run)


def test_a_foreign_result_is_refused(tmp_path: Path, inputs: dict[str, Stage], brought: tuple[Path, Path]) -> None:
    _, result, _ = brought_to(tmp_path, brought)
    with pytest.raises(IntegrityError, match="did not export"):
        offline.keep(result, tmp_path / "run")


def test_engines_that_were_compiled_since_are_noticed(
    tmp_path: Path, inputs: dict[str, Stage], brought: tuple[Path, Path]
) -> None:
    run, result, stages = brought_to(tmp_path, brought)
    copy, _ = offline.keep(result, run)
    remote_run.write_engine(run / "4-compile", "int8/sleeper-int8", {"milliseconds": 9})
    (tmp_path / "work").mkdir()
    with pytest.raises(IntegrityError, match="compiled again since the job was exported"):
        profile.run(SECTION.model_copy(update={"result": str(copy)}), stages, tmp_path / "work", 0)


def test_a_result_that_is_not_there_is_named_with_the_nearest_zip(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no file .*resullt\.zip") as caught:
        offline.keep(tmp_path / "resullt.zip", tmp_path / "run")
    assert "the result.zip that job.pyz writes" in caught.value.fix
    assert "Did you mean" not in caught.value.fix
    for name in ("result.zip", "job.zip"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(RecipeError) as caught:
        offline.keep(tmp_path / "resullt.zip", tmp_path / "run")
    assert f"Did you mean '{tmp_path / 'result.zip'}'?" in caught.value.fix
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"no zip"])
def test_what_is_no_result_is_refused(tmp_path: Path, inputs: dict[str, Stage], content: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="is no result of a job"):
        offline.keep(path, tmp_path / "run")


def test_a_job_that_was_unpacked_by_half_says_so(tmp_path: Path, inputs: dict[str, Stage]) -> None:
    stick = exported(tmp_path, inputs)
    (stick / "spec.json").unlink()
    ran = subprocess.run([sys.executable, "-I", "job.pyz"], cwd=stick, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 2
    assert "Unpack the whole of the job's zip" in ran.stderr
    assert not (stick / "result.zip").exists()
    assert not [path for path in stick.iterdir() if path.name.startswith("medge-")]


def test_a_file_of_the_job_that_was_changed_is_refused(tmp_path: Path, inputs: dict[str, Stage]) -> None:
    stick = exported(tmp_path, inputs)
    for path in (stick / "files").iterdir():
        path.write_bytes(path.read_bytes() + b"x")
    ran = subprocess.run([sys.executable, "-I", "job.pyz"], cwd=stick, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 2
    assert "is not the recorded file" in ran.stderr


def test_a_clock_that_jumps_is_noted_and_harms_no_figure(
    tmp_path: Path, inputs: dict[str, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = exported(tmp_path, inputs)
    (tmp_path / "folder").mkdir()
    shutil.copy(stick / "spec.json", tmp_path / "folder")
    real, calls = job_run.time.time, []

    def jumping() -> float:
        calls.append(0)
        return real() + (86400.0 if len(calls) > 1 else 0.0)

    monkeypatch.setattr(job_run.time, "time", jumping)
    result = job_run._do(tmp_path / "folder", [stick / "files"], tmp_path / "folder/out", lambda _: None)
    assert result["clock_jump_seconds"] == pytest.approx(86400, abs=5)
    assert 0 < result["measured"]["seconds"] < 100
    assert all(0 < ns < 1e9 for one in result["measured"]["series"].values() for ns in one["wall_ns"][0])


def start(stick: Path, *words: str) -> subprocess.Popen[str]:
    """As a terminal would: a shell's background job, which these tests may be, has SIGINT ignored and hands that on."""
    return subprocess.Popen(
        [sys.executable, "-I", "job.pyz", *words], cwd=stick, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_words_that_a_job_does_not_take_are_answered_with_its_usage(tmp_path: Path, inputs: dict[str, Stage]) -> None:
    stick = exported(tmp_path, inputs)
    for words, code in ((["--help"], 0), (["one"], 2), (["no", "folder"], 2)):
        said = "".join(start(stick, *words).communicate(timeout=60))
        again = start(stick, *words)
        again.communicate(timeout=60)
        assert again.returncode == code, words
        assert "usage: python3 job.pyz" in said
        assert "Traceback" not in said


def test_ctrl_c_ends_a_job_with_a_word_and_leaves_nothing(tmp_path: Path, inputs: dict[str, Stage]) -> None:
    stick = exported(tmp_path, inputs, SECTION.model_copy(update={"seconds": 60.0}))
    before = sorted(stick.iterdir())
    job = start(stick)
    assert job.stderr is not None
    line = job.stderr.readline()
    os.killpg(job.pid, signal.SIGINT)  # as a terminal does, to the job and its children
    _, said = job.communicate(timeout=60)
    assert line.startswith("engine 1 of 2")
    assert job.returncode == 130
    assert "stopped: nothing was written" in said
    assert "Traceback" not in said
    assert sorted(stick.iterdir()) == before


def test_a_labelled_file_that_is_damaged_is_found_before_anything_is_run(
    tmp_path: Path, inputs: dict[str, Stage]
) -> None:
    stick = exported(tmp_path, inputs, SECTION.model_copy(update={"score": "test"}))
    labelled = read_json(stick / "spec.json")["labelled"]["images"]["sha256"]
    (stick / "files" / labelled).write_bytes(b"")
    job = start(stick)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 2
    assert "is not the recorded file" in said
    assert "engine 1 of 2" not in said


def test_scoring_says_a_line_of_each_engine(tmp_path: Path, inputs: dict[str, Stage]) -> None:
    stick = exported(tmp_path, inputs, SECTION.model_copy(update={"score": "test"}))
    done(stick)
    assert [line.partition(",")[0] for line in SAID[stick]] == [
        *(f"engine {k} of 2: {name}" for k, name in enumerate(remote_run.ENGINES, start=1)),
        *(f"scored engine {k} of 2: {name}" for k, name in enumerate(remote_run.ENGINES, start=1)),
    ]


def test_a_job_for_a_jetson_is_refused_on_another_machine_before_it_measures(
    tmp_path: Path, inputs: dict[str, Stage]
) -> None:
    stick = exported(tmp_path, inputs)
    spec = read_json(stick / "spec.json")
    (stick / "spec.json").write_text(json.dumps({**spec, "kind": "jetson"}))
    job = start(stick)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 3
    assert "cart7: added as jetson, it looks like " in said
    assert "engine 1 of 2" not in said


@pytest.mark.parametrize(("looks", "error"), [("linux", MissingError), (None, IntegrityError)])
def test_a_result_of_another_kind_of_machine_is_refused(
    tmp_path: Path, inputs: dict[str, Stage], brought: tuple[Path, Path], looks: str | None, error: type[Exception]
) -> None:
    run, result, _ = brought_to(tmp_path, brought)
    (own,) = (run / "offline").glob("*.json")
    own.write_text(json.dumps({**read_json(own), "kind": "jetson"}))
    sha256 = offline._spec_of(own).sha256

    def of_linux(one: dict[str, Any]) -> None:
        one["spec_sha256"] = sha256
        one["device"]["looks_like"] = looks

    with pytest.raises(error, match="added as jetson, it looks like linux" if looks else "does not say what kind"):
        offline.keep(changed(result, of_linux, seal=True), run)
