"""A protocol that is changed after the test images were judged is seen."""

from __future__ import annotations

from pathlib import Path

from medge import protocol_log
from medge.records import sha256_of_json
from medge.sections import Margins, ValidateSection

DATA = "d" * 64


def add(run: Path, section: ValidateSection, *, data: str = DATA) -> str | None:
    protocol = section.model_dump(mode="json")
    return protocol_log.caution(protocol_log.add(run, protocol, sha256_of_json(protocol), data_sha256=data))


def test_one_protocol_judged_again_is_no_caution(tmp_path: Path) -> None:
    assert add(tmp_path, ValidateSection()) is None
    assert add(tmp_path, ValidateSection()) is None
    assert len(protocol_log.seen(tmp_path, DATA)) == 1


def test_a_loosened_margin_is_named_with_both_values(tmp_path: Path) -> None:
    add(tmp_path, ValidateSection())
    caution = add(tmp_path, ValidateSection(margins=Margins(flips=0.05)))
    assert caution is not None
    assert "2 protocols" in caution
    assert "margins.flips 0.02 -> 0.05" in caution
    assert "alpha" not in caution


def test_going_back_to_the_first_protocol_keeps_the_caution(tmp_path: Path) -> None:
    add(tmp_path, ValidateSection())
    add(tmp_path, ValidateSection(alpha=0.1))
    assert add(tmp_path, ValidateSection()) is not None


def test_other_images_are_another_history(tmp_path: Path) -> None:
    add(tmp_path, ValidateSection())
    assert add(tmp_path, ValidateSection(alpha=0.1), data="e" * 64) is None
    assert len(protocol_log.seen(tmp_path, DATA)) == 1
