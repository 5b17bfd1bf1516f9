"""Caches of builders and engines: they come with the job, go home with its result, and never cost one."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medge import engine_caches
from medge.backends import openvino
from medge.job.caches import BLOB, TIMES, Caches
from medge.job.spec import Cache, Graph, Spec
from medge.records import Engine, File, file_record, sha256_of_file
from tests import nets

GRAPH = Graph("float", "forge", "float32", File("graph.onnx", "0" * 64, 1))
PIN = {"forge": "1.0", "gpu": "Orin", "driver": "12060"}


def spec_of(*caches: Cache, blobs: bool = False) -> Spec:
    return Spec(
        id="a", device="cart7", kind="linux", medge="", seed=0, threads=1, engines=(), graphs=(GRAPH,),
        images=File("images.npy", "", 0), labelled=None, bench=None, limit_seconds=1.0, caches=caches, blob_cache=blobs,
    )  # fmt: skip


def forge(pin: dict[str, str] = PIN) -> Any:
    return SimpleNamespace(BUILD_CACHE="timing.cache", cache_pin=lambda: pin)


class Job:
    """One job's folder on the device; `build` is what the builder does with the file beside the graph."""

    def __init__(self, folder: Path, spec: Spec, stored: Path) -> None:
        self.folder, self.said = folder, list[str]()
        folder.mkdir(parents=True)
        self.source = folder / "graph.onnx"
        self.caches = Caches(
            spec, folder, folder / "out", cpu="x86", find=lambda file: stored / file.sha256, note=self.said.append
        )

    def built(self, *, pin: dict[str, str] = PIN, dropped: bool = False) -> list[dict[str, Any]]:
        beside = self.source.with_name("timing.cache")
        self.caches.before_build(GRAPH, forge(pin), self.source)
        if dropped:
            beside.unlink()
            beside.with_name("timing.cache.dropped").write_text("it is damaged")
        beside.write_text((beside.read_text() if beside.exists() else "") + "+")
        self.caches.after_build(GRAPH, forge(pin), self.source)
        return self.caches.collected()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return engine_caches.folder_of("cart7")


def after_one_job(tmp_path: Path) -> tuple[tuple[Cache, ...], dict[str, Path]]:
    job = Job(tmp_path / "first", spec_of(), tmp_path)
    engine_caches.keep("cart7", {"caches": job.built()}, job.folder / "out")
    return engine_caches.load("cart7", backends=["forge"], blobs_of=[])


def test_times_of_one_job_are_given_to_the_next_and_both_are_named(tmp_path: Path, home: Path) -> None:
    caches, files = after_one_job(tmp_path)
    (first,) = caches
    assert (first.kind, first.pin) == (TIMES, PIN)
    job = Job(tmp_path / "second", spec_of(first), home)
    (found,) = job.built()
    assert (found["given"], found["engine"]) == (first.file.sha256, GRAPH.name)
    assert (job.folder / "out" / found["file"]["sha256"]).read_text() == "++"
    assert files == {first.file.sha256: home / first.file.sha256}
    engine_caches.keep("cart7", {"caches": [found]}, job.folder / "out")
    assert sorted(path.name for path in home.iterdir()) == sorted([found["file"]["sha256"], "index.json"])


@pytest.mark.parametrize(("key", "value"), [("forge", "2.0"), ("gpu", "Xavier"), ("driver", "12080")])
def test_times_of_another_version_gpu_or_driver_are_not_used(tmp_path: Path, home: Path, key: str, value: str) -> None:
    (first,), _ = after_one_job(tmp_path)
    job = Job(tmp_path / "second", spec_of(first), home)
    (found,) = job.built(pin={**PIN, key: value})
    assert found["given"] is None
    assert (job.folder / "out" / found["file"]["sha256"]).read_text() == "+"
    assert job.said == ["the kept times of forge are of driver 12060, forge 1.0, gpu Orin: not used here"]


def test_times_that_the_builder_drops_are_said_and_not_named_as_used(tmp_path: Path, home: Path) -> None:
    (first,), _ = after_one_job(tmp_path)
    job = Job(tmp_path / "second", spec_of(first), home)
    (found,) = job.built(dropped=True)
    assert found["given"] is None
    assert job.said == [f"{GRAPH.name}: it is damaged."]


def test_a_file_that_was_damaged_on_this_host_is_dropped_with_a_sentence(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (first,), _ = after_one_job(tmp_path)
    (home / first.file.sha256).write_text("spoiled")
    assert engine_caches.load("cart7", backends=["forge"], blobs_of=[]) == ((), {})
    assert "the kept times of forge for cart7 are damaged: dropped" in " ".join(capsys.readouterr().err.split())


def test_an_index_that_cannot_be_read_is_dropped_and_the_next_job_writes_another(tmp_path: Path, home: Path) -> None:
    after_one_job(tmp_path)
    (home / "index.json").write_text("{")
    assert engine_caches.load("cart7", backends=["forge"], blobs_of=[]) == ((), {})
    shutil.rmtree(tmp_path / "first")
    assert len(after_one_job(tmp_path)[0]) == 1


def test_caches_are_private_files_so_that_none_stays_on_the_device(tmp_path: Path, home: Path) -> None:
    (first,), _ = after_one_job(tmp_path)
    assert first.file in spec_of(first).private_files()
    assert first.file not in spec_of(first).shared_files()


class TestBlobs:
    @pytest.fixture
    def engine(self, tmp_path: Path) -> tuple[Engine, Path]:
        folder = tmp_path / "engine"
        graph = nets.write_net(tmp_path / "graph.onnx", [])
        names = openvino.build(graph, folder, precision="float32")
        files = tuple(file_record(folder, folder / name) for name in names)
        return Engine("float", "openvino", "float32", files, "", {}), folder

    def started(
        self, folder: Path, engine: tuple[Engine, Path], spec: Spec, stored: Path
    ) -> tuple[list[dict[str, Any]], Job]:
        """One job on a fresh copy of the engine with real OpenVINO."""
        job = Job(folder, spec, stored)
        shutil.copytree(engine[1], folder / "engine")
        job.caches.before_start(engine[0], folder / "engine", openvino)
        names = [file.path for file in engine[0].files]
        openvino.start(folder / "engine", names, precision="float32", threads=1)
        return job.caches.collected(), job

    def test_a_blob_is_made_taken_home_and_read_again(
        self, tmp_path: Path, home: Path, engine: tuple[Engine, Path]
    ) -> None:
        (made,), job = self.started(tmp_path / "a", engine, spec_of(blobs=True), home)
        assert (made["kind"], made["given"], made["pin"]["engine"]) == (BLOB, None, engine[0].sha256)
        engine_caches.keep("cart7", {"caches": [made]}, job.folder / "out")
        caches, _ = engine_caches.load("cart7", backends=[], blobs_of=[engine[0].sha256])
        (again,), job = self.started(tmp_path / "b", engine, spec_of(*caches, blobs=True), home)
        assert again["given"] == again["file"]["sha256"] == made["file"]["sha256"]
        assert job.said == []

    def test_a_damaged_blob_is_made_again_and_said(
        self, tmp_path: Path, home: Path, engine: tuple[Engine, Path]
    ) -> None:
        (made,), job = self.started(tmp_path / "a", engine, spec_of(blobs=True), home)
        half = job.folder / "out" / made["file"]["sha256"]
        half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
        sha256 = sha256_of_file(half)
        half.rename(half.with_name(sha256))
        cache = Cache("openvino", BLOB, made["pin"], File(made["file"]["path"], sha256, 1))
        (again,), job = self.started(tmp_path / "b", engine, spec_of(cache, blobs=True), tmp_path / "a/out")
        assert again["given"] is None
        assert job.said == ["float/openvino-float32: its kept blob was not taken and was made again"]

    def test_a_blob_of_another_version_is_not_used(
        self, tmp_path: Path, home: Path, engine: tuple[Engine, Path]
    ) -> None:
        (made,), job = self.started(tmp_path / "a", engine, spec_of(blobs=True), home)
        file = File(**made["file"])
        old = Cache("openvino", BLOB, {**made["pin"], "openvino": "2020.1"}, file)
        (again,), job = self.started(tmp_path / "b", engine, spec_of(old, blobs=True), tmp_path / "a/out")
        assert again["given"] is None
        assert job.said[0].startswith("the kept blob of openvino are of cpu x86, openvino 2020.1: not used")

    def test_without_being_asked_an_engine_starts_as_a_bundles_does(
        self, tmp_path: Path, home: Path, engine: tuple[Engine, Path]
    ) -> None:
        found, job = self.started(tmp_path / "a", engine, spec_of(), home)
        assert found == []
        assert not (job.folder / "engine/cache").exists()
