"""This machine's own peaks, for the error of an estimate."""

from __future__ import annotations

from medge.host_peak import host_machine


def test_this_machine_s_peaks_are_measured_and_name_their_source() -> None:
    machine = host_machine("here", 1)
    assert set(machine.peak) == {"float32", "int8"}
    assert all(value > 1e8 for value in [*machine.peak.values(), machine.bandwidth])
    assert "on 1 threads" in machine.source
