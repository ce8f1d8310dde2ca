"""Training data for Lightning: label map, cache, identity batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from vireid.data.images import CachedImages, DecodedImages, ImageSource, Progress
from vireid.data.sampler import epoch_batches
from vireid.errors import InputError
from vireid.recipe import Recipe
from vireid.records import Batch, LabelMap, Modality, Records


class ImageBatches(Dataset[Batch]):
    """Maps lists of rows to uint8 batches, channels last in memory.

    Args:
        records: N images.
        source: their pixels.
        labels: (N,) what becomes `Batch.pid`.
    """

    def __init__(self, records: Records, source: ImageSource, labels: NDArray[np.int64]) -> None:
        self.records, self.source, self.labels = records, source, labels

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, rows: list[int]) -> Batch:
        """Return the batch of these rows, in this order."""
        index = np.asarray(rows)
        pixels, sizes = self.source.read(index)
        return Batch(
            images=torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2),
            modality=torch.from_numpy(self.records.modality[index]),
            pid=torch.from_numpy(self.labels[index]),
            camid=torch.from_numpy(self.records.camid[index]),
            view=torch.zeros(len(index), dtype=torch.int64),
            keypoints=self._keypoints(index, sizes, pixels.shape[1:3]),
        )

    def _keypoints(
        self, index: NDArray[np.int64], sizes: NDArray[np.int32], size: tuple[int, ...]
    ) -> torch.Tensor | None:
        if self.records.keypoints is None:
            return None
        points = torch.from_numpy(self.records.keypoints[index].copy())
        scale = torch.tensor(size[::-1]) / torch.from_numpy(sizes[:, ::-1].copy())
        points[..., :2] = (points[..., :2] + 0.5) * scale[:, None, :] - 0.5
        return points


def image_source(records: Records, size: tuple[int, int], cache: bool, progress: Progress | None = None) -> ImageSource:
    """Return cached or freshly decoded pixels of a table of images."""
    return CachedImages(records, size, progress) if cache else DecodedImages(records, size)


def loader(dataset: ImageBatches, batches: list[list[int]], workers: int = 0) -> DataLoader[Batch]:
    """Return a loader that yields exactly these batches, in this order."""
    return DataLoader(dataset, batch_sampler=batches, collate_fn=as_is, num_workers=workers)


def as_is(batch: Any) -> Batch:
    """Return a batch that is one already."""
    return batch


class TrainingData(LightningDataModule):
    """The training split of a data set, batched by identity.

    Attributes:
        records: the training rows.
        label_map: contiguous labels of the sorted identities.
        steps: batches per epoch.
    """

    def __init__(self, recipe: Recipe, records: Records) -> None:
        super().__init__()
        self.recipe = recipe
        self.records = training_rows(records, recipe)
        self.label_map = LabelMap.of(self.records.pid)
        self.labels = self.label_map.labels(self.records.pid)
        self.steps = len(self._batches(epoch=0))
        self._dataset: ImageBatches | None = None

    def blank_batch(self, world_size: int = 1) -> Batch:
        """Return the first rank's first batch with black images, for what depends on who is in it and on their size."""
        rows = self._batches(0, world_size=world_size)[0]
        columns = (self.records.modality, self.labels, self.records.camid, np.zeros_like(self.labels))
        images = torch.zeros(len(rows), 3, *self.recipe.data.image_size, dtype=torch.uint8)
        return Batch(images, *(torch.from_numpy(column[rows]) for column in columns))

    def prepare_data(self) -> None:
        """Make the cache; on every machine, the first process does it while the others wait."""
        image_source(self.records, self.recipe.data.image_size, self.recipe.data.cache)

    def setup(self, stage: str | None = None) -> None:
        """Open the pixels."""
        source = image_source(self.records, self.recipe.data.image_size, self.recipe.data.cache)
        self._dataset = ImageBatches(self.records, source, self.labels)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the trainer's current epoch."""
        assert self._dataset is not None
        assert self.trainer is not None
        batches = self._batches(self.trainer.current_epoch, self.trainer.global_rank, self.trainer.world_size)
        return loader(self._dataset, [b.tolist() for b in batches], self.recipe.data.workers)

    def _batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> list[NDArray[np.int64]]:
        return epoch_batches(
            self.labels,
            self.records.modality,
            self.recipe.sampling,
            seed=self.recipe.seed,
            epoch=epoch,
            rank=rank,
            world_size=world_size,
        )


def training_rows(records: Records, recipe: Recipe) -> Records:
    """Return the rows to train on: those of the split `train` without junk (-1), thinned as the recipe says.

    Raises:
        InputError: when there are none.
    """
    train = records.where(split="train")
    train = train.take(train.pid != -1)
    if not len(train):
        raise InputError(f"data set {recipe.data.name} at {records.root} has no training images")
    return _thin(train, recipe)


def _thin(records: Records, recipe: Recipe) -> Records:
    """Keep a share of each identity's images of a modality, at least one (MAUM's imbalance experiment)."""
    shares = {Modality.VISIBLE: recipe.data.keep_visible, Modality.INFRARED: recipe.data.keep_infrared}
    if all(share == 1 for share in shares.values()):
        return records
    rng = np.random.default_rng(recipe.seed)
    kept = []
    for pid in np.unique(records.pid):
        for modality, share in shares.items():
            rows = np.flatnonzero((records.pid == pid) & (records.modality == modality))
            if len(rows):
                kept.append(rng.permutation(rows)[: max(1, round(share * len(rows)))])
    return records.take(np.sort(np.concatenate(kept)))


def describe_split(records: Records) -> str:
    """Return one line: identities, visible and infrared images, cameras."""
    visible, infrared = (int((records.modality == m).sum()) for m in Modality)
    return (
        f"{len(np.unique(records.pid))} identities, {visible} visible + {infrared} infrared images, "
        f"cameras {', '.join(map(str, np.unique(records.camid)))}"
    )
