"""What every kind of machine must do: answer in JSON, say why it does not know, and never fail for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medge import plugins
from medge.devices.local import run_here
from medge.errors import MissingError, ToolError
from tests.jetson import fake_run

NAMES = plugins.names("devices")
EACH = pytest.mark.parametrize("name", NAMES)
SAMPLE = {"temperature_c", "frequency_mhz", "throttled", "throttle_counts", "missing"}


def silent(command: Sequence[str]) -> str:
    raise MissingError(f"There is no command '{command[0]}' here.")


def refusing(command: Sequence[str]) -> str:
    raise ToolError("Connection reset by peer")


def garbage(command: Sequence[str]) -> str:
    return "\x00\ufffd garbage = : 0x @ % \n\t,,\n"


def nothing(command: Sequence[str]) -> str:
    return ""


def kind(name: str) -> Any:
    return plugins.load("devices", name)


def test_the_kinds_of_the_book_are_there() -> None:
    assert {"local", "linux", "jetson", "raspberrypi", "intel"} <= set(NAMES)


@EACH
def test_a_kind_tells_this_machine_s_processor_and_state_as_json(name: str) -> None:
    facts, state = kind(name).facts(run_here), kind(name).state(run_here)
    assert json.loads(json.dumps([facts, state], allow_nan=False)) == [facts, state]
    assert facts["cores"] >= 1
    assert {"cpu", "memory_mb", "kernel", "board", "missing"} <= set(facts)
    assert {"governor", "temperature_c", "missing"} <= set(state)


@EACH
def test_what_a_machine_does_not_tell_is_none_with_the_reason(name: str) -> None:
    for run in (silent, garbage, nothing):
        for ask in (kind(name).facts, kind(name).state):
            found = ask(run)
            unknown = {key for key, value in found.items() if value is None}
            assert unknown - set(found["missing"]) <= {"compute_capability", "dla", "gpu_mhz", "power_of"}
            assert json.dumps(found, allow_nan=False)


@EACH
def test_a_machine_that_does_not_answer_is_no_crash(name: str) -> None:
    for ask in (kind(name).facts, kind(name).state, kind(name).sample):
        assert "missing" in ask(refusing)


@EACH
def test_a_reading_has_the_names_of_a_time_series(name: str) -> None:
    for run in (run_here, silent, garbage):
        found = kind(name).sample(run)
        assert set(found) >= SAMPLE
        assert isinstance(found["throttled"], list)
        assert all(isinstance(count, int) for count in found["throttle_counts"].values())


@EACH
def test_reading_leaves_a_jetson_as_it_was(name: str, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    for ask in (kind(name).facts, kind(name).state, kind(name).sample):
        ask(fake_run(state))
    assert not state.exists()


@EACH
def test_a_kind_offers_all_of_the_power_control_or_nothing_of_it(name: str) -> None:
    control = {"power_modes", "power_mode", "set_power_mode", "clocks", "store_clocks", "lock_clocks", "restore_clocks"}
    assert {word for word in control if hasattr(kind(name), word)} in (set(), control)
