"""From a bundle to ONNX: one plain graph per modality, compared with PyTorch before it is written.

A method routes rows by modality, which depends on data. Tracing it with images of one modality leaves that modality's
path alone, with no routing in the graph; CMTR's modality embedding is folded into its position table.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vireid.bundle import BundleCard
from vireid.data.augment import standardize
from vireid.data.images import Pixels
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.files import replacing
from vireid.methods import Method
from vireid.methods.base import normalize
from vireid.methods.cmtr import CMTR
from vireid.onnx_embedder import CARD, SUFFIX, OnnxEmbedder, graph_file
from vireid.quantize import calibration_images, quantize
from vireid.records import Modality, Records

ExportPrecision = Literal["fp32", "fp16", "int8"]

OPSET = 17
BATCH_SIZES = (1, 5)
"""Sizes that a graph is compared with PyTorch at; the trace itself sees another, so a size baked into it shows."""
MAX_ANGLE: dict[ExportPrecision, float] = {"fp32": 1e-3, "fp16": 1e-3, "int8": 0.1}
"""Largest 1 - cosine of an embedding and PyTorch's."""
MAX_ERROR = 1e-4
"""Largest absolute difference of an fp32 graph's entries from PyTorch's."""


@dataclass(frozen=True)
class Exported:
    """A written graph and how far it is from PyTorch in float32, on random images or, for int8, on those given.

    Attributes:
        file: where it is.
        error: largest absolute difference of an entry of the unit vectors.
        angle: largest 1 - cosine.
    """

    file: Path
    error: float
    angle: float


class EmbeddingGraph(nn.Module):
    """uint8 RGB images (N, H, W, 3) of one modality -> the `global` features (N, D) of a method.

    With `half`, convolutions and products run in float16, and what the method keeps in float32 stays there.
    """

    def __init__(self, method: Method, modality: Modality, half: bool) -> None:
        super().__init__()
        self.method, self.modality, self.half_precision = method, int(modality), half
        self.plain = method.folded()[modality] if isinstance(method, CMTR) else None

    def forward(self, images: Tensor) -> Tensor:
        """Normalise and embed."""
        pixels = standardize(images.permute(0, 3, 1, 2).float() / 255, self.method.mean, self.method.std)
        modality = torch.full((images.shape[0],), self.modality, dtype=torch.int64)
        with torch.autocast("cpu", dtype=torch.float16, enabled=self.half_precision, cache_enabled=False):
            if self.plain is not None:
                return normalize(self.plain(pixels))
            return self.method.features(pixels, modality)["global"]


def export_onnx(
    bundle: Path, out: Path, precision: ExportPrecision = "fp32", images: Records | None = None
) -> list[Exported]:
    """Write `NAME.visible.onnx` and `NAME.infrared.onnx` of a bundle.

    Args:
        bundle: a method's bundle.
        out: folder, the files being named after the bundle, or `NAME.onnx`.
        precision: of weights and products.
        images: of both modalities, which int8 is calibrated by.

    Raises:
        InputError: for a refiner's bundle, for int8 without images or images without int8, or when a graph differs
            from PyTorch; then neither is written.
    """
    _require_onnx()
    if (precision == "int8") != (images is not None):
        raise InputError("int8 is calibrated by images and nothing else is: pass --precision int8 and --calibrate DIR")
    embedder = Embedder.load(bundle, torch.device("cpu"), precision="32")
    name = out if out.suffix == SUFFIX else out / f"{bundle.stem}{SUFFIX}"
    size = embedder.image_size
    fitted = {kind: None if images is None else calibration_images(images, kind, size) for kind in Modality}
    with ExitStack() as both:  # the pair, or neither
        files = {kind: graph_file(name, kind) for kind in Modality}
        drafts = {kind: both.enter_context(replacing(file)) for kind, file in files.items()}
        return [write_graph(embedder, kind, files[kind], drafts[kind], precision, fitted[kind]) for kind in Modality]


def write_graph(
    embedder: Embedder,
    modality: Modality,
    path: Path,
    draft: Path,
    precision: ExportPrecision = "fp32",
    images: Pixels | None = None,
) -> Exported:
    """Write the graph of one modality at `draft`, and compare it with PyTorch.

    Args:
        embedder: of a bundle, on the CPU, in float32.
        modality: that the graph is for.
        path: what it will be called.
        draft: where it is until the caller keeps it.
        precision: see `export_onnx`.
        images: (N, H, W, 3) of the modality, for int8.

    Raises:
        InputError: when the graph differs from PyTorch by more than `MAX_ANGLE` or, in fp32, `MAX_ERROR`.
    """
    if embedder.card is None:
        raise InputError(f"{path} would have no card: export a bundle")
    _trace(embedder, modality, draft, precision)
    judged = None
    if images is not None:
        quantize(draft, images[::2])
        judged = np.array_split(images[1::2], 8)
    _describe(draft, embedder, embedder.card, modality, precision)
    error, angle = compare(OnnxEmbedder(draft).embed, embedder, modality, judged)
    if not (angle <= MAX_ANGLE[precision] and (precision != "fp32" or error <= MAX_ERROR)):
        remedy = "export it as fp32" if precision != "fp32" else f"report method {embedder.card.method}"
        raise InputError(
            f"{path} was not written: as {precision} it differs from PyTorch by {error:.1e} in an entry and "
            f"{angle:.1e} in cosine; {remedy}"
        )
    return Exported(path, error, angle)


def compare(
    embed: Callable[[list[Pixels], Modality, int], NDArray[np.float32]],
    embedder: Embedder,
    modality: Modality,
    batches: Iterable[Pixels] | None = None,
) -> tuple[float, float]:
    """Return the largest absolute difference and the largest 1 - cosine from PyTorch.

    Args:
        embed: (images, modality, batch size) -> (N, D), what is compared.
        embedder: the reference.
        modality: of the images.
        batches: images (N, H, W, 3); default: random ones of `BATCH_SIZES`.
    """
    errors, angles = [], []
    for images in batches or _random_batches(embedder.image_size):
        expected = embedder.features_of(list(images), [modality] * len(images))["global"].cpu().numpy()
        found = embed(list(images), modality, len(images))
        errors.append(np.abs(found - expected).max())
        angles.append((1 - (found * expected).sum(1) / np.linalg.norm(found, axis=1)).max())
    return float(np.max(errors)), float(np.max(angles))


def _random_batches(size: tuple[int, int]) -> Iterator[Pixels]:
    rng = np.random.default_rng(0)
    for count in BATCH_SIZES:
        yield rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)


def preprocessing(embedder: Embedder) -> str:
    """Say how to feed a graph, for its metadata."""
    (height, width), method = embedder.image_size, embedder.method
    joints = " Every image gets a standing template for its joints." if "keypoints" in method.side_inputs else ""
    return (
        f"Input `images`: uint8 RGB (N, {height}, {width}, 3), turned upright as their EXIF data say, resized by "
        "Lanczos, infrared as three equal channels. "
        f"The graph itself divides by 255 and normalises by mean {list(method.mean)} and std {list(method.std)}."
        f"{joints}"
    )


def _trace(embedder: Embedder, modality: Modality, path: Path, precision: ExportPrecision) -> None:
    graph = EmbeddingGraph(embedder.method, modality, precision == "fp16").eval()
    example = torch.zeros(max(BATCH_SIZES) + 2, *embedder.image_size, 3, dtype=torch.uint8)
    names = ("images", "embedding")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every Python number: `compare` is the judge
        torch.onnx.export(
            graph,
            (example,),
            str(path),
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=OPSET,
            dynamo=False,
        )


def _describe(path: Path, embedder: Embedder, card: BundleCard, modality: Modality, precision: ExportPrecision) -> None:
    import onnx

    model = onnx.load(path)
    properties = {
        CARD: card.model_dump_json(),
        "method": card.method,
        "modality": str(modality),
        "precision": precision,
        "image_size": json.dumps(card.image_size),
        "mean": json.dumps(card.mean),
        "std": json.dumps(card.std),
        "preprocessing": preprocessing(embedder),
        "license": card.license,
        "limits": card.limits,
    }
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)


def _require_onnx() -> None:
    for name in ("onnx", "onnxruntime"):
        if find_spec(name) is None:
            raise InputError(f"export needs {name}: pip install '.[onnx]' in the checkout")
