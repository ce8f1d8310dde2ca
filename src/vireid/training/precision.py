"""Loss scaling (float16) where a phase has several optimisers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.utilities.types import Optimizable
from lightning.pytorch.plugins import MixedPrecision

from vireid.precision import Precision


class PhasePrecision(MixedPrecision):
    """Mixed precision whose loss scale changes between phases only, when manual optimisation calls `end_phase`.

    Lightning changes it after each optimiser, so that the next of the phase divides its gradients by another scale than
    their loss was multiplied with.
    """

    scaler: torch.amp.GradScaler
    _scaled = False

    def optimizer_step(
        self, optimizer: Optimizable, model: LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Take the scale off the gradients, let the hooks see them, step unless one is not finite or there is none."""
        closure()
        groups: Any = optimizer.param_groups
        if all(parameter.grad is None for group in groups for parameter in group["params"]):
            return None
        self._scaled = True
        self.scaler.unscale_(optimizer)
        self._after_closure(model, optimizer)
        return self.scaler.step(optimizer, **kwargs)

    def end_phase(self) -> None:
        """Choose the next scale, after the last of a phase's optimisers."""
        if self._scaled:
            self.scaler.update()
        self._scaled = False


def loss_scaling(precision: Precision, device: torch.device) -> list[PhasePrecision]:
    """Return the plugin of float16, which is for GPUs, else none."""
    return [PhasePrecision("16-mixed", device.type)] if precision.name == "16" else []
