"""What a search asks with: a vector, where it comes from, and its fingerprint for the audit log."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from vireid.errors import InputError
from vireid.records import Modality

if TYPE_CHECKING:
    from vireid.embedder import Embedder
    from vireid.gallery.gallery import Gallery

QueryImage = str | Path | bytes | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Query:
    """One question to a gallery.

    Attributes:
        vector: (D,) float32 of norm 1.
        modality: the sensor that saw the picture; None where unknown, then no calibration applies.
        fingerprint: `sha256:…` of the picture's bytes or of the vector, or `item:ID`.
        track: a track to leave out of the answer: a stored item's own.
        picture: what was embedded, where there is one; re-ranking by parts looks at it again.
    """

    vector: NDArray[np.float32]
    modality: Modality | None
    fingerprint: str
    track: str | None = None
    picture: Image.Image | None = None

    @classmethod
    def from_vector(
        cls,
        vector: ArrayLike,
        modality: str | Modality | None = None,
        fingerprint: str | None = None,
        picture: Image.Image | None = None,
    ) -> Query:
        """Ask with an embedding (D,); any length but zero, it is normalised.

        Raises:
            InputError: for a vector that is not one finite row, or zero.
        """
        row = np.asarray(vector, np.float32)
        length = float(np.linalg.norm(row)) if row.ndim == 1 else 0.0
        if not np.isfinite(length) or length == 0:
            raise InputError(f"a query vector of shape {row.shape} is zero, not finite or no single row: embed again")
        unit = np.ascontiguousarray(row / length)
        kind = None if modality is None else Modality.parse(modality)
        return cls(unit, kind, fingerprint or _sha256(unit.tobytes()), picture=picture)

    @classmethod
    def from_image(cls, image: QueryImage, modality: str | Modality, embedder: Embedder) -> Query:
        """Ask with a picture: a path, an image file's bytes, a PIL image or (H, W, 3) uint8 pixels.

        Raises:
            InputError: when it cannot be decoded.
        """
        picture = _decoded(image)
        vector = embedder.embed([picture], modality)[0]
        return cls.from_vector(vector, modality, image_fingerprint(image), picture)

    @classmethod
    def from_item(cls, gallery: Gallery, item_id: str) -> Query:
        """Ask with a stored item; its own track is left out of the answer.

        Raises:
            InputError: when there is no such item.
        """
        item, crop = gallery.item(item_id), gallery.crop(item_id)
        vector = gallery.vectors([item_id])[0]
        return cls(vector, item.modality, f"item:{item_id}", item.track, None if crop is None else _decoded(crop))


def image_fingerprint(image: QueryImage) -> str:
    """Return `sha256:` and the digest of a file's bytes, or of the pixels where there is no file."""
    if isinstance(image, str | Path):
        return _sha256(_file(image).read_bytes())
    return _sha256(image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes())


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _file(image: str | Path) -> Path:
    if not Path(image).is_file():
        raise InputError(f"there is no query picture {image}: check the path")
    return Path(image)


def _decoded(image: QueryImage) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    source = io.BytesIO(image) if isinstance(image, bytes) else _file(image)
    try:
        picture = Image.open(source)
        picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        name = "sent" if isinstance(image, bytes) else str(image)
        raise InputError(f"the query picture {name} cannot be read: give a whole JPEG or PNG file") from error
    return picture
