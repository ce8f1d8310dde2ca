"""From images to vectors with ONNX Runtime, Pillow and NumPy: nothing here imports PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vireid.data.images import ImageLike, image_list, pixels_of
from vireid.errors import InputError
from vireid.records import Modality

SUFFIX = ".onnx"
CARD = "vireid"
"""Key of the metadata that holds the bundle's card as JSON."""
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class OnnxEmbedder:
    """The graphs that `vireid export` writes, used as an `Embedder` is.

    Args:
        path: one graph, or `NAME.onnx` for the pair `NAME.visible.onnx` and `NAME.infrared.onnx`.
        threads: that share the work of a forward pass; 0: one per core.

    Attributes:
        card: the bundle's card as a dict.
        image_size: (H, W) that images are resized to.
        embedding_dim: D.

    Raises:
        InputError: when a file is missing or was not written by `vireid export`, when the two are of different bundles,
            or when ONNX Runtime is not installed.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        files = [path] if path.is_file() else [graph_file(path, modality) for modality in Modality]
        self.path = path
        self._sessions = dict(_open(file, threads) for file in files)
        if len({_metadata(session)[CARD] for session in self._sessions.values()}) > 1:
            raise InputError(f"the two graphs of {path} are of different bundles: export them again together")
        first = next(iter(self._sessions.values()))
        self.card: dict[str, Any] = json.loads(_metadata(first)[CARD])
        height, width = self.card["image_size"]
        self.image_size: tuple[int, int] = (height, width)
        self.embedding_dim: int = first.get_outputs()[0].shape[1]

    def embed(
        self, images: Iterable[ImageLike], modality: str | Modality = "infrared", batch_size: int = 64
    ) -> NDArray[np.float32]:
        """Return L2-normalised features (N, D) of images of one modality, see `Embedder.embed`.

        Raises:
            InputError: for a bad image, or a modality that the file was not exported for.
        """
        items, kind = image_list(images, batch_size), Modality.parse(modality)
        if kind not in self._sessions:
            (own,) = self._sessions
            raise InputError(f"{self.path} embeds {own} images, not {kind}: name the file of the other modality")
        out = np.zeros((len(items), self.embedding_dim), dtype=np.float32)
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            pixels = np.stack([pixels_of(image, self.image_size, kind) for image in batch])
            (out[start : start + batch_size],) = self._sessions[kind].run(None, {"images": pixels})
        return out


def graph_file(path: Path, modality: Modality) -> Path:
    """Return the file of a modality's graph: `NAME.onnx` -> `NAME.visible.onnx`."""
    return path.with_suffix(f".{modality}{SUFFIX}")


def _open(path: Path, threads: int) -> tuple[Modality, Any]:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise InputError("ONNX models need onnxruntime: pip install '.[onnx]' in the checkout") from error
    if not path.is_file():
        raise InputError(f"model {path}: no such file; write it by vireid export")
    available = onnxruntime.get_available_providers()
    try:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=[p for p in PROVIDERS if p in available])
    except Exception as error:  # ONNX Runtime's errors share no base class
        reason = type(error).__name__
        raise InputError(f"{path} cannot be opened as an ONNX model ({reason}): export it again") from error
    if CARD not in _metadata(session):
        raise InputError(f"{path} is an ONNX model without vireid metadata: write it by vireid export")
    return Modality.parse(_metadata(session)["modality"]), session


def _metadata(session: Any) -> dict[str, str]:
    return session.get_modelmeta().custom_metadata_map
