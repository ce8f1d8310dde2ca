"""Small batches of random images, and points in a plane, for the methods' and the losses' tests."""

from dataclasses import replace

import torch

from vireid.records import Batch

PLANE = torch.tensor([[0.0, 0], [1, 0], [0, 2], [3, 3], [4, 3], [3, 5]], dtype=torch.float64)
PLANE_PIDS = torch.tensor([0, 0, 0, 1, 1, 1])


def make_batch(pid=(0, 0, 1, 1) * 2, modality=(0, 0, 0, 0, 1, 1, 1, 1), size=(64, 32), camid=None, keypoints=None):
    """A batch of the same random images every time."""
    pid, modality = torch.tensor(pid), torch.tensor(modality)
    images = torch.rand(len(pid), 3, *size, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros_like(pid)
    return Batch(images, modality, pid, zeros if camid is None else torch.tensor(camid), zeros, keypoints)


def raw(batch):
    """The batch as it is read: its images are bytes."""
    return replace(batch, images=(255 * batch.images).to(torch.uint8))


def make_keypoints(n, size=(64, 32), seed=0):
    """Return (n, 18, 3) points within images of a size, (x, y, score)."""
    rng = torch.Generator().manual_seed(seed)
    scale, shift = torch.tensor([size[1] - 1, size[0] - 1, 0.5]), torch.tensor([0, 0, 0.5])
    return torch.rand(n, 18, 3, generator=rng) * scale + shift
