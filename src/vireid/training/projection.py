"""Train the projection between a frozen encoder and its refiner, on the encoder's features."""

from __future__ import annotations

from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vireid.data.sampler import epoch_batches
from vireid.losses import CenterLoss
from vireid.methods.nformer import NFormer, identity_losses
from vireid.nn import IdentityClassifier
from vireid.recipe import Recipe
from vireid.training.optim import lr_factor


def train_projection(
    method: NFormer,
    features: Tensor,
    labels: NDArray[np.int64],
    modality: NDArray[np.int64],
    recipe: Recipe,
) -> None:
    """Train a refiner's projection by the loss of NFormer's first stage, then freeze it.

    Args:
        method: its `projection` is trained in place.
        features: (N, D) of the encoder.
        labels: (N,) contiguous training labels.
        modality: (N,).
        recipe: `projection` and `sampling` say how.
    """
    assert method.projection is not None
    options, projection = recipe.projection, method.projection.train()
    trained = [*projection.linear.requires_grad_().parameters(), projection.neck.weight.requires_grad_()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        num_classes, dim = int(labels.max()) + 1, method.embedding_dim
        classifier = IdentityClassifier(dim, num_classes)
        center = CenterLoss(num_classes, dim, method.options.center_weight)
    optimizer = torch.optim.Adam([*trained, *classifier.parameters()], lr=options.lr, weight_decay=options.weight_decay)
    centers = torch.optim.SGD(center.parameters(), lr=options.center_lr)
    pids = torch.from_numpy(labels)
    steps = count()
    for epoch in range(options.epochs):
        for batch in epoch_batches(labels, modality, recipe.sampling, seed=recipe.seed, epoch=epoch):
            factor = lr_factor(options.schedule, epoch, options.epochs, next(steps))
            optimizer.param_groups[0]["lr"] = options.lr * factor
            rows = torch.from_numpy(batch)
            z, g = projection(features[rows])
            loss = torch.stack(list(identity_losses(z, classifier(g), pids[rows], method.options, center).values()))
            optimizer.zero_grad()
            centers.zero_grad()
            loss.sum().backward()
            optimizer.step()
            centers.step()
    projection.eval().requires_grad_(False)
