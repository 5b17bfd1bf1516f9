"""The commands of medge-runtime.pyz. What a command needs is imported by it, so that the first answer comes soon."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, TextIO, Tuple

from medge.errors import GateFailed, ImageRefused, MedgeError, MissingError
from medge.records import NOTICE, to_json
from medge.runtime import bundle as bundles
from medge.runtime.bundle import Bundle

if TYPE_CHECKING:
    from medge.protocols import Session

__all__ = ["main"]


def main(arguments: Sequence[str], *, folder: str, results: TextIO) -> int:
    """Runs a command on the bundle in `folder`; results go to `results`, everything else to stderr. Returns the exit
    code: 0 ok, 2 bad input or a changed file, 3 a package is missing, 4 the engine was refused, 5 selftest failed."""
    with redirect_stdout(results):  # for --help
        chosen = _parser().parse_args(arguments)
    try:
        code: int = chosen.command(bundles.load(Path(folder)), chosen, results)
        results.flush()
    except MedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        if (error.name or "").startswith("medge"):
            raise
        print(f"error: {error}\n  fix: Install what the bundle needs: see its README.md.", file=sys.stderr)
        return MissingError.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the results is gone; nothing is left to say
        return 141
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=bundles.RUNTIME,
        description=f"Runs the bundle that it lies in, after checking every file of it. {NOTICE.capitalize()}.",
        epilog="Exit codes: 0 ok, 2 bad input or a changed file, 3 a package is missing, 4 the engine was refused, "
        "5 the selftest failed.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=function)
        return command

    def add_threads(command: argparse.ArgumentParser) -> None:
        command.add_argument("--threads", type=_positive_integer, help="processor threads (default: as profiled)")

    command = add("predict", _predict, "Judge images: one JSON object a line.")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="JPEG, PNG, TIFF, BMP or WebP, 8-bit")
    add_threads(command)
    command = add("selftest", _selftest, "Replay the golden vectors: does this machine compute what was validated?")
    command.add_argument("--json", action="store_true", help="one JSON document")
    add_threads(command)
    command = add("bench", _bench, "Measure the engine's latency here, one image after the other.")
    command.add_argument("--seconds", type=_positive_number, default=15.0, help="how long (default: 15)")
    command.add_argument("--json", action="store_true", help="one JSON document")
    add_threads(command)
    add("probe", _probe, "What this machine is, and what is installed, as JSON.")
    add("info", _info, "What this bundle is, as JSON: its manifest.")
    return parser


def _predict(bundle: Bundle, chosen: argparse.Namespace, results: TextIO) -> int:
    first = _Ahead(lambda: _prepared(bundle, chosen.images[0]))  # decoded while the engine loads
    session, _ = _start(bundle, chosen.threads)
    detector = _detector(bundle)
    refused = False
    for number, image in enumerate(chosen.images):
        try:
            pixels, taken = first.result() if number == 0 else _prepared(bundle, image)
            answer = _answer(bundle, session, detector, pixels)
            answer["preprocess_ms"] = taken
        except ImageRefused as error:
            refused = True
            answer = {"refused": True, "reason": error.message, "fix": error.fix, "notice": NOTICE}
        results.write(json.dumps({"image": image, **answer}, allow_nan=False) + "\n")
        results.flush()
    return ImageRefused.exit_code if refused else 0


class _Ahead:
    """A call that runs in a thread of its own; `result` waits for it, and calls again for what it raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call, self._value = call, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(MedgeError, ImportError):  # `result` will meet it in the thread that asks
            self._value = self._call()

    def result(self) -> Any:
        self._thread.join()
        return self._call() if self._value is None else self._value


def _prepared(bundle: Bundle, image: str) -> Tuple[Any, float]:
    """The engine's input and the milliseconds it took. Raises ImageRefused."""
    from medge.runtime.preprocess import prepare

    start = time.perf_counter_ns()
    pixels = prepare(image, bundle.preprocess)
    return pixels, _milliseconds(time.perf_counter_ns() - start)


def _detector(bundle: Bundle) -> Any:
    """What refuses images unlike the validated ones; None for a bundle that was made without it."""
    if bundle.manifest.get("ood") is None:
        return None
    from medge.runtime import ood

    return ood.load(bundle.folder, bundle.manifest["ood"])


def _answer(bundle: Bundle, session: Session, detector: Any, pixels: Any) -> Dict[str, Any]:
    """What is said of one prepared image. latency_ms: the engine's, host array in to host array out.

    Raises ImageRefused for an image unlike those the engine was validated on.
    """
    from medge.runtime.decision import decide, probabilities
    from medge.runtime.predict import predict_outputs

    start = time.perf_counter_ns()
    logits, features = predict_outputs(session, [pixels])
    taken = time.perf_counter_ns() - start
    likeness = {} if detector is None else {"ood_score": _checked_score(detector, features, session, pixels)}
    probability = probabilities(logits[0], temperature=bundle.operating_point.temperature).tolist()
    return {
        "probabilities": dict(zip(bundle.labels, probability)),
        "decision": decide(probability, labels=bundle.labels, point=bundle.operating_point),
        "threshold": bundle.operating_point.threshold,
        **likeness,
        "engine_sha256": bundle.engine.sha256,
        "latency_ms": _milliseconds(taken),
        "notice": NOTICE,
        **_synthetic(bundle),
    }


def _checked_score(detector: Any, features: Any, session: Session, pixels: Any) -> float:
    from medge.runtime import ood
    from medge.runtime.predict import predict_outputs

    score = ood.score_of(detector, features, lambda: predict_outputs(session, [ood.recompressed(pixels)])[1])
    if ood.is_unlike(detector, score):
        raise ImageRefused(ood.reason(detector, score), fix="Judge only images of the kind it was made for.")
    return round(score, 6)


def _selftest(bundle: Bundle, chosen: argparse.Namespace, results: TextIO) -> int:
    from medge.runtime import machine
    from medge.runtime.selftest import replay

    session, here = _start(bundle, chosen.threads, quiet=True)
    try:
        report = replay(bundle, session)
    except GateFailed as error:
        if chosen.json:
            document = {"selftest": "fail", "reason": error.message, "engine_sha256": bundle.engine.sha256}
            results.write(json.dumps({**document, "notice": NOTICE}) + "\n")
            results.flush()
        raise
    report.update(_synthetic(bundle))
    report["different_here"] = machine.differences(bundle.manifest["validated_on"], here)
    try:
        machine.remember_pass(bundle.manifest_sha256, here)
    except OSError as error:
        print(f"warning: the pass could not be noted ({error}); predict will warn again.", file=sys.stderr)
    text = (
        f"selftest passed: {report['vectors']} golden vectors, largest difference {report['largest_difference']:.2g} "
        f"(allowed {report['tolerance']:g}); {_notice(bundle)}"
    )
    results.write((json.dumps(report) if chosen.json else text) + "\n")
    return 0


def _bench(bundle: Bundle, chosen: argparse.Namespace, results: TextIO) -> int:
    import numpy as np

    from medge.runtime.bench import bench
    from medge.runtime.selftest import golden_image

    session, _ = _start(bundle, chosen.threads)
    images = np.stack([golden_image(bundle.folder / vector["image"]) for vector in bundle.manifest["golden"]])
    report = to_json(bench(session, chosen.seconds, images=images))
    report.update(
        threads=_threads(bundle, chosen.threads), engine=bundle.engine.name, engine_sha256=bundle.engine.sha256
    )
    if chosen.json:
        results.write(json.dumps({**report, **_synthetic(bundle), "notice": NOTICE}) + "\n")
        return 0
    p90 = "too few queries to say" if report["p90_ms"] is None else f"{report['p90_ms']:.2f} ms"
    times = f"p50 {report['p50_ms']:.2f} ms, p90 {p90}, {report['queries']} queries"
    results.write(f"{times} ({bundle.engine.name}); {_notice(bundle)}\n")
    return 0


def _synthetic(bundle: Bundle) -> Dict[str, bool]:
    """Said in every answer of an engine that was made from drawn images."""
    return {"synthetic": True} if bundle.manifest["provenance"]["data"]["synthetic"] else {}


def _notice(bundle: Bundle) -> str:
    return f"made from synthetic images; {NOTICE}" if _synthetic(bundle) else NOTICE


def _probe(bundle: Bundle, chosen: argparse.Namespace, results: TextIO) -> int:
    from medge.devices.local import facts

    backend = _backend(bundle)
    document = {
        "facts": facts(),
        "packages": _packages(["numpy", "pillow", "onnxruntime", "openvino", "tensorrt"]),
        "engine": {"name": bundle.engine.name, "missing": backend.missing(bundle.engine.precision)},
        "validated_on": bundle.manifest["validated_on"],
        "notice": NOTICE,
    }
    results.write(json.dumps(document, indent=2) + "\n")
    return 0


def _info(bundle: Bundle, chosen: argparse.Namespace, results: TextIO) -> int:
    results.write(json.dumps({"manifest_sha256": bundle.manifest_sha256, **bundle.manifest}, indent=2) + "\n")
    return 0


def _start(bundle: Bundle, threads: Optional[int], *, quiet: bool = False) -> Tuple[Session, Dict[str, Any]]:
    """The engine's session and what this machine is; warns, unless `quiet`, where it is not what was validated."""
    from medge.runtime import machine

    backend = _backend(bundle)
    names = [file.path for file in bundle.engine.files]
    session: Session = backend.start(
        bundle.engine_folder, names, precision=bundle.engine.precision, threads=_threads(bundle, threads)
    )
    here = machine.machine(backend.versions())
    found = machine.differences(bundle.manifest["validated_on"], here)
    if found and not quiet and not machine.passed_here(bundle.manifest_sha256, here):
        print(
            f"warning: this is not what the engine was validated on: {'; '.join(found)}. Its numbers may differ.\n"
            f"  fix: Run the selftest here once: python3 {bundle.folder / bundles.RUNTIME} selftest",
            file=sys.stderr,
        )
    return session, here


def _threads(bundle: Bundle, asked: Optional[int]) -> int:
    from medge.runtime.machine import cores_allowed

    return asked or min(bundle.threads, cores_allowed())


def _backend(bundle: Bundle) -> Any:
    """The backend's module, which came with the bundle; no plug-in folder of this machine is looked into."""
    from importlib import import_module

    name = f"medge.backends.{bundle.engine.backend}"
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingError(f"This runtime has no backend '{bundle.engine.backend}'.", fix="Package again.") from error


def _packages(names: List[str]) -> Dict[str, Optional[str]]:
    from importlib import metadata

    found: Dict[str, Optional[str]] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _positive_integer(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < 86400:
        raise ValueError(text)
    return value


def _milliseconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 3)
