"""Models that come with the package, called by their name wherever a bundle is asked for."""

from __future__ import annotations

from pathlib import Path

SHIPPED = "vireid-lite0"
"""A two-stream EfficientNet-Lite0, trained on synthetic people only."""


def find(bundle: Path) -> Path:
    """Return the packaged file that `bundle` names, or `bundle` itself: a file of that name goes first."""
    packaged = Path(__file__).parent / f"{bundle.name}.safetensors"
    named = bundle.parent == Path() and not bundle.is_file()
    return packaged if named and packaged.is_file() else bundle
