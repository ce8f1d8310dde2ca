"""What happens between epochs: evaluation, bundles, and a line of text for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from numpy.typing import NDArray
from rich.console import Console

from vireid.bundle import BundleCard, save_bundle
from vireid.data.datamodule import image_source
from vireid.data.images import Progress
from vireid.embedder import BATCH_SIZE, Embedder
from vireid.errors import InputError
from vireid.evaluation.distances import DistanceBlock
from vireid.evaluation.evaluate import FeatureTable, on_split, protocol_splits
from vireid.evaluation.protocols import Index, Protocol
from vireid.evaluation.trials import evaluate_distances
from vireid.methods import Method
from vireid.recipe import Recipe
from vireid.records import Records
from vireid.training.module import TrainingModule
from vireid.training.ranks import Ranks, average_statistics


class LossBar(RichProgressBar):
    """A progress bar that counts epochs from 1 and shows each loss term to three digits."""

    def __init__(self) -> None:
        super().__init__(leave=False, console_kwargs={"stderr": False})

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the loss terms without Lightning's version number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in metrics.items()}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"


class Bundles(Callback):
    """Evaluates every n epochs; writes `last` after each epoch and `best` by `validation.select`.

    All ranks embed, rank zero ranks and writes. The best value is part of the checkpoint, so a resumed run keeps its
    best bundle.
    """

    def __init__(
        self, run: Path, recipe: Recipe, card: BundleCard, records: Records, protocol: Protocol, console: Console
    ) -> None:
        split = validation_split(recipe, records, protocol)
        self.run, self.recipe, self.card, self.console = run, recipe, card, console
        self.protocol = on_split(protocol, split) if split == "val" else protocol
        self.records = records.where(split=protocol_splits(self.protocol))
        self.split = split
        self.best: dict[str, float] = {}
        self.ranks = Ranks()

    def check(self, progress: Progress | None = None) -> None:
        """Rehearse the evaluation with equal distances, and open its images, before an epoch is spent.

        Raises:
            InputError: for a split that the recipe names and the data lack, images that the protocol cannot rank, or
                an image that cannot be read.
        """
        if len(self.records):
            evaluate_distances(self.protocol, self.records, _equal)
            source = image_source(self.records, self.recipe.data.image_size, self.recipe.data.cache, progress)
            if not self.recipe.data.cache:
                for rows in batched_rows(len(self.records)):
                    source.read(rows)
        elif self.recipe.validation.split != "auto":
            lacks = f"{self.recipe.data.name} has no image of it for {self.protocol.name}"
            raise InputError(f"validation.split={self.split}: {lacks}, use auto or add some")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the ranks that train."""
        assert isinstance(pl_module, TrainingModule)
        self.ranks = pl_module.ranks

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint left off."""
        self.best = state_dict["best"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate if it is due, then write the bundles; Lightning writes its checkpoint after this."""
        assert isinstance(pl_module, TrainingModule)
        pl_module.require_finite()
        epoch = trainer.current_epoch + 1
        average_statistics(pl_module.method, self.ranks.size)
        every = self.recipe.validation.every
        due = epoch == self.recipe.epochs or (every and epoch % every == 0)
        metrics = self._evaluate(pl_module) if due and len(self.records) else {}
        if metrics:
            pl_module.log_dict({f"{self.split}/{k}": v for k, v in metrics.items()}, rank_zero_only=True)
            self.print_metrics(f"epoch {epoch}/{self.recipe.epochs}", metrics)
        if trainer.is_global_zero:
            self._write(pl_module.method, epoch, metrics)
        self.ranks.wait()

    def print_metrics(self, what: str, metrics: dict[str, float]) -> None:
        """Print rank-1, mAP and mINP of something in one line."""
        shown = "  ".join(f"{name} {100 * metrics[name]:.1f}" for name in ("rank1", "mAP", "mINP"))
        self.console.print(f"{what}  {self.split} {self.protocol.name}  {shown}")

    def extract(self, embedder: Embedder) -> FeatureTable | None:
        """Embed the validation images, each rank a share of the batches; rank zero gets the table, others None."""
        flip, cache, size = self.recipe.validation.flip, self.recipe.data.cache, self.ranks.size
        if self.ranks.local_rank == 0 and size > 1:
            image_source(self.records, embedder.image_size, cache)
        self.ranks.wait()
        shares = share_rows(len(self.records), size)
        own = shares[self.ranks.rank]
        part = embedder.extract(self.records, rows=own, flip=flip, cache=cache) if len(own) else {}
        parts = [part for part in self.ranks.gather(part) if part]
        if not parts:
            return None
        place = torch.from_numpy(np.argsort(np.concatenate(shares)))
        features = {name: torch.cat([part[name] for part in parts])[place] for name in parts[0]}
        return FeatureTable.of(embedder, self.records, features, flip=flip)

    def _evaluate(self, module: TrainingModule) -> dict[str, float]:
        """Return the metrics on rank zero, nothing elsewhere."""
        module.method.eval()
        size, precision = self.recipe.data.image_size, self.recipe.precision
        table = self.extract(Embedder(module.method, size, module.device, precision=precision))
        module.method.train()
        if table is None:
            return {}
        return table.evaluate(self.protocol, feature=self.recipe.validation.feature).summary.mean()

    def _write(self, method: Method, epoch: int, metrics: dict[str, float]) -> None:
        card = self.card.model_copy(update={"epochs": epoch, "metrics": metrics})
        select = self.recipe.validation.select
        if metrics and metrics[select] > self.best.get(select, -1.0):
            self.best = metrics
            chosen = card.model_copy(update={"selection": f"best {select} on {self.split}"})
            save_bundle(self.run / "best.safetensors", method, chosen)
        save_bundle(self.run / "last.safetensors", method, card)


def _equal(query: Index, gallery: Index) -> DistanceBlock:
    return lambda rows: np.zeros((rows.stop - rows.start, len(gallery)), np.float32)


def share_rows(count: int, size: int) -> list[NDArray[np.int64]]:
    """Deal whole batches of 0..count-1 out in turn: the features are then those of one process, bit for bit."""
    batches = batched_rows(count)
    return [np.concatenate([np.arange(0), *batches[rank::size]]) for rank in range(size)]


def batched_rows(count: int) -> list[NDArray[np.int64]]:
    """Return 0..count-1 in batches, as an evaluation embeds them."""
    return [np.arange(start, min(start + BATCH_SIZE, count)) for start in range(0, count, BATCH_SIZE)]


def validation_split(recipe: Recipe, records: Records, protocol: Protocol) -> str:
    """Return `val` or `test`, as the recipe says or, by default, `val` where the data set has one."""
    if recipe.validation.split != "auto":
        return recipe.validation.split
    both = all(len(side.rows(records)) for side in (on_split(protocol, "val").query, on_split(protocol, "val").gallery))
    return "val" if both else "test"
