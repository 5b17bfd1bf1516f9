"""Reading a Jetson, from lines that owners published. Each says where, as far as it is known, and which release printed
it only where its source says so.
"""

from __future__ import annotations

import pytest

from medge.devices import _jetson_power, _tegrastats, jetson
from medge.errors import ToolError

# Lines of tegrastats, and what is in them: GPU percent and MHz, one temperature, power of the module, its rails.
LINES = {
    # Nano: in a console log of somebody who ran `sudo tegrastats` there. The words are those of the guide to L4T 32.5.
    "nano": (
        "RAM 1655/3956MB (lfb 311x4MB) SWAP 0/1978MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [12%@102,10%@102,11%@102,"
        "12%@102] EMC_FREQ 3%@1600 GR3D_FREQ 0%@76 APE 25 PLL@36.5C CPU@39C iwlwifi@44C PMIC@50C GPU@37C AO@47.5C "
        "thermal@38C POM_5V_IN 2132/2132 POM_5V_GPU 78/78 POM_5V_CPU 275/275",
        (0, [76], ("iwlwifi", 44.0), 2132, "POM_5V_IN"),
    ),
    # TX2: github.com/gustavz/realtime_object_detection/issues/24
    "tx2": (
        "RAM 1685/7854MB (lfb 1044x4MB) SWAP 278/8192MB (cached 23MB) CPU [0%@1303,0%@345,0%@345,0%@1419,0%@1420,"
        "0%@1421] EMC_FREQ 0%@1866 GR3D_FREQ 0%@140 APE 150 MTS fg 1% bg 8% BCPU@41C MCPU@41C GPU@39C PLL@41C "
        "Tboard@37C Tdiode@37.25C PMIC@100C thermal@39.9C VDD_IN 1931/1931 VDD_CPU 231/231 VDD_GPU 154/154 "
        "VDD_SOC 385/385 VDD_WIFI 38/38 VDD_DDR 326/326",
        (0, [140], ("thermal", 39.9), 1931, "VDD_IN"),
    ),
    # AGX Xavier, no GPU clock, no rail of the whole module: DataDog/datadog-agent, its Jetson check's test sample
    "agx-xavier": (
        "RAM 4083/31919MB (lfb 6179x4MB) SWAP 0/15959MB (cached 0MB) CPU [0%@1190,0%@1190,0%@1190,1%@1190,off,off,off,"
        "off] EMC_FREQ 0% GR3D_FREQ 0% AO@42C GPU@42C Tdiode@44.75C PMIC@100C AUX@41.5C CPU@42C thermal@41.6C "
        "Tboard@41C GPU 0/16 CPU 310/432 SOC 931/953 CV 0/0 VDDRQ 466/488 SYS5V 1522/1559",
        (0, [], ("thermal", 41.6), 310 + 931 + 466 + 1522, "GPU + CPU + SOC + CV + VDDRQ + SYS5V"),
    ),
    # Xavier NX, JetPack 5.1.2 by the name of the test (TestParseTegraStatsXavierNXJetPack512) of a Prometheus exporter
    "xavier-nx": (
        "07-09-2024 13:31:31 RAM 3168/6851MB (lfb 2x4MB) SWAP 161/3426MB (cached 0MB) CPU [23%@1397,17%@1192,16%@1190,"
        "13%@1190,23%@1190,10%@1190] EMC_FREQ 2%@204 GR3D_FREQ 0%@[114] VIC_FREQ 115 APE 150 AUX@45C CPU@46.5C "
        "thermal@45.6C AO@45C GPU@45.5C PMIC@50C VDD_IN 2763mW/2846mW VDD_CPU_GPU_CV 650mW/670mW VDD_SOC 650mW/711mW",
        (0, [114], ("CPU", 46.5), 2763, "VDD_IN"),
    ),
    # AGX Orin (64 GB): the test sample of a parser in Go; here with two of its twelve processors. Two GPU clusters,
    # sensors that are off, NC channels, no rail of the whole module.
    "agx-orin": (
        "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729] "
        "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C "
        "Tdiode@33C SOC0@41.093C CV1@-256C GPU@-256C tj@44.343C SOC1@41.25C CV2@-256C VDD_GPU_SOC 2340mW/2340mW "
        "VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW",
        (0, [0, 0], ("tj", 44.343), 2340 + 390 + 4025, "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"),
    ),
    # AGX Orin, busy, without the NC channels: from notes on running a detector there
    "agx-orin-busy": (
        "11-21-2025 08:49:48 RAM 13983/62780MB (lfb 424x4MB) SWAP 126/31390MB (cached 0MB) CPU [90%@2201,100%@2201] "
        "EMC_FREQ 1%@2133 GR3D_FREQ 14%@[407,407] VIC_FREQ 115 NVDLA0_FREQ @1600 APE 174 CV0@73.625C CPU@77.281C "
        "Tboard@62C SOC2@70C Tdiode@62.25C SOC0@69.531C CV1@72.5C GPU@69.125C tj@77.281C SOC1@68.968C CV2@67.25C "
        "VDD_GPU_SOC 3150mW/2971mW VDD_CPU_CV 14312mW/12415mW VIN_SYS_5V0 4968mW/5048mW VDDQ_VDD2_1V8AO 1091mW/1091mW",
        (14, [407, 407], ("tj", 77.281), 3150 + 14312 + 4968, "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"),
    ),
    # Six processors, 8 GB, VDD_IN, busy: the test sample of a parser in Python
    "orin-nano": (
        "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) CPU [38%@1497,2%@729,1%@729,"
        "0%@729,1%@729,0%@729] EMC_FREQ 61%@2133 GR3D_FREQ 99%@[612] NVDEC off NVJPG off VIC off OFA off APE 200 "
        "cpu@57.125C soc2@55.093C soc0@56.625C gpu@58.625C tj@58.312C soc1@55.937C VDD_IN 16321mW/11204mW "
        "VDD_CPU_GPU_CV 7104mW/4944mW VDD_SOC 3120mW/3659mW",
        (99, [612], ("tj", 58.312), 16321, "VDD_IN"),
    ),
    # Three numbers a rail, two a temperature, no GPU clock: a line that a report quotes verbatim
    "three-numbers": (
        "08-12-2026 15:28:04 RAM 2390/7486MB (lfb 4x4MB) CPU [6%@729,4%@729,1%@729,13%@883,3%@729,5%@729] GR3D_FREQ 0% "
        "cpu@45.687C/45.687C soc2@45.156C/45.156C soc0@45.468C/45.468C gpu@46.843C/46.843C tj@46.843C/46.843C "
        "soc1@46.156C/46.156C VDD_IN 3848mW/3848mW/3848mW VDD_CPU_GPU_CV 606mW/606mW/606mW "
        "VDD_SOC 1174mW/1174mW/1174mW",
        (0, [], ("tj", 46.843), 3848, "VDD_IN"),
    ),
    # Clocks without a percentage, 128 GB: the test samples of a parser in Python, which calls them lines of R39
    "thor": (
        "08-08-2026 20:58:23 RAM 3429/125749MB (lfb 120x4MB) CPU [0%,5%,off]@2601 EMC_FREQ @4266 GR3D_FREQ "
        "@[1574,1574,1574] cpu@49.75C/49.75C tj@51.218C/51.218C gpu@51.218C/51.218C VDD_GPU 6330mW/6330mW/6330mW "
        "VIN 28906mW/14453mW/28906mW",
        (None, [1574, 1574, 1574], ("tj", 51.218), 28906, "VIN"),
    ),
    "thor-busy": (
        "08-08-2026 21:00:39 RAM 8353/125749MB (lfb 31x4MB) CPU [90%@2601,75%@2601,off,7%@2601] EMC_FREQ 34%@4266 "
        "GR3D_FREQ 87%@[1574,1574,1574] NVENC0_FREQ @1691 VIC off cpu@58.25C/61.75C tj@66.625C/66.625C "
        "gpu@56.937C/66.625C soc012@55.375C/58.781C soc345@55.812C/60.031C VDD_GPU 37939mW/8660mW/37939mW "
        "VDD_CPU_SOC_MSS 30059mW/12281mW/30059mW VIN_SYS_5V0 15486mW/7424mW/15486mW VIN 124486mW/36487mW/124486mW",
        (87, [1574, 1574, 1574], ("tj", 66.625), 124486, "VIN"),
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_tegrastats_is_read_in_every_form(name: str) -> None:
    line, (percent, megahertz, (zone, celsius), power, of) = LINES[name]
    found = _tegrastats.parse(line)
    assert (found["gpu_percent"], found["gpu_mhz"]) == (percent, megahertz)
    assert found["temperatures_c"][zone] == celsius
    assert _tegrastats.total_power(found["power_mw"]) == (power, of)
    assert not set(found["power_mw"]) & {"RAM", "SWAP", "NC", "IRAM"}
    assert (found["date"] is not None) == (line[2] == "-")


def test_a_sensor_that_is_off_has_no_temperature() -> None:
    assert set(_tegrastats.parse(LINES["agx-orin"][0])["temperatures_c"]) == {
        "CPU", "Tboard", "SOC2", "Tdiode", "SOC0", "tj", "SOC1",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "Segmentation fault", "tegrastats: command not found", "CPU@47C VDD_IN 1/1"])
def test_what_is_no_line_of_tegrastats_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a line"):
        _tegrastats.parse(text)


# MAXN: github.com/anduril/jetpack-nixos/pull/460. The error after the mode: github.com/NVIDIA-AI-IOT/jetbot/issues/49.
# The warning before it: many a Nano's owner shows it. The fan's line: github.com/open-rdc/orne-box/issues/16, which
# ends before the number: the mode behind it is made up here.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NV Power Mode: MAXN\n0\n", {"id": 0, "name": "MAXN"}),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_15W_6CORE\n2\n", {"id": 2, "name": "MODE_15W_6CORE"}),
        ("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0\n", {"id": 0, "name": "MAXN"}),
        (
            "NV Power Mode: 5W\n1\nNVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13\n",
            {"id": 1, "name": "5W"},
        ),
    ],
)
def test_the_power_mode_is_read_with_what_nvpmodel_warns_of(text: str, expected: dict[str, object]) -> None:
    assert _jetson_power.mode_from(text) == expected


def test_a_power_mode_without_a_number_is_an_error() -> None:
    with pytest.raises(ToolError, match="does not name a mode"):
        _jetson_power.mode_from("NVPM ERROR: bad input!\n")


CLOCKS = """SOC family:tegra210  Machine:NVIDIA Jetson Nano Developer Kit
Online CPUs: 0-1
CPU Cluster Switching: Disabled
cpu0: Online=1 Governor=schedutil MinFreq={low} MaxFreq=921600 CurrentFreq=921600 IdleStates: WFI=1 c7=1
cpu1: Online=1 Governor=schedutil MinFreq={low} MaxFreq=921600 CurrentFreq=921600 IdleStates: WFI=1 c7=1
cpu2: Online=0 Governor=schedutil MinFreq=102000 MaxFreq=921600 CurrentFreq=921600 IdleStates: WFI=1 c7=1
GPU MinFreq={gpu} MaxFreq=614400000 CurrentFreq=460800000
EMC MinFreq=204000000 MaxFreq=1600000000 CurrentFreq=1600000000 FreqOverride=0
Fan: speed=0
NV Power Mode: 5W
"""  # of a Nano whose output a copy of jetson_clocks in somebody's tests quotes; the numbers in braces are varied here


@pytest.mark.parametrize(
    ("low", "gpu", "locked"), [(921600, 614400000, True), (921600, 76800000, False), (102000, 614400000, False)]
)
def test_clocks_are_locked_where_lowest_and_highest_are_the_same(low: int, gpu: int, locked: bool) -> None:
    found = _jetson_power.clocks_from(CLOCKS.format(low=low, gpu=gpu))
    assert found["locked"] is locked
    assert found["limits"] == {
        "cpu0": [low, 921600], "cpu1": [low, 921600], "GPU": [gpu, 614400000], "EMC": [204000000, 1600000000]
    }  # fmt: skip


# The files' names: kernel.org/doc/Documentation/hwmon/ina3221.rst, and energymon's jetson/ for JetPack 4.
def test_rails_of_jetpack_5_are_volts_times_amperes_without_what_is_not_connected() -> None:
    hwmon = "/sys/bus/i2c/devices/1-0040/hwmon/hwmon3"
    files = {f"{hwmon}/name": "ina3221"}
    for number, (label, millivolts, milliamperes) in enumerate(
        [("VDD_IN", 5016, 780), ("NC", 0, 0), ("VDD_SOC", 4984, 312), ("sum of shunt voltages", 1, 5)], start=1
    ):
        files[f"{hwmon}/in{number}_label"] = label
        files[f"{hwmon}/in{number}_input"] = str(millivolts)
        files[f"{hwmon}/curr{number}_input"] = str(milliamperes)
    files |= {"/sys/bus/i2c/devices/2-001d/hwmon/hwmon4/name": "nct1008", f"{hwmon}/in9_label": "VDD_GONE"}
    assert jetson.rails_from(files) == {"VDD_IN": 3912, "VDD_SOC": 1555}


def test_rails_of_jetpack_4_are_milliwatts() -> None:
    folder = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    files = {f"{folder}/rail_name_0": "POM_5V_IN", f"{folder}/in_power0_input": "2132"}
    files |= {f"{folder}/rail_name_1": "NC", f"{folder}/in_power1_input": "0"}
    assert jetson.rails_from(files) == {"POM_5V_IN": 2132}


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [("36.4.3", "6.2"), ("36.4.0", "6.1"), ("36.3.0", "6.0"), ("35.4.1", "5.1.2"), ("32.7.1", "4.6"), ("38.2.0", "7"),
     ("41.0.0", None)],
)  # fmt: skip
def test_jetpack_follows_from_l4t(l4t: str, jetpack: str | None) -> None:
    assert jetson.jetpack_of(l4t) == jetpack
