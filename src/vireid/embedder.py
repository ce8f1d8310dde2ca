"""From images to features: the one path that training, evaluation and search share."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vireid.allocator import kept_memory
from vireid.bundle import BundleCard, load_bundle
from vireid.data.augment import flip_keypoints, standardize
from vireid.data.datamodule import ImageBatches, image_source, loader
from vireid.data.images import ImageLike, Progress, image_list, pixels_of
from vireid.errors import InputError
from vireid.methods import Features, Method, Refiner
from vireid.nn import has_pose
from vireid.precision import Precision, Wanted, choose_precision, default_device
from vireid.records import Batch, Modality, Records

BATCH_SIZE = 128
"""Images per forward pass, where features are extracted from a table."""


class Embedder:
    """A method ready to use: preprocessing, precision and device included.

    Args:
        method: in eval mode when it is used.
        image_size: (H, W) that images are resized to.
        device: default: CUDA when there is one.
        card: the bundle's metadata, where the method comes from a bundle.
        precision: see `choose_precision`.
    """

    def __init__(
        self,
        method: Method,
        image_size: tuple[int, int],
        device: torch.device | None = None,
        card: BundleCard | None = None,
        precision: Wanted = "auto",
    ) -> None:
        self.device = device or default_device()
        self.method = method.to(self.device)
        self.image_size = image_size
        self.card = card
        self.precision: Precision = choose_precision(method, self.device, precision)
        self.method.to(memory_format=self.precision.memory_format)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: torch.device | None = None,
        options: dict[str, Any] | None = None,
        precision: Wanted = "auto",
    ) -> Embedder:
        """Open a bundle, see `vireid.load`; `options` replace the bundle's own at test time."""
        method, card = load_bundle(Path(path), options)
        if isinstance(method, Refiner):
            raise InputError(f"bundle {path} refines features and sees no images: open its encoder's bundle")
        return cls(method, card.image_size, device, card, precision)

    @property
    def embedding_dim(self) -> int:
        """D of the `global` feature."""
        return self.method.embedding_dim

    def embed(
        self, images: Iterable[ImageLike], modality: str | Modality = "infrared", batch_size: int = 64
    ) -> NDArray[np.float32]:
        """Return the L2-normalised `global` features (N, D) of images of one modality.

        Args:
            images: paths, PIL images or (H, W, 3) uint8 arrays, any sizes.
            modality: the sensor that saw them.
            batch_size: images per forward pass.

        Raises:
            InputError: for an image that cannot be read, or an array of another shape or type.
        """
        items = image_list(images, batch_size)
        kind = Modality.parse(modality)
        self._warn(pose_notice(self.method, None, len(items)))
        out = np.zeros((len(items), self.embedding_dim), dtype=np.float32)
        for start in range(0, len(items), batch_size):
            chunk = items[start : start + batch_size]
            features = self.features_of(chunk, [kind] * len(chunk))
            out[start : start + len(chunk)] = features["global"].cpu().numpy()
        return out

    def extract(
        self,
        records: Records,
        *,
        rows: NDArray[np.int64] | None = None,
        batch_size: int = BATCH_SIZE,
        flip: bool = False,
        cache: bool = True,
        progress: Progress | None = None,
    ) -> Features:
        """Return the features of a table of images, on the CPU, rows in the table's order.

        Args:
            records: images of any modality.
            rows: (N,) those to embed, in this order, at least one; default: all.
            batch_size: images per forward pass.
            flip: average the features of each image and its mirror image.
            cache: keep decoded images, those of all records, in the image cache.
            progress: called with (images done, N).
        """
        self._warn(pose_notice(self.method, records.keypoints, len(records)))
        dataset = ImageBatches(records, image_source(records, self.image_size, cache), records.pid)
        rows = np.arange(len(records)) if rows is None else rows
        batches = [rows[i : i + batch_size].tolist() for i in range(0, len(rows), batch_size)]
        parts: list[Features] = []
        with kept_memory(self.device):
            for index, batch in enumerate(loader(dataset, batches)):
                parts.append({name: value.cpu() for name, value in self.features(batch, flip).items()})
                if progress is not None:
                    progress(min((index + 1) * batch_size, len(rows)), len(rows))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def features_of(self, images: Sequence[ImageLike], modality: Sequence[int], flip: bool = False) -> Features:
        """Return the method's features of images (N,) of any size and their modalities (N,), in one forward pass.

        Args:
            images: paths, PIL images or (H, W, 3) uint8 arrays.
            modality: the sensor that saw each.
            flip: see `features`.

        Raises:
            InputError: as `embed`.
        """
        seen = zip(images, map(Modality, modality), strict=True)
        pixels = torch.from_numpy(np.stack([pixels_of(image, self.image_size, kind) for image, kind in seen]))
        kinds = torch.tensor(modality, dtype=torch.int64)
        unknown = torch.zeros_like(kinds)
        return self.features(Batch(pixels.permute(0, 3, 1, 2), kinds, pid=unknown, camid=unknown, view=unknown), flip)

    @torch.inference_mode()
    def features(self, batch: Batch, flip: bool = False) -> Features:
        """Return the method's features of a uint8 batch (N, 3, H, W), on the method's device.

        With `flip`, each vector is the renormalised mean of the unit vectors of the image and its mirror image, as
        in CAJ's test script; maps and stripes, which are no unit vectors, are averaged as they are.
        """
        images = self.normalize(batch.images)
        modality = batch.modality.to(self.device)
        features = self.forward(images, modality, batch.keypoints)
        if not flip:
            return features
        points = None if batch.keypoints is None else flip_keypoints(batch.keypoints, images.shape[3])
        mirrored = self.forward(images.flip(3), modality, points)
        return {name: _mean(value, mirrored[name]) for name, value in features.items()}

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 images (N, 3, H, W) as the method reads them, on its device, in its memory format."""
        images = images.to(self.device).to(memory_format=self.precision.memory_format)
        return standardize(images.float() / 255, self.method.mean, self.method.std)

    def forward(self, images: Tensor, modality: Tensor, keypoints: Tensor | None) -> Features:
        """Return the method's features of normalised images (N, 3, H, W) on the device, in the embedder's precision.

        Args:
            images: see `normalize`.
            modality: (N,), on the device.
            keypoints: (N, 18, 3) in pixels of the images; methods without a use for them leave them.
        """
        side = {}
        if "keypoints" in self.method.side_inputs and keypoints is not None:
            side["keypoints"] = keypoints.to(self.device)
        with self.precision.autocast(self.device):
            return self.method.features(images, modality, **side)

    def _warn(self, notice: str | None) -> None:
        if notice is not None:
            warnings.warn(notice, stacklevel=3)


def pose_notice(method: Method, keypoints: NDArray[np.float32] | None, count: int) -> str | None:
    """Return a sentence that counts the images without a pose, None when the method needs none or all have one.

    Args:
        method: the method that images go to.
        keypoints: (count, 18, 3) as in `Records.keypoints`, or None.
        count: number of images.
    """
    if "keypoints" not in method.side_inputs:
        return None
    posed = 0 if keypoints is None else int(has_pose(torch.from_numpy(keypoints)).sum())
    if posed == count:
        return None
    return f"{count - posed} of {count} images have no keypoints and get a standing template: find them by vireid pose"


def _mean(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.normalize(a + b, dim=-1) if a.ndim == 2 else (a + b) / 2
