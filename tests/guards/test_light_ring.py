"""The light ring runs on Python 3.8 with the standard library, numpy and Pillow, and nothing else."""

from __future__ import annotations

import ast
import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import medge
from medge.package_runtime import job_files, runtime_files

PACKAGE = Path(medge.__file__).parent
LIGHT = sorted(
    [
        PACKAGE / f"{name}.py"
        for name in (
            "__init__",
            "errors",
            "records",
            "predictions",
            "protocols",
            "plugins",
            "bench_worker",
            "interleave",
            "measuring",
            "scenarios",
            "sweep",
        )
    ]
    + [path for kind in ("backends", "devices", "job", "runtime") for path in (PACKAGE / kind).glob("*.py")]
)
ALLOWED = {"medge", "numpy", "PIL", "__future__", *sys.stdlib_module_names}
# Imported with these blocked; engines too, because a backend imports its engine inside its functions.
HEAVY = ("torch", "torchvision", "timm", "nncf", "onnx", "onnxruntime", "openvino", "tensorrt", "scipy", "sklearn",
         "pydantic", "typer", "rich", "yaml", "jinja2", "matplotlib", "accelerate", "safetensors")  # fmt: skip
HOST_RING = (
    "cli",
    "pipeline",
    "recipe",
    "workspace",
    "console",
    "data",
    "stages",
    "compressors",
    "statistics",
    "report",
)

IMPORT_ALL = """
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy} or name.startswith({host}):
            raise ModuleNotFoundError("blocked: " + name, name=name)
sys.meta_path.insert(0, Block())
sys.path.insert(0, {root!r})
for name in {modules}:
    importlib.import_module(name)
"""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def old_interpreters() -> list[str]:
    """python3.8 and 3.10 as JetPack has them, wherever pyenv or the system put them."""
    found = []
    for version in ("3.8", "3.10"):
        home = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
        choices = [shutil.which(f"python{version}"), *sorted(glob.glob(f"{home}/versions/{version}.*/bin/python3"))]
        works = [c for c in choices if c and subprocess.run([c, "-c", ""], capture_output=True).returncode == 0]
        found += works[:1]
    return found


@pytest.mark.parametrize("path", LIGHT, ids=module_name)
def test_a_light_file_is_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 8))


@pytest.mark.parametrize("path", LIGHT, ids=module_name)
def test_a_light_file_imports_only_what_a_device_has_when_it_is_imported(path: Path) -> None:
    imported = set()
    for node in _at_import(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(str(node.module).split(".")[0])
    assert imported <= ALLOWED


def test_the_light_ring_imports_with_everything_heavy_blocked() -> None:
    modules = [module_name(path) for path in LIGHT]
    host = tuple(f"medge.{name}" for name in HOST_RING)
    code = IMPORT_ALL.format(heavy=HEAVY, host=host, root=str(PACKAGE.parent), modules=modules)
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_light_file_that_runs_on_a_device_travels_in_the_runtime() -> None:
    light = {path.relative_to(PACKAGE.parent).as_posix() for path in LIGHT}
    missing = light - set(runtime_files([]))
    elsewhere = ("medge/backends/", "medge/devices/", "medge/job/", "medge/bench_worker.py", "medge/interleave.py",
                 "medge/measuring.py", "medge/scenarios.py", "medge/sweep.py")  # fmt: skip
    assert {name for name in missing if not name.startswith(elsewhere)} == {
        "medge/runtime/boot.py"  # it is __main__.py there
    }
    missing = light - set(job_files([]))
    assert {name for name in missing if not name.startswith("medge/backends/")} == {
        "medge/job/boot.py",
        "medge/runtime/boot.py",
    }


def test_the_runtime_carries_nothing_of_the_host_ring() -> None:
    names = {f"medge/{name}" for name in HOST_RING}
    assert not [
        name for name in {**runtime_files([]), **job_files([])} if name.split(".py")[0].startswith(tuple(names))
    ]


@pytest.mark.parametrize("interpreter", old_interpreters() or [None])
def test_the_light_ring_compiles_and_its_core_imports_under_an_old_python(
    interpreter: str | None, tmp_path: Path
) -> None:
    if interpreter is None:
        pytest.skip("needs a python3.8 or python3.10")
    code = f"""
import sys
for path in {[str(path) for path in LIGHT]}:
    with open(path, encoding="utf-8") as stream:
        compile(stream.read(), path, "exec")
sys.path.insert(0, {str(PACKAGE.parent)!r})
from medge import errors, plugins, protocols, records
from medge.devices import local
from medge.runtime import bundle, machine
record = records.Engine("int8", "openvino", "int8", (records.File("a", "b", 1),), "c", {{"openvino": "1"}})
assert records.from_json(records.Engine, records.to_json(record)) == record
point = bundle.OperatingPoint("r", None, 1.0, None)
assert records.from_json(bundle.OperatingPoint, records.to_json(point)) == point
machine.machine({{}})
local.facts()
try:
    import numpy, PIL
except ImportError:
    print("no numpy or Pillow here")
else:
    __import__("medge.predictions")
    for module in ("predict", "child", "preprocess", "selftest", "bench"):
        __import__("medge.runtime." + module)
    for module in ("spec", "progress", "run", "steps", "agent", "supervisor"):
        __import__("medge.job." + module)
"""
    done = subprocess.run(
        [interpreter, "-I", "-B", "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def _at_import(tree: ast.AST) -> list[ast.AST]:
    """Nodes that run when the module is imported: not those in functions, nor under `if TYPE_CHECKING`."""
    nodes: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes += [inner for other in node.orelse for inner in ast.walk(other)]
            continue
        nodes += [node, *_at_import(node)]
    return nodes
