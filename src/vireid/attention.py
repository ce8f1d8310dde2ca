"""What `vireid plots attention` does: images in, one figure of where a method looks out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from vireid.data.images import pixels_of
from vireid.embed import find_images
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.files import replacing
from vireid.methods import METHODS
from vireid.plots import attention_figure
from vireid.records import Modality

BATCH_SIZE = 32
"""Images per forward pass."""


def draw_attention(bundle: Path, places: Iterable[Path], modality: str, out: Path) -> int:
    """Draw image files of one modality with the attention that a method's `attention(images, modality)` gives them.

    Args:
        bundle: of a method that offers `attention`, (N, 3, H, W), (N,) -> (N, H', W').
        places: image files or folders.
        modality: the sensor that saw them.
        out: PNG file.

    Returns:
        the number of images.

    Raises:
        InputError: when the method offers no attention, or an image cannot be read.
    """
    kind = Modality.parse(modality)
    embedder = Embedder.load(bundle)
    method = embedder.method
    attend = getattr(method, "attention", None)
    if attend is None:
        able = ", ".join(sorted(name for name, cls in METHODS.items() if hasattr(cls, "attention")))
        raise InputError(f"bundle {bundle}: {type(method).__name__} has no attention maps; these methods have: {able}")
    pixels = np.stack([pixels_of(path, embedder.image_size, kind) for path in find_images(places)])
    modalities = torch.full((len(pixels),), int(kind), device=embedder.device)
    maps = []
    with torch.inference_mode(), embedder.precision.autocast(embedder.device):
        for images, chunk in zip(torch.from_numpy(pixels).split(BATCH_SIZE), modalities.split(BATCH_SIZE), strict=True):
            maps.append(attend(embedder.normalize(images.permute(0, 3, 1, 2)), chunk).float().cpu())
    with replacing(out) as temporary:
        attention_figure(pixels, {"attention": torch.cat(maps).numpy()}).savefig(temporary, format="png", dpi=120)
    return len(pixels)
