"""From an image file to an engine's input: the one implementation, for stored data, calibration and the device.

Light ring: numpy and Pillow 8 or newer, Python 3.8 or newer.

An image that would have to be guessed at is refused: 16-bit and float images need a grey-scale window that nobody
told us, transparency needs a background, several frames need a choice.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any, Optional, Tuple, Union

import numpy as np
from PIL import Image

from medge.errors import ImageRefused
from medge.records import Preprocess

__all__ = ["MAX_PIXELS", "MIN_SIDE", "load_image", "pixels_sha256", "prepare"]

Array = Any  # numpy arrays; numpy.typing needs a newer Python than the devices have
Source = Union[str, Path, bytes]

MAX_PIXELS = 89_478_485  # Pillow's own line for a decompression bomb: 256 MiB of RGB
MIN_SIDE = 16  # px; less is a thumbnail's thumbnail, or not a picture
# First those that Pillow loads at once: for the others it imports all its formats. A JPEG may turn out to be an MPO.
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "GIF", "TIFF", "WEBP")

_METHODS = getattr(Image, "Resampling", Image)  # Pillow before 9.1 has the constants in Image itself
_TURNS = getattr(Image, "Transpose", Image)
_INTERPOLATION = {"bilinear": _METHODS.BILINEAR, "bicubic": _METHODS.BICUBIC, "lanczos": _METHODS.LANCZOS}
_UPRIGHT = {  # EXIF orientation -> what sets the picture upright
    2: _TURNS.FLIP_LEFT_RIGHT,
    3: _TURNS.ROTATE_180,
    4: _TURNS.FLIP_TOP_BOTTOM,
    5: _TURNS.TRANSPOSE,
    6: _TURNS.ROTATE_270,
    7: _TURNS.TRANSVERSE,
    8: _TURNS.ROTATE_90,
}
_ORIENTATION = 0x0112
# A large JPEG is decoded to at least this many times the target, so that the last step still filters. Against decoding
# all of it, grey levels of 40 X-rays at 224 px then differ by 0.5 in the mean (1.0: 0.9; 2.0: 0.2, but slower).
_DRAFT_SURPLUS = 1.5
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def load_image(source: Source) -> Image.Image:
    """The whole picture as RGB, upright, at full size. Raises ImageRefused with the reason."""
    return _decoded(source, target=None).convert("RGB")


def prepare(source: Union[Source, Image.Image, Array], preprocess: Preprocess) -> Array:
    """uint8 [height, width, 3], RGB: what the engine takes.

    `source` is a file, its bytes, a Pillow image, or uint8 pixels [h, w] or [h, w, 3]. A large JPEG file is scaled
    down while it is decoded, to no less than 1.5 times the target and never so that it must be enlarged again.
    Raises ImageRefused.
    """
    if isinstance(source, np.ndarray):
        image = _plain(_from_pixels(source), "pixels")
    elif isinstance(source, Image.Image):
        image = _plain(source, "image")
    else:
        image = _decoded(source, target=preprocess)
    method = _INTERPOLATION[preprocess.interpolation]
    size = (preprocess.width, preprocess.height)
    if preprocess.resize == "letterbox":
        inner = _scaled_size(image.size, preprocess)
        result = Image.new(image.mode, size)
        result.paste(_resized(image, inner, method), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    elif preprocess.resize == "crop":
        result = _resized(image, size, method, box=_centre(image.size, size))
    elif preprocess.resize == "squash":
        result = _resized(image, size, method)
    else:
        raise ValueError(f"no resize rule {preprocess.resize!r}: squash, letterbox or crop")
    pixels = np.asarray(result, dtype=np.uint8)
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else np.array(pixels)


def pixels_sha256(image: Image.Image) -> str:
    """Hash of an RGB image's shape and decoded pixels: equal for equal pictures whatever their files."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    digest = hashlib.sha256(b"%d %d 3\n" % (rgb.height, rgb.width))
    digest.update(rgb.tobytes())
    return digest.hexdigest()


def _decoded(source: Source, *, target: Optional[Preprocess]) -> Image.Image:
    """The picture as L or RGB, upright; a JPEG possibly smaller than its file says if a `target` is given."""
    name = "image" if isinstance(source, bytes) else str(source)
    image: Optional[Image.Image] = None
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        _check_header(image, name)
        orientation = image.getexif().get(_ORIENTATION, 1)
        if target is not None and image.format in ("JPEG", "MPO"):
            _draft(image, target, turned=orientation in (5, 6, 7, 8))
        image.load()
    except FileNotFoundError:
        raise _refused(name, "there is no such file", "Check the path.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _refused(name, f"it claims to be too large ({error})", f"Scale it below {MAX_PIXELS} pixels.") from None
    except ImageRefused:
        raise
    except MemoryError:
        raise _refused(name, "it needs more memory than there is", "Scale it down.") from None
    except _BROKEN as error:
        raise _undecodable(source, name, error, opened=image is not None) from None
    image = _plain(image, name)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _check_header(image: Image.Image, name: str) -> None:
    """Refuses by what the header says, before anything is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _refused(name, f"{width} x {height} pixels are too many", f"Scale it below {MAX_PIXELS} pixels.")
    if min(width, height) < MIN_SIDE:
        raise _refused(name, f"{width} x {height} pixels are too few", f"Each side needs at least {MIN_SIDE} pixels.")
    if image.mode.startswith(("I", "F")) or _is_deep(image):
        raise _refused(
            name,
            f"it has more than 8 bits a channel (mode {image.mode}) and no grey-scale window is known",
            "Apply the window (level and width) and save it as 8-bit.",
        )
    # The further frames of an MPO are a phone's previews and gain maps; the first is the photograph.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        frames = getattr(image, "n_frames", 1)
        raise _refused(name, f"it has {frames} frames", "Save the frame to be judged as a file of its own.")


def _is_deep(image: Image.Image) -> bool:
    """Whether the file stores 16 bits where Pillow would silently hand out 8 (colour PNG, TIFF and PPM)."""
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], (tuple, list)) else (tile[3],)
        if any(isinstance(a, str) and (";16" in a or ";12" in a) for a in arguments):
            return True
        if image.format == "PPM" and any(isinstance(a, int) and a > 255 for a in arguments[1:]):
            return True
    return False


def _draft(image: Image.Image, target: Preprocess, *, turned: bool) -> None:
    """Asks libjpeg for the smallest of 1, 1/2, 1/4, 1/8 that keeps the surplus over the scaled size."""
    width, height = image.size[::-1] if turned else image.size
    wide, high = _scaled_size((width, height), target)
    if wide > width or high > height:
        return
    asked = (math.ceil(wide * _DRAFT_SURPLUS), math.ceil(high * _DRAFT_SURPLUS))
    image.draft(None, asked[::-1] if turned else asked)


def _scaled_size(size: Tuple[int, int], target: Preprocess) -> Tuple[int, int]:
    """(width, height) to which a whole picture is scaled: inside the target, around it, or exactly it."""
    if target.resize == "squash":
        return target.width, target.height
    ratios = target.width / size[0], target.height / size[1]
    ratio = min(ratios) if target.resize == "letterbox" else max(ratios)
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def _centre(size: Tuple[int, int], target: Tuple[int, int]) -> Tuple[float, float, float, float]:
    """The largest box in the middle of a picture that has the target's aspect ratio."""
    scale = min(size[0] / target[0], size[1] / target[1])
    width, height = target[0] * scale, target[1] * scale
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


def _resized(image: Image.Image, size: Tuple[int, int], method: Any, box: Any = None) -> Image.Image:
    return image if image.size == size and box is None else image.resize(size, method, box=box)


def _plain(image: Image.Image, name: str) -> Image.Image:
    """A decoded picture as L or RGB. Raises ImageRefused where that would lose or invent something."""
    mode = image.mode
    if mode.startswith(("I", "F")):
        raise _refused(name, f"mode {mode} has no known grey-scale window", "Apply the window and save it as 8-bit.")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
        if np.asarray(alpha).min() < 255:
            raise _refused(name, "parts of it are transparent", "Save it on the background it was meant for.")
        return image.convert("RGB")
    if mode in ("L", "1"):
        return image.convert("L")
    if mode in ("RGB", "RGBX", "P", "CMYK", "YCbCr"):
        return image.convert("RGB")
    raise _refused(name, f"colour mode {mode} is not handled", "Save it as grey or RGB, 8-bit.")


def _from_pixels(pixels: Array) -> Image.Image:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        shape = " x ".join(str(n) for n in pixels.shape)
        raise _refused("pixels", f"{pixels.dtype} {shape} is not uint8 [h, w] or [h, w, 3]", "Give 8-bit pixels.")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _undecodable(source: Source, name: str, error: Exception, *, opened: bool) -> ImageRefused:
    """What is wrong with a file that Pillow gave up on, in the words of the person who has it."""
    if isinstance(error, (IsADirectoryError, PermissionError)):
        return _refused(name, f"it cannot be read ({error.strerror})", "Name a readable image file.")
    if opened:
        return _refused(name, f"it is damaged or cut short ({error})", "Copy or export it again.")
    head = source[:132] if isinstance(source, bytes) else _head(source)
    if not head:
        return _refused(name, "it is empty", "Copy or export it again.")
    if head[128:132] == b"DICM":
        return _refused(name, "it is a DICOM file", "Export it with its window applied, as 8-bit PNG or JPEG.")
    return _refused(name, "it is not an image", f"Known are {', '.join(FORMATS)}.")


def _head(path: Union[str, Path]) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(132)
    except OSError:
        return b"?"


def _refused(name: str, reason: str, fix: str) -> ImageRefused:
    return ImageRefused(f"{name}: {reason}.", fix=fix)
