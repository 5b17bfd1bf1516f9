"""medge.runtime.preprocess: the pictures it takes, those it refuses, and how it scales them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medge.errors import ImageRefused
from medge.records import Preprocess
from medge.runtime import preprocess
from medge.runtime.preprocess import load_image, pixels_sha256, prepare


def picture(width: int = 64, height: int = 48, *, seed: int = 0) -> Image.Image:
    """Smooth RGB noise: survives JPEG, has no symmetry."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_rgb_and_grey_pixels_arrive_unchanged() -> None:
    rgb, grey = picture(), picture().convert("L")
    assert np.array_equal(np.asarray(load_image(encoded(rgb))), np.asarray(rgb))
    assert np.array_equal(np.asarray(load_image(encoded(grey))), np.asarray(grey.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    turn = Image.Transpose
    back = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
            6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270}  # fmt: skip
    upright = picture()
    stored = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(load_image(encoded(stored, exif=exif))), np.asarray(upright))


@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
def test_a_turned_jpeg_that_is_scaled_while_decoding_has_the_right_aspect(resize: str) -> None:
    upright = picture(900, 500)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    wanted = Preprocess(96, 48, resize)
    difference = np.abs(prepare(turned, wanted).astype(int) - prepare(upright, wanted))
    assert difference.mean() < 3


def test_palette_bilevel_cmyk_and_opaque_alpha_are_converted() -> None:
    rgb = picture()
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.array_equal(np.asarray(load_image(encoded(palette))), np.asarray(palette.convert("RGB")))
    bilevel = rgb.convert("1")
    assert np.array_equal(np.asarray(load_image(encoded(bilevel))), np.asarray(bilevel.convert("RGB")))
    cmyk = load_image(encoded(rgb.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(cmyk).astype(int) - np.asarray(rgb)).mean() < 4
    opaque = rgb.copy()
    opaque.putalpha(255)
    assert np.array_equal(np.asarray(load_image(encoded(opaque))), np.asarray(rgb))
    grey = Image.merge("LA", [rgb.convert("L"), Image.new("L", rgb.size, 255)])
    assert np.array_equal(np.asarray(load_image(encoded(grey))), np.asarray(rgb.convert("L").convert("RGB")))


def test_of_a_phones_jpeg_with_a_gain_map_the_photograph_is_taken() -> None:
    both = encoded(picture(), "MPO", save_all=True, append_images=[picture(seed=1)], quality=95)
    assert np.array_equal(np.asarray(load_image(both)), np.asarray(load_image(encoded(picture(), "JPEG", quality=95))))
    assert prepare(both, Preprocess(32, 32)).shape == (32, 32, 3)


def _transparent() -> bytes:
    image = picture()
    image.putalpha(128)
    return encoded(image)


def _transparent_palette() -> bytes:
    palette = picture().convert("P")
    return encoded(palette, transparency=palette.getpixel((0, 0)))


def _deep_grey() -> bytes:
    return encoded(Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)))


def _deep_colour() -> bytes:
    """A 16-bit RGB PNG, which Pillow reads as 8-bit without a word; Pillow cannot write one."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + bytes(20 * 6) for _ in range(20))
    header = struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def _integers() -> bytes:
    return encoded(Image.fromarray(np.zeros((20, 20), dtype=np.int32)), "TIFF")


def _floats() -> bytes:
    return encoded(Image.fromarray(np.zeros((20, 20), dtype=np.float32)), "TIFF")


def _deep_pnm() -> bytes:
    return b"P6 20 20 4095\n" + bytes(20 * 20 * 6)


def _frames(kind: str) -> bytes:
    return encoded(picture().convert("P"), kind, save_all=True, append_images=[picture(seed=1).convert("P")])


def _bomb() -> bytes:
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + crc + b"\0\0\0\0IDAT" + bytes(4)


REFUSED = {
    "transparent": (_transparent, "transparent"),
    "transparent palette": (_transparent_palette, "transparent"),
    "16-bit grey": (_deep_grey, "8 bits"),
    "16-bit colour": (_deep_colour, "8 bits"),
    "12-bit pnm": (_deep_pnm, "8 bits"),
    "32-bit integers": (_integers, "8 bits"),
    "floats": (_floats, "8 bits"),
    "tiff of two pages": (lambda: _frames("TIFF"), "2 frames"),
    "gif of two frames": (lambda: _frames("GIF"), "2 frames"),
    "jpeg cut short": (lambda: encoded(picture(), "JPEG")[:-200], "cut short"),
    "png cut short": (lambda: encoded(picture())[:-600], "cut short"),
    "png with flipped bytes": (lambda: encoded(picture())[:90] + b"xxxx" + encoded(picture())[94:], "damaged"),
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"patient,label\n1,NORMAL\n", "not an image"),
    "dicom": (lambda: bytes(128) + b"DICM" + bytes(40), "DICOM"),
    "bomb": (_bomb, "too"),
    "tiny": (lambda: encoded(picture(8, 200)), "too few"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_have_to_be_guessed_at_is_refused_by_name_and_reason(kind: str, tmp_path: Path) -> None:
    make, reason = REFUSED[kind]
    path = tmp_path / "Röntgen bild 1.png"
    path.write_bytes(make())
    for read in (load_image, lambda source: prepare(source, Preprocess(32, 32))):
        with pytest.raises(ImageRefused, match=reason) as caught:
            read(path)
        assert str(path) in caught.value.message
        assert caught.value.fix
        assert caught.value.exit_code == 2


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="no such file"):
        load_image(tmp_path / "nothing.png")
    with pytest.raises(ImageRefused, match="cannot be read"):
        load_image(tmp_path)


@pytest.mark.parametrize("length", range(0, 3000, 97))
def test_no_prefix_of_a_jpeg_is_taken_for_whole(length: int) -> None:
    data = encoded(picture(300, 200), "JPEG", quality=80)
    with pytest.raises(ImageRefused):
        load_image(data[: min(length, len(data) - 40)])


def test_pixels_of_another_kind_are_refused() -> None:
    for pixels in (
        np.zeros((20, 20), dtype=np.uint16),
        np.zeros((20, 20, 4), dtype=np.uint8),
        np.zeros(9, dtype=np.uint8),
    ):
        with pytest.raises(ImageRefused, match="uint8"):
            prepare(pixels, Preprocess(32, 32))


def test_squash_fills_letterbox_pads_and_crop_cuts() -> None:
    wide = np.full((40, 80, 3), 200, dtype=np.uint8)
    wide[:, :20] = 100
    assert prepare(wide, Preprocess(20, 20, "squash"))[10].mean() == pytest.approx(175, abs=2)
    boxed = prepare(wide, Preprocess(20, 20, "letterbox"))
    assert boxed[:4].max() == 0
    assert boxed[16:].max() == 0
    assert boxed[6:14].min() >= 90
    assert prepare(wide, Preprocess(20, 20, "crop")).min() >= 190


@pytest.mark.parametrize("size", [(33, 257), (640, 480), (224, 224), (16, 4000), (1999, 1501)])
@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_result_always_has_the_engines_shape(size: tuple[int, int], resize: str, kind: str) -> None:
    result = prepare(encoded(Image.new("L", size, 77), kind), Preprocess(96, 64, resize))
    assert (result.shape, result.dtype, result.flags.c_contiguous) == ((64, 96, 3), np.uint8, True)
    assert result[32].max() == 77


def test_grey_is_scaled_as_its_rgb_copy_would_be() -> None:
    grey = picture(300, 200).convert("L")
    for resize in ("squash", "letterbox", "crop"):
        wanted = Preprocess(64, 64, resize)
        assert np.array_equal(prepare(grey, wanted), prepare(grey.convert("RGB"), wanted))


def test_a_large_jpeg_is_scaled_while_decoding_and_never_enlarged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    resized = preprocess._resized

    def spy(image, size, method, box=None):  # type: ignore[no-untyped-def]
        sizes.append(image.size)
        return resized(image, size, method, box)

    monkeypatch.setattr(preprocess, "_resized", spy)
    for width, height in ((2000, 1500), (448, 448), (460, 335), (500, 2000), (200, 200)):
        data = encoded(picture(width, height).convert("L"), "JPEG", quality=90)
        for resize in ("squash", "letterbox", "crop"):
            small = prepare(data, Preprocess(224, 224, resize))
            whole = prepare(load_image(data), Preprocess(224, 224, resize))
            assert np.abs(small.astype(int) - whole).mean() < 1
            wide, high = sizes[-2]
            assert wide <= width
            assert high <= height
            needed = preprocess._scaled_size((width, height), Preprocess(224, 224, resize))
            assert (wide, high) == (width, height) or (wide >= needed[0] and high >= needed[1])
    assert (500, 375) in sizes


def test_the_hash_is_of_pixels_and_shape_not_of_files() -> None:
    image = picture()
    assert pixels_sha256(load_image(encoded(image, "PNG"))) == pixels_sha256(load_image(encoded(image, "BMP")))
    assert pixels_sha256(Image.new("RGB", (20, 40))) != pixels_sha256(Image.new("RGB", (40, 20)))
    grey = image.convert("L")
    assert pixels_sha256(grey) == pixels_sha256(grey.convert("RGB"))


def test_a_path_with_blanks_and_umlauts_works(tmp_path: Path) -> None:
    path = tmp_path / "Ordner mit Blanks" / "Röntgen 影像.jpg"
    path.parent.mkdir()
    picture().save(path)
    assert prepare(path, Preprocess(32, 32)).shape == (32, 32, 3)
    assert prepare(str(path), Preprocess(32, 32)).shape == (32, 32, 3)


def test_importing_it_needs_only_numpy_and_pillow() -> None:
    code = (
        "import sys, medge.runtime.preprocess; "
        "heavy = {'torch', 'scipy', 'pydantic', 'rich', 'typer', 'yaml'} & set(sys.modules); print(sorted(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.shared
def test_native_x_rays_squashed_are_near_those_their_publisher_squashed(shared: Path) -> None:
    differences = []
    for path in sorted((shared / "data" / "chest-xray-native").rglob("*.jpeg")):
        published = shared / "data" / "chest-xray" / path.parent.name / path.name
        ours = prepare(path, Preprocess(224, 224, "squash", "bilinear"))
        differences.append(float(np.abs(ours.astype(int) - np.asarray(Image.open(published).convert("RGB"))).mean()))
    assert len(differences) == 40
    assert np.mean(differences) < 3
    assert max(differences) < 6
