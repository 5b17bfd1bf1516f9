"""What builders and engines keep for the next time: times of kernels (TensorRT), compiled blobs (OpenVINO). Light ring.

They come with the job and go home with its result: nothing of them stays on the device. One is used only where its pin
(versions, GPU or processor, driver, for a blob the engine's sha256) is this machine's own; else it is left alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from medge.errors import DataError, IntegrityError
from medge.job.spec import Cache, Graph, Spec
from medge.records import Engine, File, file_record, to_json

__all__ = ["BLOB", "TIMES", "Caches"]

TIMES, BLOB = "times", "blob"


class Caches:
    """The caches of one job. `find` gives a file of the job by its record, checked; `note` says a sentence."""

    def __init__(
        self, spec: Spec, folder: Path, out: Path, *, cpu: Any, find: Callable[[File], Path],
        note: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._spec, self._folder, self._out, self._find, self._note = spec, folder, out, find, note
        self._cpu = str(cpu)
        self._given: Dict[Path, str] = {}
        self._times: Dict[str, Path] = {}  # by backend, after its last build here
        self._blobs: List[Any] = []
        self._found: List[Dict[str, Any]] = []

    def before_build(self, graph: Graph, backend: Any, source: Path) -> None:
        """Lays the times of earlier builds beside the graph."""
        target = self._beside(backend, source)
        if target is None:
            return
        earlier = self._times.get(graph.backend)
        if earlier is not None:
            shutil.copyfile(str(earlier), str(target))
        else:
            self._place(graph.backend, TIMES, backend.cache_pin(), target.parent, name=target.name)

    def after_build(self, graph: Graph, backend: Any, source: Path) -> None:
        """Notes what the builder left there."""
        target = self._beside(backend, source)
        if target is None:
            return
        dropped = target.with_name(target.name + ".dropped")
        if dropped.is_file():
            self._note(f"{graph.name}: {dropped.read_text(encoding='utf-8').strip()}.")
            self._given.pop(target, None)
        if target.is_file():
            self._times[graph.backend] = target
            self._keep(graph.backend, TIMES, backend.cache_pin(), target, engine=graph.name)

    def before_start(self, engine: Engine, folder: Path, backend: Any) -> None:
        """Makes the folder in which an engine finds, and leaves, its compiled blob; only where the job asks for it."""
        if not self._spec.blob_cache or not hasattr(backend, "START_CACHE"):
            return
        pin = {**backend.cache_pin(), "cpu": self._cpu, "engine": engine.sha256}
        target = folder / backend.START_CACHE
        target.mkdir(exist_ok=True)
        self._place(engine.backend, BLOB, pin, target, name=None)
        self._blobs.append((engine, pin, target))

    def collected(self) -> List[Dict[str, Any]]:
        """Every cache that goes home, its file in `out` by its sha256."""
        for engine, pin, folder in self._blobs:
            for path in sorted(folder.glob("*.blob")):
                self._keep(engine.backend, BLOB, pin, path, engine=engine.name)
        return self._found

    def _beside(self, backend: Any, source: Path) -> Optional[Path]:
        name = getattr(backend, "BUILD_CACHE", None)
        return None if name is None else source.with_name(name)

    def _place(self, backend: str, kind: str, pin: Dict[str, str], folder: Path, *, name: Optional[str]) -> None:
        for cache in self._spec.caches:
            if (cache.backend, cache.kind) != (backend, kind) or cache.pin.get("engine") != pin.get("engine"):
                continue
            if cache.pin != pin:
                self._note(f"the kept {kind} of {backend} are of {_words(cache.pin)}: not used here")
                continue
            target = folder / (name or Path(cache.file.path).name)
            try:
                shutil.copyfile(str(self._find(cache.file)), str(target))
            except (DataError, IntegrityError) as error:
                self._note(f"the kept {kind} of {backend} are dropped: {error.message}")
                continue
            self._given[target] = cache.file.sha256

    def _keep(self, backend: str, kind: str, pin: Dict[str, str], path: Path, *, engine: str) -> None:
        file = file_record(path.parent, path)
        given = self._given.get(path)
        if kind == BLOB and given is not None and given != file.sha256:
            self._note(f"{engine}: its kept blob was not taken and was made again")
            given = None
        self._out.mkdir(exist_ok=True)
        shutil.copyfile(str(path), str(self._out / file.sha256))
        about = to_json(Cache(backend, kind, pin, file))
        self._found.append({**about, "given": given, "engine": engine})


def _words(pin: Dict[str, str]) -> str:
    return ", ".join(f"{key} {pin[key]}" for key in sorted(pin) if key != "engine")
