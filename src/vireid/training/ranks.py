"""Several processes that train one model: who starts them, what they tell each other, how they end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from numpy.typing import NDArray
from timm.layers import convert_sync_batchnorm
from torch import nn

from vireid.errors import InputError
from vireid.recipe import Recipe

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)

PATIENCE = timedelta(days=1)
"""How long ranks wait for rank zero while it ranks a test set."""

TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT
"""Exit codes of a training that a signal has stopped."""


class Launch(NamedTuple):
    """How many processes train: devices a node, nodes."""

    devices: int
    num_nodes: int

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.devices * self.num_nodes


def is_rank_zero() -> bool:
    """Tell whether this process writes and speaks for all."""
    return not rank_zero_only.rank


def plan_launch(devices: int, num_nodes: int) -> Launch:
    """Check what the user asks for against this machine; under torchrun, its process counts are the default.

    Raises:
        InputError: for more devices than there are, no node, several nodes without a launcher, or flags against
            torchrun's.
    """
    if num_nodes < 1:
        raise InputError(f"--num-nodes {num_nodes}: use 1 or more")
    launch = Launch(devices, num_nodes)
    if TorchElasticEnvironment.detect():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        started = Launch(local, int(os.environ["WORLD_SIZE"]) // local)
        if launch not in (Launch(1, 1), started):
            raise InputError(
                f"torchrun started {started.num_nodes} x {local} processes, against --devices {devices} --num-nodes "
                f"{num_nodes}: leave the two options out"
            )
        launch = started
    elif num_nodes > 1 and not SLURMEnvironment.detect():
        raise InputError(
            f"--num-nodes {num_nodes} needs a launcher on every machine: run torchrun --nnodes {num_nodes} "
            f"--nproc-per-node {devices} … -m vireid train …"
        )
    _require_devices(launch.devices)
    return launch


def _require_devices(devices: int) -> None:
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    if not 0 < devices <= (gpus or cores):
        there = f"{gpus} GPUs" if gpus else f"no GPU and {cores} CPU cores"
        raise InputError(f"--devices {devices}: this machine has {there}, so use 1 to {gpus or cores}")
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))


def build_strategy(launch: Launch) -> DDPStrategy | str:
    """Return Lightning's strategy.

    A phase of a GAN leaves the other phase's parameters without gradient. Buffers are no business of DDP: memories are
    equal on all ranks by themselves, BatchNorm statistics are averaged by `average_statistics`.
    """
    return "auto" if launch.size == 1 else DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)


def require_equal_shares(recipe: Recipe, modality: NDArray[np.int64]) -> None:
    """Refuse batches of which the ranks get unequal numbers of images; `modality` (N,) is that of the training images.

    Raises:
        InputError: for twins of visible images where a rank's number of these is random.
    """
    if recipe.augment.visible_twin and deals_modalities_unequally(recipe, modality):
        raise InputError(
            "augment.visible_twin doubles the visible images, of which sampling.kind=single deals each device another "
            "number: set sampling.kind=cross or train on one device"
        )


def deals_modalities_unequally(recipe: Recipe, modality: NDArray[np.int64]) -> bool:
    """Tell whether ranks may get other numbers of images of a modality; a refiner's batches hold sequences."""
    return recipe.encoder is None and recipe.sampling.kind == "single" and len(np.unique(modality)) > 1


def synchronise_norms(method: M, recipe: Recipe, modality: NDArray[np.int64]) -> M:
    """Let BatchNorm see the images of all ranks; `modality` (N,) is that of the training images.

    What is frozen in this training stays as it is: NFormer's projection is trained before it, by each rank on the CPU.

    Raises:
        InputError: when a rank may draw no image of a modality while others wait for its share of that stem's norms.
    """
    if deals_modalities_unequally(recipe, modality):
        raise InputError(
            "sampling.kind=single can leave a GPU without images of one modality, for which the others would wait: set "
            "sync_norm=false or sampling.kind=cross"
        )
    for name, child in method.named_children():
        parameters = list(child.parameters())
        if not parameters or any(parameter.requires_grad for parameter in parameters):
            setattr(method, name, convert_sync_batchnorm(child))
    return method


@dataclass
class Ranks:
    """The processes of a training, with a lane of their own (gloo, on the CPU) in which waiting is no error.

    Attributes:
        rank: of this process.
        local_rank: of this process on its machine.
        size: number of processes.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    lane: dist.ProcessGroup | None = None

    @classmethod
    def join(cls, local_rank: int) -> Ranks:
        """Meet the other processes, all of which must call this."""
        if not dist.is_initialized():
            return cls()
        rank, size = dist.get_rank(), dist.get_world_size()
        lane = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
        return cls(rank, local_rank, size, lane)

    def wait(self) -> None:
        """Return when all ranks have come here."""
        if self.size > 1:
            dist.barrier(self.lane)

    def gather(self, value: T) -> list[T]:
        """Return every rank's value on rank zero, an empty list elsewhere."""
        if self.size == 1:
            return [value]
        values = [value] * self.size if self.rank == 0 else None
        dist.gather_object(value, values, group=self.lane)
        return values or []

    def agree(self, complaint: str | None) -> None:
        """End all ranks when one of them complains.

        Raises:
            InputError: on rank zero, the first rank's complaint; the others leave without a word.
        """
        complaints: list[str | None] = [complaint] * self.size
        if self.size > 1:
            dist.all_gather_object(complaints, complaint, group=self.lane)
        first = next((f"{text} (rank {rank})" for rank, text in enumerate(complaints) if text), None)
        if first is None:
            return
        if self.rank:
            raise SystemExit(0)
        raise InputError(complaint if self.size == 1 else first)


@torch.no_grad()
def average_statistics(module: nn.Module, size: int) -> None:
    """Replace the BatchNorm statistics of every rank by their mean over ranks."""
    if size == 1:
        return
    statistics = [b for name, b in module.named_buffers() if name.endswith(("running_mean", "running_var"))]
    flat = torch.cat([buffer.flatten() for buffer in statistics])
    dist.all_reduce(flat)
    for buffer, mean in zip(statistics, (flat / size).split([b.numel() for b in statistics]), strict=True):
        buffer.copy_(mean.view_as(buffer))


@contextmanager
def one_voice(trainer: Trainer) -> Iterator[None]:
    """End all processes of a launch with the one sentence of the rank that failed.

    A training that was asked to stop ends with the code of its signal, which Lightning turns into 0 or 1.
    """
    try:
        yield
    except BaseException as error:
        children = getattr(trainer.strategy.launcher, "procs", [])
        stopped = [*children]
        children.clear()  # or Lightning, finding them dead, would kill this process before it has spoken
        for child in stopped:
            child.kill()
        if isinstance(error, SIGTERMException):
            raise SystemExit(TERMINATED) from error
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise SystemExit(INTERRUPTED) from error
        if isinstance(error, InputError) and not is_rank_zero():
            raise InputError(f"rank {rank_zero_only.rank}: {error}") from error
        if isinstance(error, RuntimeError) and trainer.world_size > 1 and "Connection" in str(error):
            raise SystemExit(2) from error  # another rank has ended, and has said why
        raise
