"""What happens between epochs: evaluation, bundles, and a line of text for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.console import Console

from vireid.bundle import BundleCard, save_bundle
from vireid.embedder import Embedder
from vireid.evaluation.evaluate import FeatureTable, on_split, protocol_splits
from vireid.evaluation.protocols import Protocol
from vireid.recipe import Recipe
from vireid.records import Records
from vireid.training.module import TrainingModule

SELECT = "mAP"
"""The validation metric that chooses the best bundle."""


class LossBar(RichProgressBar):
    """A progress bar that shows each loss term to three digits."""

    def __init__(self) -> None:
        super().__init__(leave=False, console_kwargs={"stderr": False})

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the loss terms without Lightning's version number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in metrics.items()}


class Bundles(Callback):
    """Evaluates every n epochs on the rank-zero device; writes `last` after each epoch and `best` by mAP.

    The best value is part of the checkpoint, so a resumed run keeps its best bundle.
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

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint left off."""
        self.best = state_dict["best"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate if it is due, then write the bundles."""
        assert isinstance(pl_module, TrainingModule)
        epoch = trainer.current_epoch + 1
        metrics: dict[str, float] = {}
        every = self.recipe.validation.every
        due = epoch == self.recipe.epochs or (every and epoch % every == 0)
        if due and len(self.records) and trainer.is_global_zero:
            metrics = self._evaluate(pl_module)
            pl_module.log_dict({f"{self.split}/{k}": v for k, v in metrics.items()}, rank_zero_only=True)
            self.console.print(
                f"epoch {epoch}/{self.recipe.epochs}  {self.split} {self.protocol.name}  "
                + "  ".join(f"{name} {100 * metrics[name]:.1f}" for name in ("rank1", "mAP", "mINP"))
            )
        if not trainer.is_global_zero:
            return
        card = self.card.model_copy(update={"epochs": epoch, "metrics": metrics})
        if metrics and metrics[SELECT] > self.best.get(SELECT, -1.0):
            self.best = metrics
            chosen = card.model_copy(update={"selection": f"best {SELECT} on {self.split}"})
            save_bundle(self.run / "best.safetensors", pl_module.method, chosen)
        save_bundle(self.run / "last.safetensors", pl_module.method, card)

    def _evaluate(self, module: TrainingModule) -> dict[str, float]:
        validation = self.recipe.validation
        module.method.eval()
        embedder = Embedder(module.method, self.recipe.data.image_size, module.device)
        table = FeatureTable.extract(embedder, self.records, flip=validation.flip, cache=self.recipe.data.cache)
        module.method.train()
        return table.evaluate(self.protocol, feature=validation.feature).summary.mean()


def validation_split(recipe: Recipe, records: Records, protocol: Protocol) -> str:
    """Return `val` or `test`, as the recipe says or, by default, `val` where the data set has one."""
    if recipe.validation.split != "auto":
        return recipe.validation.split
    both = all(len(side.rows(records)) for side in (on_split(protocol, "val").query, on_split(protocol, "val").gallery))
    return "val" if both else "test"
