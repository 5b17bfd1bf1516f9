"""What of the machine is compared, and that a passed selftest is remembered for this machine only."""

from __future__ import annotations

from pathlib import Path

import pytest

from medge.runtime.machine import cores_allowed, differences, instructions, machine, passed_here, remember_pass

HOST = {"architecture": "x86_64", "instructions": ["avx2", "avx512_vnni"], "versions": {"openvino": "2026.4.1"}}


def test_the_same_machine_has_no_differences() -> None:
    assert differences(HOST, {**HOST}) == []


def test_more_instructions_are_no_difference() -> None:
    assert differences(HOST, {**HOST, "instructions": ["avx2", "avx512_vnni", "amx_int8"]}) == []


def test_what_is_lacking_or_other_is_said_in_words() -> None:
    here = {"architecture": "aarch64", "instructions": ["asimddp"], "versions": {}}
    assert differences(HOST, here) == [
        "the processor is aarch64, not x86_64",
        "the processor lacks avx2, avx512_vnni",
        "openvino is absent, not 2026.4.1",
    ]


def test_a_pass_holds_for_one_bundle_on_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    here = machine({"openvino": "1"})
    assert not passed_here("a" * 64, here)
    remember_pass("a" * 64, here)
    assert passed_here("a" * 64, here)
    assert not passed_here("b" * 64, here)
    assert not passed_here("a" * 64, machine({"openvino": "2"}))


def test_this_machine_is_described() -> None:
    assert cores_allowed() >= 1
    assert set(instructions()) <= set(machine({})["instructions"])
