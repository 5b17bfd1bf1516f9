"""A real OpenSSH server on loopback: measuring, host keys, links that are cut, processes that are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medge import conversation, device_book, link, remote
from medge.device_book import Device
from medge.errors import MissingError
from medge.job.supervisor import holder
from medge.job.territory import MARKER
from medge.records import read_json
from medge.remote_profile import make
from medge.stages import profile
from tests import remote_run
from tests.remote_run import SECTION
from tests.ssh_server import Cutter, Sshd, make_key, namespace_reason, skip_without_sshd, sshd

pytestmark = pytest.mark.ssh


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as one:
        yield one


@pytest.fixture
def device(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return known(server, tmp_path, monkeypatch)


def known(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    remote_run.use_sleeper(monkeypatch)
    monkeypatch.setenv("MEDGE_DEVICES", str(tmp_path / "devices.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    device = replace(server.device, python=sys.executable, folder=str(tmp_path / "device"))
    device_book.add(device)
    return device


def job(tmp_path: Path, device: Device, **changes: Any) -> Any:
    """A job ready to go, as the profile stage makes it."""
    inputs = remote_run.write_inputs(tmp_path / "run")
    (tmp_path / "scratch").mkdir()
    return make(SECTION.model_copy(update=changes), inputs, tmp_path / "scratch", device=device, seed=0)


def do(made: Any, device: Device, tmp_path: Path, **keys: Any) -> remote.Finished:
    return remote.run_job(
        device, made.spec, files=made.files, archive=made.archive, fetched=tmp_path / "fetched", **keys
    )


def left(device: Device) -> list[str]:
    root = Path(str(device.folder))
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.name != MARKER)


def wait_until(true: Any, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def test_a_device_is_measured_and_gives_receipts(tmp_path: Path, server: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    known(server, tmp_path, monkeypatch)
    (tmp_path / "work").mkdir()
    values = profile.run(SECTION, remote_run.write_inputs(tmp_path / "run"), tmp_path / "work", 0)
    assert set(values["engines"]) == set(remote_run.ENGINES)
    assert read_json(tmp_path / "work/receipts/int8__sleeper-int8.json")["selftest"]["verdict"] == "pass"


def test_the_link_is_cut_twenty_times_and_the_job_is_done_whole(device: Device, tmp_path: Path) -> None:
    cutter = Cutter(int(device.port or 0), cuts=20, seconds=(0.05, 1.5), seed=7)
    jobs = 0
    while cutter.done < 20:  # a quick machine is done sooner: then the rest of the cuts hits another job
        place = tmp_path / f"job-{jobs}"
        place.mkdir()
        made = job(place, device, seconds=4.0)
        finished = do(made, cutter.through(device), place, keep=False)
        assert finished.result["seal"] == remote.verified(finished.result, made.spec)["seal"]
        assert set(finished.result["measured"]["series"]) == {*remote_run.ENGINES, "A/A control"}
        assert all(len(one["wall_ns"]) >= 12 for one in finished.result["measured"]["series"].values())
        assert finished.left == ()
        assert not Path(str(device.folder)).exists()
        jobs += 1
    assert jobs < 20, "hardly a job was cut"
    cutter.close()


def test_a_link_that_stays_cut_leaves_no_lock_and_nothing_else(device: Device, tmp_path: Path) -> None:
    made = job(tmp_path, device, seconds=60.0)
    cutter = Cutter(int(device.port or 0), cuts=10**6, seconds=(2.0, 2.0))
    through = cutter.through(device)
    failure: list[Exception] = []

    def give_up(event: Any) -> None:
        if event["step"] == "link":
            raise KeyboardInterrupt

    def run() -> None:
        try:
            do(made, through, tmp_path, keep=False, told=give_up, grace_seconds=1.0)
        except KeyboardInterrupt as error:
            failure.append(RuntimeError(repr(error)))

    host = threading.Thread(target=run)
    host.start()
    host.join(60)
    assert failure
    wait_until(lambda: not Path(str(device.folder)).exists())
    cutter.close()


def test_a_killed_supervisor_is_taken_over_and_its_job_is_gone(device: Device, tmp_path: Path) -> None:
    made = job(tmp_path, device, seconds=60.0)
    with conversation.connected(device) as agent:
        agent.ask("open", job=made.spec.id, who="tester", grace_seconds=60, keep=True)
        own = remote._Job(device, made.spec, made.files, made.archive, tmp_path, keep=True, told=lambda _: None,
                          grace_seconds=60)  # fmt: skip
        files = [{"sha256": f.sha256, "bytes": f.bytes, "private": private} for f, private in own._files]
        have = agent.ask("have", files=files)["have"]
        for file, private in own._files:
            own._send(agent, file, private, have[file.sha256])
        import json

        from medge.records import to_json

        agent.ask("start", spec=json.dumps(to_json(made.spec)), archive=own._archive.sha256, limit_seconds=100)
        agent.ask("poll", after=0, wait_seconds=20)
        pid = holder(str(device.folder))["pid"]
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
        assert children
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(Path("/proc", child).exists() for child in children))
    short = tmp_path / "short"
    short.mkdir()
    finished = do(job(short, device), device, short)
    assert finished.left == ("files",)
    assert [name for name in left(device) if not name.startswith("files")] == []


def test_a_changed_host_key_is_refused_and_the_right_one_goes_on(tmp_path: Path, device: Device) -> None:
    changed = make_key(tmp_path / "other")
    with (
        pytest.raises(MissingError, match="another host key") as caught,
        conversation.connected(replace(device, host_key=changed)),
    ):
        pass
    assert "medge devices remove cart7" in caught.value.fix
    with conversation.connected(device) as agent:
        assert agent.hello["user"]
    assert link.host_key(replace(device, host_key=None)).public == device.host_key


def test_a_key_that_is_not_authorised_is_refused(tmp_path: Path, device: Device) -> None:
    make_key(tmp_path / "stranger")
    with (
        pytest.raises(MissingError, match="refused the login"),
        conversation.connected(replace(device, identity=str(tmp_path / "stranger"))),
    ):
        pass


def test_an_alias_of_the_users_ssh_config_is_followed(tmp_path: Path, device: Device) -> None:
    config = tmp_path / "home/.ssh/config"
    config.parent.mkdir(parents=True)
    config.write_text(
        f"Host ward\n  HostName 127.0.0.1\n  Port {device.port}\n  User {device.user}\n"
        f"  IdentityFile {device.identity}\n"
    )
    with conversation.connected(replace(device, host="ward", port=None, user=None, identity=None)) as agent:
        assert agent.hello["executable"] == sys.executable


def test_a_jump_host_of_the_users_ssh_config_is_taken(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sshd(tmp_path / "gate") as gate:
        ssh = tmp_path / "home/.ssh"
        ssh.mkdir(parents=True)
        (ssh / "config").write_text(
            f"Host gate\n  HostName 127.0.0.1\n  Port {gate.port}\n  User {gate.device.user}\n"
            f"  IdentityFile {gate.device.identity}\n  UserKnownHostsFile {ssh}/known_hosts\n"
            f"Host ward\n  HostName 127.0.0.1\n  Port {device.port}\n  ProxyJump gate\n"
        )
        (ssh / "known_hosts").write_text(f"[127.0.0.1]:{gate.port} {gate.device.host_key}\n")
        with conversation.connected(replace(device, host="ward", port=None)) as agent:
            assert agent.hello["user"]
        assert b"Accepted publickey" in (gate.folder / "log").read_bytes()


def test_no_space_there_is_said_and_nothing_stays(tmp_path: Path, device: Device) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount: {mounted.stderr.decode().strip()}")
    try:
        tight = replace(device, folder=str(small / "device"))
        with pytest.raises(MissingError, match=r"cart7: The device has no space: the job needs \d") as caught:
            do(job(tmp_path, tight), tight, tmp_path)
        assert "--folder PATH" in caught.value.fix
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_no_permission_there_is_said(tmp_path: Path, device: Device) -> None:
    with pytest.raises(MissingError, match="cart7: The device refused /sys/medge") as caught:
        do(job(tmp_path, device), replace(device, folder="/sys/medge"), tmp_path)
    assert caught.value.exit_code == 3


def test_a_python_3_6_there_is_named(device: Device) -> None:
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    old = sorted(home.glob("versions/3.[67].*/bin/python3"))
    if not old:
        pytest.skip("needs a Python 3.6 or 3.7 under pyenv")
    with (
        pytest.raises(MissingError, match=r"is 3\.[67]\.\d+; medge needs 3\.8"),
        conversation.connected(replace(device, python=str(old[0]))),
    ):
        pass


def test_a_device_without_route_and_dns_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace of its own, joined to this process's by one cable: the hospital's case."""
    skip_without_sshd()
    reason = namespace_reason()
    if reason is not None:
        pytest.skip(f"needs a network namespace: {reason}")
    space, near, far = f"medge{os.getpid()}", f"mn{os.getpid()}"[:15], f"mf{os.getpid()}"[:15]
    ip = shutil.which("ip") or "ip"

    def run(*words: str) -> None:
        subprocess.run([ip, *words], check=True, capture_output=True)

    run("netns", "add", space)
    try:
        run("link", "add", near, "type", "veth", "peer", "name", far)
        run("link", "set", far, "netns", space)
        run("addr", "add", "198.18.77.1/30", "dev", near)
        run("link", "set", near, "up")
        run("-n", space, "addr", "add", "198.18.77.2/30", "dev", far)
        run("-n", space, "link", "set", far, "up")
        server = Sshd(tmp_path / "sshd", address="198.18.77.2")
        try:
            server.start(prefix=(ip, "netns", "exec", space))
            device = known(server, tmp_path, monkeypatch)
            with conversation.connected(device) as agent:
                assert agent.run("ip", "route", "show", "default")["out"] == ""
            finished = do(job(tmp_path, device), device, tmp_path)
            assert set(finished.result["engines"]) == set(remote_run.ENGINES)
        finally:
            server.stop()
    finally:
        subprocess.run([ip, "netns", "del", space], capture_output=True)
        subprocess.run([ip, "link", "del", near], capture_output=True)
