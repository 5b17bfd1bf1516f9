"""From `medge devices add` to a bundle with a receipt, on a real ssh server whose tools are those of a fake Jetson."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medge import cli, manifest
from medge.job.territory import MARKER
from medge.records import read_json, sha256_of_file
from medge.runtime import bundle as bundles
from medge.sections import PackageSection, ProfileSection
from medge.stages import package, profile
from medge.workspace import Stage
from tests.fake_stages import fake_inputs
from tests.ssh_server import Sshd, sshd

pytestmark = pytest.mark.ssh

FAKE = Path(__file__).resolve().parents[1] / "fake_jetson"
SECTION = ProfileSection(
    device="jetson", blocks=12, seconds=0.2, warmup_seconds=0.0, threads=1, power_mode="25W", lock_clocks=True
)


@pytest.fixture(scope="module")
def jetson(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    folder = tmp_path_factory.mktemp("jetson")
    environment = {
        "PATH": f"{FAKE}:{os.environ['PATH']}", "FAKE_JETSON_STATE": str(folder / "state.json"),
        "PYTHONPATH": str(FAKE / "site"),
    }  # fmt: skip
    with sshd(folder / "sshd", environment=environment) as one:
        yield one


@pytest.fixture(autouse=True)
def one_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(manifest, "_git_state", lambda: {"commit": "0" * 40, "changed": False})
    monkeypatch.setenv("MEDGE_DEVICES", str(tmp_path / "devices.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def call(*words: str) -> Any:
    done = CliRunner().invoke(cli.app, [*words, "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return json.loads(done.stdout)


def measured(run: dict[str, Stage], folder: Path) -> dict[str, Stage]:
    """The run with its profile stage made on the Jetson."""
    work = folder / "6-profile"
    work.mkdir()
    values = profile.run(SECTION, run, work, 0)
    return {**run, "profile": Stage("profile", work, "k", "s" * 64, values, 0.0, {}, False)}


def test_from_an_address_to_a_receipt_in_the_bundle(jetson: Sshd, tmp_path: Path) -> None:
    device = jetson.device
    address = f"ssh://{device.user}@127.0.0.1:{device.port}"
    where = ["--folder", str(tmp_path / "there"), "--python", sys.executable, "--identity", str(device.identity)]
    added = call("devices", "add", "cart7", address, "--kind", "jetson", *where, "--yes")
    assert added["fingerprint"].startswith("SHA256:")
    checks = {one["name"]: one for one in call("devices", "doctor", "cart7")["checks"]}
    assert checks["kind"]["found"] == "jetson"
    assert {name for name, one in checks.items() if not one["ok"]} == set()

    run = measured(fake_inputs(tmp_path / "run"), tmp_path)
    report = read_json(run["profile"].folder / "latency.json")
    assert "Orin Nano" in report["device"]["facts"]["board"]
    assert report["device"]["power"]["during"]["power_mode"]["name"] == "25W"
    assert report["device"]["after"]["power_mode"] == report["device"]["before"]["power_mode"]

    work = tmp_path / "9-package"
    work.mkdir()
    values = package.run(PackageSection(device="jetson"), run, work, 0)
    assert values["validated_on"] == "cart7"
    bundle = bundles.load(work / values["bundle"])
    (entry,) = bundle.manifest["receipts"]
    receipt = read_json(bundle.folder / entry["path"])
    assert entry["sha256"] == sha256_of_file(bundle.folder / entry["path"])
    assert entry["path"] in {file["path"] for file in bundle.manifest["files"]}
    assert receipt["engine_sha256"] == bundle.engine.sha256
    assert receipt["power_mode"]["name"] == "25W"
    assert receipt["selftest"]["verdict"] == "pass"
    assert receipt["facts"]["l4t"].startswith("36.")
    assert "its selftest on cart7 passed (16 images)" in bundle.manifest["validated_on"]["by"]
    assert (bundle.manifest["validated_on"]["device"], bundle.manifest["validated_on"]["receipt"]) == (
        "cart7",
        entry["path"],
    )
    assert "Orin Nano" in bundle.manifest["validated_on"]["cpu"]
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"files", MARKER}
    assert call("devices", "clean", "cart7")["removed"] == ["files"]
    assert not (tmp_path / "there").exists()
