"""Training a refiner on the frozen features of an encoder, in the loop that trains every method."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from vireid.bundle import bundle_digest, resolve_bundle
from vireid.data.datamodule import ImageBatches, as_is, image_source, loader, training_rows
from vireid.data.sampler import epoch_batches
from vireid.data.sequences import epoch_sequences, steps_per_epoch
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.evaluation.evaluate import FeatureTable
from vireid.evaluation.refine import Refinement
from vireid.files import replacing
from vireid.methods import Method, Refiner, method_class
from vireid.methods.nformer import NFormer
from vireid.nn import fill_poses
from vireid.progress import progress_bar
from vireid.recipe import Recipe
from vireid.records import Batch, LabelMap, Records
from vireid.training.callbacks import Bundles
from vireid.training.module import TrainingModule
from vireid.training.projection import train_projection

TABLE = "features.safetensors"


def resolve_encoder(recipe: Recipe) -> Recipe:
    """Return a refiner's recipe with the encoder's bundle, image size and feature width filled in.

    Raises:
        InputError: for a refiner without an encoder, an encoder without a refiner, or a refiner as encoder.
    """
    if not issubclass(method_class(recipe.method), Refiner):
        if recipe.encoder is not None:
            raise InputError(f"method {recipe.method} refines no features: drop encoder={recipe.encoder}")
        return recipe
    if recipe.encoder is None:
        raise InputError(f"{recipe.method} refines the features of a trained model: pass --set encoder=RUN_OR_BUNDLE")
    bundle = resolve_bundle(recipe.encoder.expanduser()).resolve()
    encoder = Embedder.load(bundle)
    data = recipe.data.model_copy(update={"image_size": encoder.image_size})
    options = recipe.options.model_copy(update={"input_dim": encoder.method.embedding_dim})
    return recipe.model_copy(update={"encoder": bundle, "data": data, "options": options})


class Pool(NamedTuple):
    """What an epoch's sequences are drawn from: features (P, D) of the encoder and their columns (P,)."""

    features: Tensor
    pid: Tensor
    camid: Tensor
    modality: Tensor


class FeatureSequences(LightningDataModule):
    """The training split of a data set as features, batched by neighbourhood.

    The features of the images as they are lie in the run folder; with `sequences.pool_views=train` every epoch
    embeds new augmented views of the rows that the sampler draws.

    Attributes:
        records: the training rows.
        label_map: contiguous labels of the sorted identities.
        digest: the encoder's.
        rows: digest of the images and the columns that the features belong to.
        steps: batches per epoch.
    """

    def __init__(self, recipe: Recipe, records: Records, run: Path, console: Console | None = None) -> None:
        super().__init__()
        assert recipe.encoder is not None
        self.recipe, self.run, self.console = recipe, run, console
        self.records = training_rows(records, recipe)
        self.label_map = LabelMap.of(self.records.pid)
        self.labels = self.label_map.labels(self.records.pid)
        self.encoder = Embedder.load(recipe.encoder, precision=recipe.precision)
        self.digest = bundle_digest(recipe.encoder)
        self.rows = rows_digest(self.records)
        views = recipe.sequences.pool_views == "train"
        self.steps = steps_per_epoch(sum(map(len, self._batches(0))) if views else len(self.records), recipe.sequences)
        self.method: NFormer | None = None

    def prepare_data(self) -> None:
        """Embed the training images, unless the run folder holds their features."""
        path = self.run / TABLE
        if not path.is_file():
            with progress_bar("embedding the training images", self.console) as show:
                features = self.encoder.extract(self.records, cache=self.recipe.data.cache, progress=show)
            metadata = {"encoder": self.digest, "rows": self.rows}
            with replacing(path) as temporary:
                save_file({"global": features["global"].contiguous()}, temporary, metadata=metadata)

    def setup(self, stage: str | None = None) -> None:
        """Read the features, and train the projection of a refiner that is new."""
        path = self.run / TABLE
        with safe_open(path, framework="pt") as file:
            made_of = file.metadata()
            if made_of["encoder"] != self.digest:
                raise InputError(f"encoder {self.recipe.encoder} has changed since {path} was made: start a new run")
            if made_of.get("rows") != self.rows:
                data = f"{self.recipe.data.name} at {self.recipe.data.root}"
                raise InputError(f"{data} has other training images than {path}: restore it or start a new run")
            self.table: Tensor = file.get_tensor("global")
        if self.method is not None and self.method.projection is not None and not self.trained:
            train_projection(self.method, self.table, self.labels, self.records.modality, self.recipe)

    def attach(self, method: Method, trained: bool) -> None:
        """Take the refiner whose projection features go through; `trained` says that a checkpoint will bring that."""
        assert isinstance(method, NFormer)
        self.method, self.trained = method, trained

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the loader of the trainer's current epoch."""
        assert self.trainer is not None
        assert self.method is not None
        epoch = self.trainer.current_epoch
        pool = self.views(epoch) if self.recipe.sequences.pool_views == "train" else self.images()
        device = next(self.method.parameters()).device
        tokens = self.method.project(pool.features.to(device)).cpu()
        unit = torch.nn.functional.normalize(tokens, dim=1)
        raw = self.method.options.input_norm == "reference"
        batches = epoch_sequences(
            tokens if raw else unit,
            pool.modality.numpy(),
            self.recipe.sequences,
            seed=self.recipe.seed,
            epoch=epoch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return DataLoader(SequenceBatches(pool._replace(features=tokens), batches), batch_size=None, collate_fn=as_is)

    def images(self) -> Pool:
        """Return the pool of all training images as they are."""
        columns = (self.labels, self.records.camid, self.records.modality)
        return Pool(self.table, *map(torch.from_numpy, columns))

    def views(self, epoch: int) -> Pool:
        """Return the pool of one epoch's augmented views."""
        parts = [self._embed(batch) for batch in self._augmented(epoch)]
        return Pool(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _augmented(self, epoch: int) -> Iterator[Batch]:
        source = image_source(self.records, self.recipe.data.image_size, self.recipe.data.cache)
        dataset = ImageBatches(self.records, source, self.labels)
        batches = [batch.tolist() for batch in self._batches(epoch)]
        method = self.encoder.method
        for step, batch in enumerate(loader(dataset, batches, self.recipe.data.workers)):
            seed = np.random.SeedSequence((self.recipe.seed, epoch, step)).generate_state(1, np.uint64)[0] >> 1
            generator = Generator().manual_seed(int(seed))
            if "keypoints" in method.side_inputs:  # templates move with their images
                batch = replace(batch, keypoints=fill_poses(batch.keypoints, batch.images))
            yield self.recipe.augment(batch, method.mean, method.std, generator, epoch)

    @torch.inference_mode()
    def _embed(self, batch: Batch) -> Pool:
        encoder = self.encoder
        images = batch.images.to(encoder.device, memory_format=encoder.precision.memory_format)
        features = encoder.forward(images, batch.modality.to(encoder.device), batch.keypoints)["global"]
        return Pool(features.cpu(), batch.pid, batch.camid, batch.modality)

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        return epoch_batches(
            self.labels, self.records.modality, self.recipe.sampling, seed=self.recipe.seed, epoch=epoch
        )


def rows_digest(records: Records) -> str:
    """Return the SHA-256 of a table's images, identities, cameras and modalities, in their order."""
    columns = (records.path, records.pid, records.camid, records.modality)
    return hashlib.sha256(json.dumps([column.tolist() for column in columns]).encode()).hexdigest()


class SequenceBatches(Dataset[Batch]):
    """Batches in which a row is a sequence of features, see `Refiner`.

    Args:
        pool: P features.
        batches: (B, n) rows of the pool, one array per batch.
    """

    def __init__(self, pool: Pool, batches: list[NDArray[np.int64]]) -> None:
        self.pool, self.batches = pool, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        """Return one batch."""
        features, pid, camid, modality = (column[torch.from_numpy(self.batches[number])] for column in self.pool)
        return Batch(features, modality, pid, camid, torch.zeros_like(pid))


class RefinerModule(TrainingModule):
    """Trains a `Refiner`, whose batches hold features: there is nothing to augment."""

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Return the batch."""
        return batch


class RefinerBundles(Bundles):
    """Evaluates the refined features of the validation images, which are embedded once."""

    def _evaluate(self, module: TrainingModule) -> dict[str, float]:
        assert isinstance(module.method, NFormer)
        table = self._encoded
        if table is None:
            return {}
        module.method.eval()
        metrics = replace(table, refinement=Refinement(module.method)).evaluate(self.protocol).summary.mean()
        module.method.train()
        return metrics

    @cached_property
    def _encoded(self) -> FeatureTable | None:
        assert self.recipe.encoder is not None
        table = self.extract(Embedder.load(self.recipe.encoder, precision=self.recipe.precision))
        if table is None:
            return None
        self.print_metrics("encoder alone", table.evaluate(self.protocol).summary.mean())
        return table
