"""Ctrl-C: the job there is ended before the command is, whatever the link was in the middle of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medge import conversation, link, remote
from medge.device_book import Device
from tests import remote_run


def test_ctrl_c_ends_the_job_there_before_the_command_ends(tmp_path: Path, device: Device) -> None:
    told: list[str] = []

    def interrupted(event: dict[str, Any]) -> None:
        told.append(str(event.get("text", event["step"])))
        if len(told) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(tmp_path, device, interrupted)
    assert told[-1] == "ends the job and puts back what it changed"
    assert ended(device)


def test_ctrl_c_in_the_middle_of_a_file_that_comes_ends_the_job_too(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = link.Link.read

    def interrupted(self: Any, count: int, *, seconds: float) -> bytes:
        real(self, count // 2, seconds=seconds)
        monkeypatch.setattr(link.Link, "read", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(link.Link, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_job(tmp_path, device, lambda _: None)
    assert ended(device)


def run_job(tmp_path: Path, device: Device, told: Any) -> None:
    made = remote_run.made_job(tmp_path, device)
    fetched = tmp_path / "fetched"
    remote.run_job(device, made.spec, files=made.files, archive=made.archive, fetched=fetched, told=told, keep=False)


def ended(device: Device) -> bool:
    """No job holds the device's folder, and none left anything: at once, not after the host's silence."""
    return not Path(str(device.folder)).exists()


def test_an_answer_that_ctrl_c_left_on_the_way_is_not_taken_for_the_next_one(device: Device, tmp_path: Path) -> None:
    made = remote_run.made_job(tmp_path, device)
    with conversation.connected(device) as agent:
        agent.ask("open", job=made.spec.id, who="tester", grace_seconds=30, keep=False)
        agent._link.write(b'{"command": "ask", "argv": ["sleep", "0.3"], "limit_seconds": 9, "number": 2}\n')
        agent._asked += 1  # its answer is still on the way when somebody stops
        assert agent.ask("close") == {"left": []}
        assert not (Path(str(device.folder)) / "lock").exists()
