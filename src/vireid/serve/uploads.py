"""From the bytes that a stranger sends to pixels that are safe to use."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO

from PIL import Image

from vireid.data.images import upright
from vireid.errors import InputError

_SIDE = 1024
_QUALITY = 92
_SCANS = 500
"""Progressive JPEGs have about ten scans; a decoder passes over the whole picture for each."""


class UnreadablePicture(InputError):
    """An upload that is no picture the service takes."""


class TooLarge(InputError):
    """A request with more pixels than the service takes."""


def picture_format(data: bytes) -> str | None:
    """Return JPEG, PNG or WEBP by a file's first bytes, None for anything else. Names and headers are not asked."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def read_picture(data: bytes, max_pixels: int) -> Image.Image:
    """Decode an upload: upright, RGB, without any metadata; of a phone's JPEG of several pictures the first.

    Args:
        data: an encoded JPEG, PNG or WebP file.
        max_pixels: bound on width × height, checked before decoding.

    Raises:
        UnreadablePicture: for another type, 16-bit grey, an animation, a JPEG of very many scans or a damaged file.
        TooLarge: for too many pixels.
    """
    kind = picture_format(data)
    if kind is None:
        raise UnreadablePicture("the upload is no JPEG, PNG or WebP file: convert the picture to one of them")
    if kind == "JPEG" and data.count(b"\xff\xda") > _SCANS:
        raise UnreadablePicture(f"the JPEG has more than {_SCANS} scans: save it again without progression")
    try:
        with Image.open(BytesIO(data), formats=[kind]) as image:
            if image.width * image.height > max_pixels:
                raise TooLarge(f"the picture has {image.width} × {image.height} pixels: shrink it below {max_pixels:,}")
            if kind != "JPEG" and getattr(image, "n_frames", 1) > 1:
                raise UnreadablePicture("the picture is animated: send one still")
            picture = upright(image)
    except (UnreadablePicture, TooLarge):
        raise
    except InputError as error:
        raise UnreadablePicture(str(error)) from error
    except Image.DecompressionBombError:
        raise TooLarge(f"the picture has too many pixels: shrink it below {max_pixels:,}") from None
    except Exception as error:  # decoders answer hostile bytes with exceptions of every kind
        raise UnreadablePicture("the picture is damaged and cannot be decoded: send another copy") from error
    picture.info.clear()
    return picture


def encode_crops(files: Iterable[bytes | None], max_pixels: int) -> list[bytes | None]:
    """Return uploads as galleries store crops, None where there is none.

    Args:
        files: encoded pictures, see `read_picture`.
        max_pixels: bound on the pixels of all together.

    Raises:
        UnreadablePicture: as `read_picture`.
        TooLarge: for too many pixels.
    """
    crops: list[bytes | None] = []
    left = max_pixels
    for data in files:
        if data is None:
            crops.append(None)
            continue
        try:
            picture = read_picture(data, left)
        except TooLarge:
            sentence = f"the pictures have more than {max_pixels:,} pixels together: send smaller ones, or fewer"
            raise TooLarge(sentence) from None
        left -= picture.width * picture.height
        crops.append(encode_crop(picture))
    return crops


def encode_crop(picture: Image.Image) -> bytes:
    """Return a picture as a JPEG file without metadata, as galleries store crops; shrinks it to 1024 pixels a side."""
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
