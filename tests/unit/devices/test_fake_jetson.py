"""The kind `jetson` against tools that behave as documented: modes changed only when asked, and always put back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medge.devices import jetson, linux
from medge.devices._power import powered
from medge.errors import MissingError, RecipeError, ToolError
from tests.jetson import fake_run


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def log(state: Path) -> list[str]:
    return list(json.loads(state.read_text())["log"]) if state.exists() else []


def limits(state: Path) -> Any:
    return jetson.clocks(fake_run(state))["limits"]


def test_facts_name_the_board_its_software_and_its_modes(state: Path) -> None:
    facts = jetson.facts(fake_run(state))
    assert facts["board"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (facts["soc"], facts["compute_capability"], facts["dla"]) == ("tegra234", "8.7", False)
    assert (facts["l4t"], facts["jetpack"]) == ("36.4.3", "6.2")
    assert [mode["name"] for mode in facts["power_modes"]] == ["15W", "25W", "MAXN_SUPER", "7W"]


def test_reading_changes_nothing(state: Path) -> None:
    run = fake_run(state)
    jetson.facts(run)
    found = jetson.state(run)
    with powered(jetson, run) as nothing:
        assert nothing == {}
    assert found["power_mode"] == {"id": 1, "name": "25W"}
    assert found["clocks"]["locked"] is False
    assert (found["power_mw"], found["power_of"], found["temperature_c"]) == (4952, "VDD_IN", 49.625)
    assert log(state) == []


def test_without_root_the_mode_is_read_and_what_needs_root_says_so(state: Path) -> None:
    found = jetson.state(fake_run(state, FAKE_JETSON_USER="nvidia"))
    assert found["power_mode"] == {"id": 1, "name": "25W"}
    assert found["clocks"] is None
    assert "needs root" in found["missing"]["clocks"]


@pytest.mark.parametrize("mode", ["15W", "0", "maxn_super"])
def test_a_mode_and_locked_clocks_last_as_long_as_the_measurement(state: Path, mode: str) -> None:
    run, before = fake_run(state), limits(state)
    with powered(jetson, run, mode=mode, lock=True) as power:
        assert power["before"]["power_mode"]["name"] == "25W"
        assert power["during"]["power_mode"]["name"].lower() in (mode, "15w", "maxn_super")
        assert power["during"]["clocks"]["locked"] is True
    assert jetson.power_mode(run) == {"id": 1, "name": "25W"}
    assert limits(state) == before
    assert log(state)[-1] == "restore"


def test_clocks_that_were_locked_before_are_locked_after(state: Path) -> None:
    run = fake_run(state)
    run(["jetson_clocks"])
    before = limits(state)
    with powered(jetson, run, mode="15W"):
        assert limits(state) != before
    assert limits(state) == before


def test_a_measurement_that_fails_is_put_back_too(state: Path) -> None:
    run, before = fake_run(state), limits(state)
    with pytest.raises(KeyboardInterrupt), powered(jetson, run, mode="15W", lock=True):
        raise KeyboardInterrupt
    assert jetson.power_mode(run)["name"] == "25W"
    assert limits(state) == before


def test_a_mode_that_needs_a_reboot_is_refused_and_nothing_reboots(state: Path) -> None:
    run, before = fake_run(state), limits(state)
    with pytest.raises(ToolError, match="only by a reboot") as caught, powered(jetson, run, mode="7W"):
        pytest.fail("measured in another mode than was asked for")
    assert "nvpmodel -m 3" in caught.value.fix
    assert "REBOOT" not in log(state)
    assert limits(state) == before


def test_an_unknown_mode_is_refused_with_the_known_ones(state: Path) -> None:
    with pytest.raises(RecipeError, match="no power mode '10W'") as caught:
        jetson.set_power_mode(fake_run(state), "10W")
    assert "MAXN_SUPER (2)" in caught.value.fix


def test_without_root_a_change_is_refused_with_the_line_for_sudoers(state: Path) -> None:
    run = fake_run(state, FAKE_JETSON_USER="nvidia")
    with pytest.raises(MissingError, match="needs root") as caught, powered(jetson, run, mode="15W"):
        pytest.fail("measured in another mode than was asked for")
    assert "NOPASSWD: /usr/sbin/nvpmodel" in caught.value.fix
    assert log(state) == []


def test_with_sudo_a_user_changes_the_mode(state: Path) -> None:
    run = fake_run(state, FAKE_JETSON_USER="nvidia", FAKE_JETSON_SUDO="1")
    with powered(jetson, run, mode="15W", lock=True) as power:
        assert power["during"]["power_mode"] == {"id": 0, "name": "15W"}
    assert jetson.power_mode(run)["name"] == "25W"


def test_a_tool_that_fails_is_reported_in_its_own_words(state: Path) -> None:
    run = fake_run(state, FAKE_JETSON_BROKEN="nvpmodel")
    with pytest.raises(ToolError, match="optMask is 1, no request for power mode"):
        jetson.set_power_mode(run, "15W")


def test_what_cannot_be_put_back_is_an_error_that_says_what_to_do(state: Path) -> None:
    broken = fake_run(state, FAKE_JETSON_BROKEN="nvpmodel")
    whole, now = fake_run(state), fake_run(state)

    def run(command: Any) -> str:
        return (broken if "measured" in done else now)(command)

    done: list[str] = []
    with pytest.raises(ToolError, match="could not be put back into power mode 25W") as caught:  # noqa: SIM117
        with powered(jetson, run, mode="15W"):
            done.append("measured")
    assert "sudo nvpmodel -m 1" in caught.value.fix
    assert jetson.power_mode(whole)["name"] == "15W"


def test_a_kind_without_power_modes_says_so() -> None:
    with pytest.raises(MissingError, match="'linux' have no power modes"), powered(linux, lambda _: "", lock=True):
        pytest.fail("nothing was locked")
