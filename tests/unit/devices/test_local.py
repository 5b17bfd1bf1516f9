"""What a machine shows, and what it does not, with the reason."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from medge.devices import local
from medge.errors import MissingError, ToolError

FILES = {
    "/proc/cpuinfo": "processor\t: 0\nmodel name\t: A Processor\ncpu MHz\t\t: 2597\nflags\t\t: fpu avx2 avx512_vnni\n"
    "processor\t: 1\nmodel name\t: A Processor\nflags\t\t: fpu avx2 avx512_vnni\n",
    "/proc/meminfo": "MemTotal:       16000000 kB\nMemFree: 1 kB\n",
    "/proc/version": "Linux version 6.1.0 (builder@host) (gcc 12)\n",
    "/etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12"\n',
    "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
    "/sys/class/thermal/thermal_zone0/temp": "47500\n",
    "/proc/loadavg": "0.52 0.58 0.59 1/467 12345\n",
    "/proc/stat": "cpu  10 20 30 40 50 60 70 250 0 0\n",
    "/proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234567\nfull avg10=0.00 total=0\n",
}


def shows(files: dict[str, str]) -> local.Run:
    def run(command: Sequence[str]) -> str:
        if command[1] not in files:
            raise ToolError(f"cat: {command[1]}: No such file or directory")
        return files[command[1]]

    return run


def test_facts_are_read_from_what_the_machine_shows() -> None:
    facts = local.facts(shows(FILES))
    assert facts["cpu"] == "A Processor"
    assert (facts["cores"], facts["cpu_flags"], facts["memory_mb"]) == (2, ["avx2", "avx512_vnni"], 16384)
    assert (facts["kernel"], facts["system"]) == ("Linux version 6.1.0", "Debian GNU/Linux 12")
    assert facts["board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert facts["missing"] == {}


def test_state_is_read_from_what_the_machine_shows() -> None:
    assert local.state(shows(FILES)) == {
        "governor": "performance",
        "frequency_mhz": 1510,
        "temperature_c": 47.5,
        "load_1_minute": 0.52,
        "steal_seconds": 2.5,
        "cpu_pressure_seconds": 1.235,
        "missing": {},
    }


def test_an_arm_processor_without_a_model_name_is_named_by_its_part() -> None:
    cpuinfo = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
    facts = local.facts(shows({**FILES, "/proc/cpuinfo": cpuinfo}))
    assert (facts["cpu"], facts["cpu_flags"]) == ("implementer 0x41 part 0xd42", ["asimd", "asimddp"])


@pytest.mark.parametrize("text", ["", "nonsense\n", "cpu\n", "some\n"])
def test_what_a_machine_does_not_show_is_none_with_the_reason(text: str) -> None:
    silent, garbled = local.state(shows({})), local.state(shows(dict.fromkeys(FILES, text)))
    for found in (silent, garbled):
        values = {k: v for k, v in found.items() if k not in ("missing", "governor")}
        assert set(values.values()) == {None}
        assert set(values) <= set(found["missing"])
    assert "No such file" in silent["missing"]["temperature_c"]


def test_this_machine_answers_and_its_answers_are_json() -> None:
    assert json.loads(json.dumps(local.facts()))["cores_allowed"] >= 1
    assert set(json.loads(json.dumps(local.state()))) >= {"governor", "cpu_pressure_seconds", "missing"}


def test_a_command_that_is_not_here_or_fails_is_an_error() -> None:
    with pytest.raises(MissingError):
        local.run_here(["no-such-command-here"])
    with pytest.raises(ToolError, match="No such file"):
        local.run_here(["cat", "/no/such/file"])
