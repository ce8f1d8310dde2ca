"""The training step of every method: phases, augmentation, schedule, and a stop at the first NaN."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from vireid.errors import InputError
from vireid.losses import gathering
from vireid.methods import Method
from vireid.precision import Precision
from vireid.recipe import Recipe
from vireid.records import Batch
from vireid.training.optim import build_optimizers, limit_gradients, lr_factor, set_learning_rates
from vireid.training.precision import PhasePrecision
from vireid.training.ranks import Ranks

STEP = 1
"""Keeps the random numbers of a step, such as dropout's, from being those of its augmentation."""

REMEDY = "lower the learning rate, set clip_norm or train with precision=32, in a new run"


class TrainingModule(LightningModule):
    """Trains a `Method` by a `Recipe`.

    Optimisation is manual, since a GAN has two phases. Every random number of a step is seeded by
    (seed, epoch, step, rank), so a run resumed at an epoch equals the uninterrupted one.
    """

    def __init__(self, method: Method, recipe: Recipe, precision: Precision, label_map: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.method, self.recipe, self.precision, self.label_map = method, recipe, precision, label_map
        self.method.to(memory_format=precision.memory_format)
        self.ranks = Ranks()
        self._optimizers: dict[str, Optimizer] = {}

    def setup(self, stage: str) -> None:
        """Meet the other processes."""
        self.ranks = Ranks.join(self.local_rank)

    def configure_optimizers(self) -> list[Optimizer]:
        """Build the recipe's optimisers."""
        self._optimizers = build_optimizers(self.method, self.recipe.optimizers)
        return list(self._optimizers.values())

    def on_fit_start(self) -> None:
        """Compare the label map's digest across ranks, before a step is taken on labels that mean different people."""
        if self.trainer.world_size > 1:
            digest = torch.tensor(int(self.label_map, 16) >> 1, device=self.device)
            require_equal_labels(torch.as_tensor(self.all_gather(digest)).flatten())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the label map's digest, which says whose rows the classifiers have."""
        checkpoint["label_map"] = self.label_map

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other identities, before its weights are taken.

        Raises:
            InputError: naming the remedies.
        """
        if checkpoint.get("label_map", self.label_map) != self.label_map:
            data = f"{self.recipe.data.name} at {self.recipe.data.root}"
            raise InputError(f"{data} has other training identities than the run so far: restore it or start a new run")

    def on_train_start(self) -> None:
        """Set the optimisers as the recipe says: a checkpoint brings its own settings with their moments."""
        for name, new in build_optimizers(self.method, self.recipe.optimizers).items():
            for group, settings in zip(self._optimizers[name].param_groups, new.param_groups, strict=True):
                group.update({**settings, "params": group["params"]})

    def on_train_epoch_start(self) -> None:
        """Tell the method, set the learning rates."""
        self.method.on_epoch_start(self.current_epoch)
        self._schedule()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Let the method complete the batch, then augment it, on the device."""
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1
        seed = _seed(self.recipe.seed, self.current_epoch, number, self.global_rank)
        generator = torch.Generator().manual_seed(seed)
        batch = self.method.prepare(batch, generator)
        batch = self.recipe.augment(batch, self.method.mean, self.method.std, generator, self.current_epoch)
        return replace(batch, images=batch.images.contiguous(memory_format=self.precision.memory_format))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Run every phase that has losses: their sum's gradient, its optimisers' step."""
        torch.manual_seed(_seed(self.recipe.seed, STEP, self.current_epoch, batch_idx, self.global_rank))
        if self.recipe.schedule.kind == "halving":
            self._schedule()
        wrapped = dict(zip(self._optimizers, _as_list(self.optimizers()), strict=True))
        for phase in self.method.phases:
            own = [opt for name, opt in wrapped.items() if self.recipe.optimizers[name].phase == phase]
            with gathering(self.recipe.gather):
                terms = self.method.losses(batch, phase)
            if not terms:
                continue
            total = torch.stack(list(terms.values())).sum()
            logged = self._over_ranks({**terms, f"loss_{phase}": total}, batch_idx)
            for optimizer in own:
                optimizer.zero_grad()
            self.manual_backward(total)
            for optimizer in own:
                optimizer.step()
            if isinstance(self.trainer.precision_plugin, PhasePrecision):
                self.trainer.precision_plugin.end_phase()
            self._log(logged, len(batch))
        self.method.after_step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Limit gradients here: they are of all ranks, and a loss scaler (float16) has been taken off again."""
        limit_gradients(optimizer, self.recipe.clip_norm)

    def on_train_epoch_end(self) -> None:
        """Log what the method tells about itself, such as the drift of its memories."""
        self.log_dict({f"statistics/{name}": value for name, value in self.method.statistics().items()})

    def require_finite(self) -> None:
        """Refuse weights that a gradient has broken, before they take the place of good ones.

        Raises:
            InputError: naming the first tensor.
        """
        tensors = [*self.method.named_parameters(), *self.method.named_buffers()]
        broken = next((name for name, tensor in tensors if not torch.isfinite(tensor).all()), None)
        kept = "; the checkpoint before is still good" if self.current_epoch else ""
        self.ranks.agree(broken and f"{broken} is not finite after epoch {self.current_epoch}: {REMEDY}{kept}")

    def _log(self, values: dict[str, Tensor], batch_size: int) -> None:
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=batch_size)
        shown = {f"{name} ": value for name, value in values.items()}
        self.log_dict(shown, prog_bar=True, logger=False, batch_size=batch_size)

    def _schedule(self) -> None:
        step = max(0, self.trainer.fit_loop.epoch_loop.total_batch_idx)  # global_step counts every optimiser's step
        factor = lr_factor(self.recipe.schedule, self.current_epoch, self.recipe.epochs, step)
        set_learning_rates(self._optimizers, self.recipe.optimizers, factor)

    def _over_ranks(self, values: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the means of all ranks' values, which must be finite."""
        own = torch.stack(list(values.values())).detach()
        everyone = torch.as_tensor(self.all_gather(own)).view(-1, len(own))
        if not torch.isfinite(everyone).all():
            self.ranks.agree(self._complaint(values, batch_idx))
        return dict(zip(values, everyone.mean(0), strict=True))

    def _complaint(self, values: dict[str, Tensor], batch_idx: int) -> str | None:
        broken = {name: value.item() for name, value in values.items() if not torch.isfinite(value)}
        if not broken:
            return None
        terms = [name for name in broken if not name.startswith("loss_")]
        return (
            f"loss term {', '.join(terms) or 'sum'} became {next(iter(broken.values())):g} in epoch "
            f"{self.current_epoch}, batch {batch_idx}: {REMEDY}"
        )


def require_equal_labels(digests: Tensor) -> None:
    """Raise unless all ranks (W,) number the same identities.

    Raises:
        InputError: naming the first rank that differs.
    """
    different = (digests != digests[0]).nonzero().flatten().tolist()
    if different:
        raise InputError(
            f"rank {different[0]} sees other training identities than rank 0: give all ranks the same data"
        )


def _as_list(optimizers: Any) -> list[Any]:
    return optimizers if isinstance(optimizers, list) else [optimizers]


def _seed(*parts: int) -> int:
    """Mix integers into one 63-bit seed."""
    mixed = 0x9E3779B97F4A7C15
    for part in parts:
        mixed = ((mixed ^ part) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1
