"""What a bundle's check lets through, and what it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medge.errors import IntegrityError
from medge.records import Engine, file_record, read_json, to_json, write_json
from medge.runtime import bundle as bundles


def write_bundle(folder: Path) -> Path:
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "model.bin").write_bytes(b"an engine")
    (folder / "README.md").write_text("read me")
    record = file_record(folder / "engine", folder / "engine" / "model.bin")
    engine = Engine("int8", "mine", "int8", (record,), "0" * 64, {"mine": "1"})
    entry = {**to_json(engine), "sha256": engine.sha256, "folder": "engine"}
    entry["files"] = [{**to_json(record), "path": "engine/model.bin"}]
    manifest = {
        "schema": 1,
        "engines": [entry],
        "preprocess": {"width": 8, "height": 8, "resize": "squash", "interpolation": "bicubic", "note": "in the graph"},
        "labels": ["no", "yes"],
        "operating_point": {"rule": "youden", "threshold": 0.5, "temperature": 1.0, "positive": "yes"},
        "threads": 2,
        "files": [to_json(file_record(folder, folder / path)) for path in bundles.files_in(folder)],
    }
    write_json(folder / bundles.MANIFEST, manifest)
    bundles.seal(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def change(folder: Path, **changes: Any) -> None:
    write_json(folder / bundles.MANIFEST, {**read_json(folder / bundles.MANIFEST), **changes})
    bundles.seal(folder)


def test_a_whole_bundle_is_read(folder: Path) -> None:
    bundle = bundles.load(folder)
    assert bundle.engine.files[0].path == "model.bin"
    assert bundle.engine_folder == folder / "engine"
    assert bundle.labels == ("no", "yes")
    assert bundle.manifest_sha256 == hashlib.sha256((folder / bundles.MANIFEST).read_bytes()).hexdigest()


def test_the_seal_is_what_sha256sum_writes(folder: Path) -> None:
    assert (folder / bundles.SEAL).read_text() == f"{bundles.load(folder).manifest_sha256}  manifest.json\n"


def test_every_single_byte_counts(folder: Path) -> None:
    for name in bundles.files_in(folder):
        whole = (folder / name).read_bytes()
        for place in range(len(whole)):
            (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(IntegrityError):
                bundles.load(folder)
        (folder / name).write_bytes(whole)
    bundles.load(folder)


@pytest.mark.parametrize("name", ["README.md", "engine/model.bin", "manifest.json", "manifest.sha256"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(IntegrityError, match=Path(name).name.replace(".", r"\.")):
        bundles.load(folder)


def test_a_file_that_is_not_listed_is_named(folder: Path) -> None:
    (folder / "engine" / "more.txt").write_text("")
    with pytest.raises(IntegrityError, match=r"engine/more\.txt is not in the manifest"):
        bundles.load(folder)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_is_refused_even_to_the_right_bytes(folder: Path, tmp_path: Path, kind: str) -> None:
    path = folder / ("README.md" if kind == "file" else "engine")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match=r"is a link|not in the manifest"):
        bundles.load(folder)


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/hostname", "engine/../README.md", "./README.md", "a\\b", "C:x", ""]
)
def test_a_path_that_could_leave_the_bundle_is_refused(folder: Path, path: str) -> None:
    (folder.parent / "secret").write_text("read me")
    files = read_json(folder / bundles.MANIFEST)["files"]
    change(folder, files=[*files, {"path": path, "sha256": files[0]["sha256"], "bytes": files[0]["bytes"]}])
    with pytest.raises(IntegrityError, match="outside the bundle"):
        bundles.load(folder)


def test_a_file_listed_twice_is_refused(folder: Path) -> None:
    change(folder, files=read_json(folder / bundles.MANIFEST)["files"] * 2)
    with pytest.raises(IntegrityError, match="twice"):
        bundles.load(folder)


def test_a_newer_schema_is_refused_with_what_to_use(folder: Path) -> None:
    change(folder, schema=2)
    with pytest.raises(IntegrityError, match="schema 2; this runtime reads schema 1") as caught:
        bundles.load(folder)
    assert "came with the bundle" in caught.value.fix


def test_an_engine_of_unlisted_files_is_refused(folder: Path) -> None:
    files = [file for file in read_json(folder / bundles.MANIFEST)["files"] if file["path"] != "engine/model.bin"]
    (folder / "engine" / "model.bin").unlink()
    change(folder, files=files)
    with pytest.raises(IntegrityError, match="not listed"):
        bundles.load(folder)


def test_an_engine_sha256_that_is_not_its_files_is_refused(folder: Path) -> None:
    (entry,) = read_json(folder / bundles.MANIFEST)["engines"]
    change(folder, engines=[{**entry, "sha256": "1" * 64}])
    with pytest.raises(IntegrityError, match="not that of its files"):
        bundles.load(folder)


@pytest.mark.parametrize(
    "point",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"threshold": None},
        {"positive": None},
        {"positive": "maybe"},
        {"surprise": 1},
    ],
)
def test_an_operating_point_that_cannot_decide_is_refused(folder: Path, point: dict[str, Any]) -> None:
    change(folder, operating_point={**read_json(folder / bundles.MANIFEST)["operating_point"], **point})
    with pytest.raises(IntegrityError, match=r"manifest\.json|OperatingPoint"):
        bundles.load(folder)


@settings(max_examples=150)
@given(
    key=st.sampled_from(["schema", "engines", "preprocess", "labels", "operating_point", "threads", "files"]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
)
def test_nonsense_in_a_sealed_manifest_is_an_integrity_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    folder = write_bundle(tmp_path_factory.mktemp("any") / "bundle")
    change(folder, **{key: value})
    try:
        bundle = bundles.load(folder)
    except IntegrityError:
        return
    assert len(bundle.labels) >= 2


def test_without_a_manifest_it_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="not a bundle"):
        bundles.load(tmp_path)
