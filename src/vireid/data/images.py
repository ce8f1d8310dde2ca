"""Decoding, resizing, and the memory-mapped cache of decoded images."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image

from vireid.errors import InputError
from vireid.files import alone, shown
from vireid.records import Modality, Records

Pixels = NDArray[np.uint8]
ImageLike = str | Path | Image.Image | Pixels
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

CACHE_FORMAT = "rgb-lanczos-upright-1"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""
_TEMPORARY = f".{'?' * 32}.*.tmp"


def require_8_bits(image: Image.Image) -> None:
    """Refuse pixels of 16 bits or more, which say nothing of what is black and what is white.

    Raises:
        InputError: with the remedy, but without the image's name.
    """
    if image.mode.startswith(("I", "F")):
        raise InputError("16-bit image: write it as 8-bit grey, all images of a camera by one scale")


def upright(image: Image.Image) -> Image.Image:
    """Return an image in RGB, turned as its EXIF data say, if they can be read; grey becomes three equal channels.

    Raises:
        InputError: for an image of 16 bits a pixel.
    """
    require_8_bits(image)
    turn = None
    with suppress(Exception):  # what Pillow raises for broken EXIF data has no common class
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return (image if turn is None else image.transpose(turn)).convert("RGB")


def fit(image: Image.Image, size: tuple[int, int]) -> Pixels:
    """Return an upright image as (H, W, 3) uint8, Lanczos-resized to `size` = (H, W).

    Raises:
        InputError: for an image of 16 bits a pixel.
    """
    return _resized(upright(image), size)


def _resized(rgb: Image.Image, size: tuple[int, int]) -> Pixels:
    height, width = size
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(rgb)


def decode(path: Path, size: tuple[int, int] | None = None) -> tuple[Pixels, tuple[int, int]]:
    """Read one image file.

    Returns:
        pixels (H, W, 3) at `size`, or at the file's own size, and the file's own (height, width), upright.

    Raises:
        InputError: for a missing, truncated or foreign file, one of 16 bits a pixel, or a name that is not UTF-8.
    """
    if (name := shown(path)) != str(path):
        raise InputError(f"image {name} has a name that is not UTF-8: rename it")
    try:
        with Image.open(path) as opened:
            image = upright(opened)
        original = (image.height, image.width)
        return _resized(image, size or original), original
    except InputError as error:
        raise InputError(f"image {path} cannot be used ({error})") from error
    except FileNotFoundError as error:
        raise InputError(f"image {path} is missing: restore it or take its row out of the data set") from error
    except (OSError, SyntaxError, ValueError, NotImplementedError, Image.DecompressionBombError) as error:
        raise InputError(f"image {path} cannot be decoded ({error}): replace it or take its row out") from error


def pixels_of(image: ImageLike, size: tuple[int, int], modality: Modality) -> Pixels:
    """Return a path, a PIL image or an (h, w, 3) uint8 array as (H, W, 3) uint8 of `size` = (H, W).

    An infrared picture gets three equal channels: some cameras tint what they see at night. Data sets are read as they
    were published, see `decode`.

    Raises:
        InputError: for an image that cannot be read, or an array of another shape or type.
    """
    pixels = _fitted(image, size)
    if modality is Modality.INFRARED:
        return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))
    return pixels


def _fitted(image: ImageLike, size: tuple[int, int]) -> Pixels:
    if isinstance(image, str | Path):
        return decode(Path(image), size)[0]
    if isinstance(image, Image.Image):
        return fit(image, size)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return fit(Image.fromarray(image), size)
    raise InputError(
        f"an image of type {type(image).__name__} {getattr(image, 'shape', '')}: "
        "give a path, a PIL image or an (H, W, 3) uint8 array"
    )


def image_list(images: Iterable[ImageLike], batch_size: int) -> list[ImageLike]:
    """Return what `embed` is given as a list.

    Raises:
        InputError: for one image in place of several, or batches of no image.
    """
    if isinstance(images, str | Path | Image.Image):
        raise InputError("embed takes several images: put a single one into a list, embed([image])")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}: use 1 or more")
    return list(images)


class ImageSource(Protocol):
    """Where a loader gets pixels from."""

    def read(self, rows: ArrayLike) -> tuple[Pixels, NDArray[np.int32]]:
        """Return pixels (n, H, W, 3) and original (height, width) pairs (n, 2) of rows (n,)."""
        ...


class DecodedImages:
    """Decodes on every read; for data sets too large to cache.

    Raises:
        InputError: naming the first image file that is missing.
    """

    def __init__(self, records: Records, size: tuple[int, int]) -> None:
        self.records, self.size = records, size
        for row in range(len(records)):
            _status(records, row)

    def read(self, rows: ArrayLike) -> tuple[Pixels, NDArray[np.int32]]:
        """See `ImageSource`; decodes on all cores, but in a loader process on its own."""
        with ThreadPoolExecutor(1 if parent_process() else os.cpu_count()) as pool:
            paths = [self.records.absolute(int(row)) for row in np.asarray(rows)]
            decoded = list(pool.map(lambda path: decode(path, self.size), paths))
        return np.stack([pixels for pixels, _ in decoded]), np.array([size for _, size in decoded], dtype=np.int32)


class CachedImages:
    """Decoded images in one memory-mapped file, made on first use.

    The file's name is a hash of all that its content depends on: format, size, every path with its byte count and
    modification time. It lies in `$VIREID_CACHE` or `~/.cache/vireid`; it is a copy of the data set and falls
    under the data set's terms. One process makes a cache at a time, and clears away what killed ones have left;
    a damaged cache is made again.
    """

    def __init__(self, records: Records, size: tuple[int, int], progress: Progress | None = None) -> None:
        folder = cache_folder() / cache_key(records, size)
        if not self._opens(folder, len(records), size):
            with alone(folder.parent, waiting="another process decodes images into the cache: waiting for it") as held:
                for left in folder.parent.glob(_TEMPORARY) if held else ():
                    shutil.rmtree(left, ignore_errors=True)  # another user's stays
                if not self._opens(folder, len(records), size):
                    shutil.rmtree(folder, ignore_errors=True)
                    _build(records, size, folder, progress)
                    self.__setstate__(folder)

    def _opens(self, folder: Path, count: int, size: tuple[int, int]) -> bool:
        """Open the cache, unless it is not there or a crash or a cleaner of old files has damaged it."""
        try:
            self.__setstate__(folder)
        except (OSError, ValueError, EOFError):
            return False
        return self.pixels.shape == (count, *size, 3) and self.sizes.shape == (count, 2)

    def __getstate__(self) -> Path:
        """Return the cache's folder: a loader process maps the file instead of getting a copy."""
        return self.folder

    def __setstate__(self, folder: Path) -> None:
        self.folder = folder
        self.pixels: Pixels = np.load(folder / "pixels.npy", mmap_mode="r")
        self.sizes: NDArray[np.int32] = np.load(folder / "sizes.npy")

    def read(self, rows: ArrayLike) -> tuple[Pixels, NDArray[np.int32]]:
        """See `ImageSource`."""
        chosen = np.asarray(rows)
        return self.pixels[chosen], self.sizes[chosen]


def cache_folder() -> Path:
    """Return the folder of all caches."""
    return Path(os.environ.get("VIREID_CACHE") or "~/.cache/vireid").expanduser()


def cache_key(records: Records, size: tuple[int, int]) -> str:
    """Hash everything that the decoded pixels depend on.

    Raises:
        InputError: naming the first image file that is missing.
    """
    digest = hashlib.sha256(os.fsencode(f"{CACHE_FORMAT} {size} {records.root.resolve()}"))
    for row, path in enumerate(records.path):
        status = _status(records, row)
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _status(records: Records, row: int) -> os.stat_result:
    try:
        return records.absolute(row).stat()
    except (OSError, ValueError) as error:
        raise InputError(
            f"image {records.absolute(row)} is missing: restore it or take its row out of the data set"
        ) from error


def _build(records: Records, size: tuple[int, int], folder: Path, progress: Progress | None) -> None:
    height, width = size
    shape = (len(records), height, width, 3)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        _require_space(temporary, int(np.prod(shape)))
        pixels = np.lib.format.open_memmap(temporary / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)
        _reserve(temporary / "pixels.npy")
        sizes = np.zeros((len(records), 2), dtype=np.int32)

        def fill(row: int) -> None:
            pixels[row], sizes[row] = decode(records.absolute(row), size)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, _ in enumerate(pool.map(fill, range(len(records))), start=1):
                if progress is not None:
                    progress(done, len(records))
        pixels.flush()
        with (temporary / "sizes.npy").open("wb") as stream:
            np.save(stream, sizes)
            stream.flush()
            os.fsync(stream.fileno())
        _publish(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _reserve(file: Path) -> None:
    """Take a sparse file's blocks now: a disk that fills up later kills a process that writes to the mapping."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def _publish(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(temporary)  # another process was first with the same content


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"the image cache needs {needed / 1e9:.1f} GB in {folder.parent} and {free / 1e9:.1f} GB are free: "
            "set VIREID_CACHE to a larger disk or pass --set data.cache=false"
        )
