"""Checkpoints that are whole or absent, and never unpickled freely."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from vireid.errors import InputError
from vireid.files import replacing

PATTERN = re.compile(r"epoch-(\d+)\.ckpt")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file, fsyncs and renames; loads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; a full disk leaves the previous one in place."""
        with replacing(Path(path)) as temporary, temporary.open("wb") as stream:
            torch.save(checkpoint, stream)  # to a path, a full disk would come as a RuntimeError about iostream

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint of a run.

        Raises:
            InputError: when the file is damaged or holds anything but tensors and plain values.
        """
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:  # torch raises several types on torn or hostile files
            raise InputError(f"checkpoint {path} cannot be read: delete it and resume from the one before") from error


def latest_checkpoint(run: Path) -> Path | None:
    """Return the checkpoint of the highest epoch in a run folder, None when there is none."""
    found = [path for path in run.glob("checkpoints/*.ckpt") if PATTERN.fullmatch(path.name)]
    return max(found, key=trained_epochs, default=None)


def trained_epochs(checkpoint: Path | None) -> int:
    """Return the number of epochs that a checkpoint brings, 0 for none."""
    match = PATTERN.fullmatch(checkpoint.name) if checkpoint else None
    return int(match[1]) + 1 if match else 0


def remove_torn(run: Path) -> None:
    """Delete what a killed process was writing into a run folder."""
    for torn in [*run.glob(".*.tmp"), *run.glob("checkpoints/.*.tmp")]:
        torn.unlink()
