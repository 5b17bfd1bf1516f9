"""The device's end of a link, driven through its pipes as ssh does."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medge import conversation
from medge.job import territory

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Talk:
    def __init__(self, root: Path | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", conversation._BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        assert self._out.readline() == b"\n"
        assert self._out.readline().startswith(b"MEDGE-AGENT 3.")
        sources = conversation._agent_sources()
        self._in.write(b"%8d" % len(sources) + sources)
        self.ask("hello", root=None if root is None else str(root))

    def ask(self, command: str, payload: bytes = b"", **keys: Any) -> Any:
        self._in.write(json.dumps({"command": command, "number": 1, **keys}).encode() + b"\n" + payload)
        answer = json.loads(self._out.readline())
        assert answer.pop("number") == 1
        answer.pop("follows")
        return answer

    def open(self, job: str, *, grace_seconds: float = 30.0, keep: bool = True) -> Any:
        return self.ask("open", job=job, who="tester", grace_seconds=grace_seconds, keep=keep)

    def put(self, content: bytes, *, sha256: str = SHA256, offset: int = 0, size: int | None = None) -> Any:
        size = len(content) + offset if size is None else size
        return self.ask("put", content, sha256=sha256, bytes=size, offset=offset, private=False)

    def have(self, sha256: str = SHA256, size: int = len(CONTENT)) -> Any:
        return self.ask("have", files=[{"sha256": sha256, "bytes": size, "private": False}])

    def drop(self) -> None:
        self._in.close()
        self._process.wait(10)
        self._out.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "device"


@pytest.fixture
def talk(root: Path) -> Iterator[Talk]:
    one = Talk(root)
    yield one
    one.drop()


def gone(path: Path, seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while path.exists() and time.monotonic() < until:
        time.sleep(0.02)
    return not path.exists()


def test_a_file_that_arrived_whole_is_not_asked_for_again(talk: Talk) -> None:
    talk.open("a")
    assert talk.have() == {"have": {SHA256: 0}}
    assert talk.put(CONTENT) == {"whole": True}
    assert talk.have() == {"have": {SHA256: len(CONTENT)}}


def test_half_a_file_is_never_taken_for_a_whole_one_and_goes_on_where_it_stopped(root: Path) -> None:
    first = Talk(root)
    first.open("a")
    first._in.write(
        json.dumps(
            {"command": "put", "number": 1, "sha256": SHA256, "bytes": len(CONTENT), "offset": 0, "private": False}
        ).encode()
        + b"\n" + CONTENT[:3000]
    )  # fmt: skip
    part = root / "files" / f"{SHA256}.part"
    until = time.monotonic() + 5
    while not part.exists() and time.monotonic() < until:
        time.sleep(0.02)
    first.drop()
    assert not (root / "files" / SHA256).exists()
    second = Talk(root)
    assert second.open("a") == {"state": "attached"}
    assert second.have() == {"have": {SHA256: 3000}}
    assert second.put(CONTENT[3000:], offset=3000) == {"whole": True}
    assert (root / "files" / SHA256).read_bytes() == CONTENT
    second.ask("close")
    second.drop()


def test_a_file_of_another_content_is_refused_and_removed(talk: Talk, root: Path) -> None:
    talk.open("a")
    assert talk.put(b"x" * len(CONTENT)) == {"whole": False}
    assert list((root / "files").iterdir()) == []


def test_a_kept_file_that_was_changed_is_asked_for_again(talk: Talk, root: Path) -> None:
    talk.open("a")
    talk.put(CONTENT)
    (root / "files" / SHA256).write_bytes(b"y" * len(CONTENT))
    assert talk.have() == {"have": {SHA256: 0}}


def test_a_second_job_is_refused_with_who_holds_the_device(talk: Talk, root: Path) -> None:
    talk.open("a")
    other = Talk(root)
    answer = other.open("b")
    assert answer["kind"] == "MissingError"
    assert "busy with the job of tester (process " in answer["error"]
    talk.ask("close")
    assert other.open("b") == {"state": "new"}
    other.ask("close")
    other.drop()


def test_the_lock_of_a_killed_process_holds_nothing(talk: Talk, root: Path) -> None:
    talk.open("a")
    (root / "jobs/a/left").write_text("behind")
    os.kill(json.loads((root / "lock").read_text())["pid"], signal.SIGKILL)
    other = Talk(root)
    assert other.open("b") == {"state": "new"}
    assert not (root / "jobs/a").exists()
    assert other.ask("close") == {"left": []}
    other.drop()


def test_close_leaves_the_kept_files_and_nothing_else(talk: Talk, root: Path) -> None:
    talk.open("a")
    talk.put(CONTENT)
    talk.ask("put", b"image", sha256=hashlib.sha256(b"image").hexdigest(), bytes=5, offset=0, private=True)
    assert talk.ask("close") == {"left": ["files"]}
    assert sorted(path.name for path in root.rglob("*")) == [territory.MARKER, SHA256, "files"]


def test_close_leaves_nothing_at_all_where_nothing_is_to_be_kept(talk: Talk, root: Path) -> None:
    talk.open("a", keep=False)
    talk.put(CONTENT)
    assert talk.ask("close") == {"left": []}
    assert not root.exists()


def test_a_job_whose_host_fell_silent_ends_and_cleans_up(root: Path) -> None:
    talk = Talk(root)
    talk.open("a", grace_seconds=0.5, keep=False)
    talk.drop()
    assert gone(root)


def test_a_job_outlives_a_dropped_link_and_is_found_again(root: Path) -> None:
    talk = Talk(root)
    talk.open("a")
    program = (
        b"import time; open('progress', 'w').write('one\\n'); time.sleep(0.6); open('result.json', 'w').write('{}')"
    )
    sha256 = hashlib.sha256(program).hexdigest()
    talk.put(program, sha256=sha256)
    talk.ask("start", spec="{}", archive=sha256, limit_seconds=20)
    talk.drop()
    again = Talk(root)
    assert again.open("a") == {"state": "attached"}
    again.ask("start", spec="{}", archive=sha256, limit_seconds=20)  # asked again, done once
    ended = None
    while ended is None:
        ended = again.ask("poll", after=0, wait_seconds=1)["exit"]
    assert ended == {"code": 0, "late": False}
    assert again.ask("poll", after=0, wait_seconds=0)["lines"] == "one\n"
    again.ask("close")
    again.drop()


def test_a_job_beyond_its_time_is_ended_with_its_children(talk: Talk, root: Path) -> None:
    talk.open("a")
    program = (
        b"import subprocess, time; child = subprocess.Popen(['sleep', '60'])\n"
        b"open('progress', 'w').write('%d\\n' % child.pid); time.sleep(60)"
    )
    sha256 = hashlib.sha256(program).hexdigest()
    talk.put(program, sha256=sha256)
    talk.ask("start", spec="{}", archive=sha256, limit_seconds=0.7)
    ended = None
    while ended is None:
        answer = talk.ask("poll", after=0, wait_seconds=2)
        ended = answer["exit"]
    assert ended["late"]
    child = Path("/proc", answer["lines"].strip())
    assert gone(child) or "Z" in (child / "stat").read_text()


def test_what_cannot_be_written_is_said_with_its_fix(tmp_path: Path) -> None:
    talk = Talk(Path("/sys/medge"))
    answer = talk.open("a")
    assert answer["kind"] == "MissingError"
    assert "refused /sys/medge" in answer["error"]
    assert "--folder PATH" in answer["fix"]
    assert talk.ask("space")["kind"] == "MissingError"
    talk.drop()


def test_more_than_fits_is_refused_before_it_is_sent(talk: Talk) -> None:
    talk.open("a")
    answer = talk.have(size=1 << 60)
    assert answer["kind"] == "MissingError"
    assert "no space" in answer["error"]


def test_no_file_outside_a_job_is_given_away(talk: Talk) -> None:
    talk.open("a")
    for name in ("../../secret", "/etc/passwd"):
        assert talk.ask("get", name=name)["kind"] == "ToolError"
    assert talk.ask("put", sha256="../x", bytes=0, offset=0, private=False)["kind"] == "ToolError"


def test_clean_is_refused_while_a_job_runs_and_removes_everything_after(talk: Talk, root: Path) -> None:
    talk.open("a")
    talk.put(CONTENT)
    other = Talk(root)
    busy = other.ask("clean")
    assert busy["kind"] == "MissingError"
    assert "Wait until that job has ended (medge devices doctor NAME" in busy["fix"]
    talk.ask("close")
    assert other.ask("clean") == {"removed": ["files"], "left": [], "gone": True}
    assert not root.exists()
    assert other.ask("clean") == {"removed": [], "left": [], "gone": True}
    other.drop()


USERS = ("files/scans/a.png", "files/x.part", "files/notes.txt", "jobs/2024/plan.txt", "lock", "x.part")


def a_users_folder(root: Path) -> dict[str, bytes]:
    """Files under all the names that medge uses; returns them with their contents."""
    for name in USERS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return content_of(root)


def content_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["open", "space"])
def test_a_folder_with_a_users_own_files_is_refused_and_nothing_in_it_is_touched(root: Path, command: str) -> None:
    before = a_users_folder(root)
    talk = Talk(root)
    answer = talk.open("a", keep=False) if command == "open" else talk.ask("space")
    assert answer["kind"] == "RecipeError"
    assert f"{root} holds what medge did not put there (files, jobs, x.part)" in answer["error"]
    assert f"e.g. {root}/medge: medge devices add ... --folder PATH" in answer["fix"]
    assert talk.ask("clean") == {"removed": [], "left": ["files", "jobs", "x.part"], "gone": False}
    talk.drop()
    assert content_of(root) == before


def test_a_users_file_called_lock_is_not_taken_for_medges(root: Path) -> None:
    root.mkdir()
    (root / "lock").write_text("1234")
    talk = Talk(root)
    assert talk.open("a")["kind"] == "RecipeError"
    talk.drop()
    assert content_of(root) == {"lock": b"1234"}


@pytest.mark.parametrize("end", ["close", "clean"])
def test_what_a_user_laid_among_medges_files_outlives_every_end_of_a_job_and_is_named(root: Path, end: str) -> None:
    talk = Talk(root)
    talk.open("a", keep=False)
    talk.put(CONTENT)
    own = [name for name in USERS if name != "lock"]
    for name in own:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    talk.ask("close")
    assert not (root / "files" / SHA256).exists()
    if end == "clean":
        (root / "files" / SHA256).write_bytes(CONTENT)
        cleaned = talk.ask("clean")
        assert cleaned == {"removed": ["files"], "left": sorted({"files/notes.txt", "files/scans", "files/x.part",
                                                                 "jobs/2024", "x.part"}), "gone": False}  # fmt: skip
    assert talk.open("b", keep=False) == {"state": "new"}  # the marker is still there
    talk.ask("close")
    talk.drop()
    assert {name: content_of(root)[name] for name in own} == {name: name.encode() for name in own}
    assert set(content_of(root)) - set(own) == {territory.MARKER}


def test_an_empty_folder_of_the_users_is_used_and_stays(root: Path) -> None:
    root.mkdir()
    talk = Talk(root)
    talk.open("a")
    talk.put(CONTENT)
    assert talk.ask("close") == {"left": ["files"]}
    assert talk.ask("clean") == {"removed": ["files"], "left": [], "gone": False}
    talk.drop()
    assert list(root.iterdir()) == []


def test_the_default_folder_of_an_earlier_medge_is_used_and_cleaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "medge/files").mkdir(parents=True)
    (tmp_path / "medge/files" / SHA256).write_bytes(CONTENT)
    talk = Talk(None)
    assert talk.open("a") == {"state": "new"}
    assert talk.have() == {"have": {SHA256: len(CONTENT)}}
    talk.ask("close")
    assert talk.ask("clean")["gone"]
    talk.drop()
    assert not (tmp_path / "medge").exists()


def test_the_doctors_trial_is_not_listed_and_a_running_job_is(talk: Talk, root: Path) -> None:
    talk.open("a")
    talk.put(CONTENT)
    other = Talk(root)
    answer = other.ask("space")
    assert answer["left"] == ["files"]
    assert answer["busy"].startswith("the job of tester (process ")
    talk.ask("close")
    answer = other.ask("space")
    assert (answer["left"], answer["busy"]) == (["files"], "")
    other.drop()
