"""What a job asks of a device: one frozen record, hashed, so that its result can be known by it. Light ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from medge.measuring import Conditions
from medge.records import Engine, File, sha256_of_json

__all__ = ["RESULT", "SCHEMA", "Cache", "Graph", "Labelled", "Spec", "seal_of"]

SCHEMA = 1
RESULT = "result.json"


@dataclass(frozen=True)
class Graph:
    """An ONNX file, lowered for its backend, whose engine can only be built on the device."""

    variant: str
    backend: str
    precision: str
    file: File

    @property
    def name(self) -> str:
        return f"{self.variant}/{self.backend}-{self.precision}"


@dataclass(frozen=True)
class Labelled:
    """A labelled set to be scored: `images` and `table` are sent, or both lie on the device: PATH.npy and PATH.csv.

    images: .npy, uint8 [N, height, width, 3]; table: CSV with columns sha256, group, label (class index), in its order.
    """

    name: str
    images: Optional[File] = None
    table: Optional[File] = None
    path: Optional[str] = None


@dataclass(frozen=True)
class Cache:
    """What an earlier job on this device brought home (medge.job.caches). pin: what it holds for, as a whole."""

    backend: str
    kind: str
    pin: Dict[str, str]
    file: File


@dataclass(frozen=True)
class Spec:
    """One job. `images` is a .npy of real images, uint8 [n, height, width, 3], for timing and for the selftest.

    threads: None leaves it to the device: all cores that it allows. bench: None measures nothing. blob_cache: engines
    may start from compiled blobs, which a bundle does not do.
    """

    id: str
    device: str
    kind: str
    medge: str
    seed: int
    threads: Optional[int]
    engines: Tuple[Engine, ...]
    graphs: Tuple[Graph, ...]
    images: File
    labelled: Optional[Labelled]
    bench: Optional[Conditions]
    limit_seconds: float
    schema: int = SCHEMA
    caches: Tuple[Cache, ...] = ()
    blob_cache: bool = False

    @property
    def sha256(self) -> str:
        return sha256_of_json(self)

    def shared_files(self) -> List[File]:
        """Engines and graphs: they may stay in the device's cache."""
        return [file for engine in self.engines for file in engine.files] + [graph.file for graph in self.graphs]

    def private_files(self) -> List[File]:
        """Images, and caches of the host's: never kept on a device."""
        labelled = [self.labelled.images, self.labelled.table] if self.labelled is not None else []
        caches = [cache.file for cache in self.caches]
        return [self.images, *(file for file in labelled if file is not None), *caches]


def seal_of(result: Dict[str, Any]) -> str:
    """The sha256 of a result's content, its own `seal` left out: finds accidents and edits, not a forger."""
    return sha256_of_json({key: value for key, value in result.items() if key != "seal"})
