"""The command line: clear errors, exit codes, one JSON document, nothing heavy for --help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMANDS = [
    "run", "finetune", "compress", "compile", "validate", "profile", "select", "package", "report", "compare", "data",
]  # fmt: skip


def medge(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "medge", *words], cwd=cwd, capture_output=True, text=True, check=False)


def test_help_names_every_command_and_the_notice(tmp_path: Path) -> None:
    done = medge("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "not a medical device" in " ".join(done.stdout.split())
    for command in COMMANDS:
        assert f" {command} " in done.stdout


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, medge.cli\n"
        "heavy = {'torch', 'timm', 'nncf', 'openvino', 'onnxruntime', 'numpy', 'pydantic', 'matplotlib', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["compress", "compile", "validate", "profile", "select", "package", "report"])
def test_a_command_without_a_run_says_how_to_start_one(tmp_path: Path, command: str) -> None:
    done = medge(command, cwd=tmp_path)
    assert done.returncode == 2
    assert "There is no run" in done.stderr
    assert "medge finetune --data DIR" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "none.yaml"], "No recipe at none.yaml"),
        (["run", "bad.yaml"], "2 mistakes"),
        (["finetune", "--data", "nowhere"], "is not a folder"),
        (["finetune", "--data", ".", "--run", "../x"], "cannot be a run's name"),
        (["data", "inspect", "nowhere"], "is not a folder"),
        (["compress", "--run", "quikstart"], "There is no run 'quikstart'"),
        (["run", "good.yaml", "--set", "data.path"], "is not KEY=VALUE"),
    ],
)
def test_bad_input_is_exit_2_with_a_fix(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "bad.yaml").write_text("nam: x\ndata: {sise: 3}\n")
    (tmp_path / "good.yaml").write_text("name: x\n")
    plain = medge(*words, cwd=tmp_path)
    assert plain.returncode == 2
    assert message in plain.stderr
    assert "fix:" in plain.stderr
    assert plain.stdout == ""
    as_json = medge(*words, "--json", cwd=tmp_path)
    assert as_json.returncode == 2
    document = json.loads(as_json.stdout)
    assert message in document["error"]
    assert document["exit_code"] == 2
    assert document["fix"]


def test_an_unknown_command_or_option_is_exit_2(tmp_path: Path) -> None:
    assert medge("finetun", cwd=tmp_path).returncode == 2
    assert medge("compress", "--int9", cwd=tmp_path).returncode == 2


def test_columns_of_a_manifest_are_found_by_their_usual_names(tmp_path: Path) -> None:
    from medge.commands import data_keys

    (tmp_path / "manifest.csv").write_text("file,label,patient_id\n")
    assert data_keys(tmp_path)["columns"] == {"path": "file", "label": "label", "group": "patient_id"}


def test_a_manifest_without_known_columns_says_how_to_name_them(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("a,b\n")
    done = medge("data", "inspect", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert "data.columns.path=COLUMN" in done.stderr


@pytest.mark.parametrize(
    ("flags", "name", "chains"),
    [
        ({"int8": True}, "int8", [["ptq"], ["qat"]]),
        ({"prune": 0.5}, "pruned", [["prune"]]),
        ({"prune": 0.5, "int8": True}, "pruned-int8", [["prune", "ptq"], ["prune", "qat"]]),
        ({"distill": True}, "distilled", [["distill"]]),
        (
            {"prune": 1e-5, "distill": True, "int8": True},
            "pruned-distilled-int8",
            [["prune", "distill", "ptq"], ["prune", "distill", "qat"]],
        ),
    ],
)
def test_flags_of_compress_compose_a_chain(flags: dict[str, Any], name: str, chains: list[list[str]]) -> None:
    from medge.commands import variant_settings
    from medge.recipe import parse, with_settings

    changes = variant_settings(**{"int8": False, "prune": None, "distill": False, **flags})
    asked = parse(with_settings({"compress": {"search": {"minutes": 5}}}, changes), origin="t").compress
    assert asked.search is None  # of a command before this one
    variants = asked.variants
    found = {n: [[step.compressor for step in chain] for chain in v.first_passing] for n, v in variants.items()}
    assert found == {name: chains}
    assert all(c[0].options == {"ratio": flags["prune"]} for c in variants[name].first_passing if "prune" in flags)


@pytest.mark.parametrize("ratio", ["0", "1", "-0.5", "nan"])
def test_a_ratio_that_is_no_share_is_exit_2(tmp_path: Path, ratio: str) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "recipe.yaml").write_text("name: x\n")
    done = medge("compress", f"--prune={ratio}", cwd=tmp_path)
    assert done.returncode == 2
    assert "ratio is" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_pruning_after_quantising_is_exit_2_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("compress: {variants: {v: [ptq, prune]}}\n")
    done = medge("run", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "prune cannot change a model that ptq has quantised" in " ".join(done.stderr.split())
