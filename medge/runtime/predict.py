"""Running an engine over images: the one loop that makes predictions, on the host and on the device.

Imported at every start on a device, so it imports no more than it needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, Optional, Sequence, Tuple

import numpy as np

from medge.errors import DataError, ToolError
from medge.records import Engine, verify_files

if TYPE_CHECKING:
    from medge.predictions import Predictions
    from medge.protocols import Session

__all__ = ["Advance", "predict_logits", "predict_outputs", "predict_table", "start_engine"]

Array = Any
Advance = Callable[[int], None]


def start_engine(engine: Engine, folder: Path, *, threads: int) -> Session:
    """A session of an engine whose files were checked first. Raises IntegrityError, MissingError, ToolError."""
    from medge import plugins

    verify_files(folder, engine.files)
    backend = plugins.load("backends", engine.backend)
    session: Session = backend.start(
        folder, [file.path for file in engine.files], precision=engine.precision, threads=threads
    )
    return session


def predict_logits(session: Session, images: Iterable[Array], *, advance: Optional[Advance] = None) -> Array:
    """float32 [N, classes] from uint8 [height, width, 3] images, one at a time as on the device.

    `advance(1)` is called after each image. Raises DataError for anything but such images, ToolError where the engine
    returns something that is not finite.
    """
    return _stacked([logits for logits, _ in _outputs(session, images, advance)])


def predict_outputs(
    session: Session, images: Iterable[Array], *, advance: Optional[Advance] = None
) -> Tuple[Array, Array]:
    """Logits as predict_logits, and the pooled features float32 [N, D], which may be anything the engine returns."""
    rows = list(_outputs(session, images, advance))
    return _stacked([logits for logits, _ in rows]), _stacked([features for _, features in rows])


def _outputs(session: Session, images: Iterable[Array], advance: Optional[Advance]) -> Iterator[Tuple[Array, Array]]:
    for number, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(
                f"Image {number} is {image.dtype} {list(image.shape)}, not uint8 [height, width, 3].",
                fix="Prepare it with medge.runtime.preprocess.",
            )
        logits, features = (
            np.asarray(output, dtype=np.float32).reshape(-1)
            for output in session.run(np.ascontiguousarray(image[None]))
        )
        if not np.isfinite(logits).all():
            raise ToolError(
                f"The engine returned {logits.tolist()} for image {number}.",
                fix="Its precision may overflow: build another precision, or validate this one.",
            )
        yield logits, features
        if advance is not None:
            advance(1)


def _stacked(rows: Sequence[Array]) -> Array:
    if not rows:
        raise DataError("There are no images to predict.", fix="Name at least one.")
    return np.stack(rows)


def predict_table(
    session: Session,
    images: Iterable[Array],
    *,
    sha256: Sequence[str],
    group: Sequence[str],
    labels: Sequence[int],
    subgroups: Optional[Dict[str, Sequence[str]]] = None,
    advance: Optional[Advance] = None,
) -> Predictions:
    """The predictions table of labelled images; the sequences have one value per image, in the same order."""
    from medge.predictions import Predictions

    logits = predict_logits(session, images, advance=advance)
    columns = {name: tuple(values) for name, values in (subgroups or {}).items()}
    lengths = {len(sha256), len(group), len(labels), len(logits), *(len(column) for column in columns.values())}
    if len(lengths) != 1:
        raise DataError(
            f"A table needs one value per image: {len(logits)} images, but columns of {sorted(lengths)} values.",
            fix="Give every column the length of the images.",
        )
    return Predictions(
        tuple(sha256), tuple(group), np.asarray(labels, dtype=np.int64), logits.astype(np.float64), columns
    )
