"""Raspberry Pi and Intel, from outputs as real machines gave them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from medge.devices import intel, raspberrypi
from medge.errors import MissingError, ToolError
from medge.protocols import Run


def answers(texts: dict[str, str]) -> Run:
    def run(command: Sequence[str]) -> str:
        line = " ".join(command)
        for start, text in texts.items():
            if line.startswith(start):
                return text
        raise MissingError(f"There is no command '{command[0]}' here.")

    return run


# Bits: https://www.raspberrypi.com/documentation/computers/os.html#get_throttled; 0x50005 is a weak power supply.
@pytest.mark.parametrize(
    ("text", "now", "since_start"),
    [
        ("throttled=0x0\n", [], []),
        ("throttled=0x50005\n", ["under-voltage", "throttled"], ["under-voltage", "throttled"]),
        ("throttled=0xe0000\n", [], ["frequency capped", "throttled", "soft temperature limit"]),
        ("throttled=0x8\n", ["soft temperature limit"], []),
    ],
)
def test_the_throttling_flags_of_a_pi_are_read_bit_by_bit(text: str, now: list[str], since_start: list[str]) -> None:
    assert raspberrypi.throttled_from(text) == {"now": now, "since_start": since_start}


@pytest.mark.parametrize("text", ["", "error=1 error_msg=", "VCHI initialization failed", "throttled="])
def test_what_is_no_answer_of_a_pi_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        raspberrypi.throttled_from(text)


def test_a_pi_tells_its_temperature_clock_and_what_throttles_it() -> None:
    run = answers(
        {
            "vcgencmd measure_temp": "temp=53.8'C\n",
            "vcgencmd measure_clock arm": "frequency(48)=1500345728\n",
            "vcgencmd get_throttled": "throttled=0x50005\n",
        }
    )
    found = raspberrypi.sample(run)
    assert (found["temperature_c"], found["frequency_mhz"]) == (53.8, 1500)
    assert found["throttled"] == ["under-voltage", "throttled"]
    assert found["throttle_counts"]["frequency capped"] == 0
    assert found["throttle_counts"]["under-voltage"] == 1
    assert "temperature_c" not in found["missing"]


def test_without_vcgencmd_a_pi_says_what_is_missing() -> None:
    found = raspberrypi.sample(answers({}))
    assert (found["throttled"], found["throttle_counts"]) == ([], {})
    assert "vcgencmd" in found["missing"]["throttled"]


def test_openvino_s_devices_are_read_behind_what_a_driver_prints() -> None:
    text = 'some driver said something\n{"CPU": "Intel(R) Core(TM) Ultra 7", "NPU": "Intel(R) AI Boost"}\n'
    facts = intel.facts(answers({"python3 -c": text}))
    assert facts["openvino_devices"] == {"CPU": "Intel(R) Core(TM) Ultra 7", "NPU": "Intel(R) AI Boost"}


@pytest.mark.parametrize("text", ["", "no json", "[1]"])
def test_openvino_that_answers_garbage_is_none_with_the_reason(text: str) -> None:
    facts = intel.facts(answers({"python3 -c": text}))
    assert facts["openvino_devices"] is None
    assert facts["missing"]["openvino_devices"] == "OpenVINO does not say"


def test_openvino_that_is_not_there_is_none_with_the_reason() -> None:
    def run(command: Sequence[str]) -> str:
        raise ToolError("Traceback\nModuleNotFoundError: No module named 'openvino'")

    assert "No module named 'openvino'" in intel.facts(run)["missing"]["openvino_devices"]
