"""vireid: visible-infrared person re-identification.

>>> model = vireid.load("best.safetensors")
>>> night = model.embed(["query.jpg"], modality="infrared")
>>> day = model.embed(["a.jpg", "b.jpg"], modality="visible")
>>> ranking = (night @ day.T).argsort()[:, ::-1]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["METHODS", "Embedder", "Gallery", "InputError", "Modality", "__version__", "load"]

_HOMES = {
    "METHODS": "vireid.methods",
    "Embedder": "vireid.embedder",
    "Gallery": "vireid.gallery",
    "InputError": "vireid.errors",
    "Modality": "vireid.records",
}

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from vireid.embedder import Embedder
    from vireid.errors import InputError
    from vireid.gallery import Gallery
    from vireid.methods import METHODS
    from vireid.records import Modality


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vireid' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def load(path: str | Path, device: torch.device | None = None) -> Embedder:
    """Open a bundle for embedding.

    Args:
        path: a `.safetensors` bundle, such as a run's `best.safetensors`, or `vireid-lite0`, which ships.
        device: default: CUDA when there is one.

    Raises:
        InputError: when the file is no bundle.
    """
    from vireid.embedder import Embedder

    return Embedder.load(path, device)
