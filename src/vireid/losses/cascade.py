"""Centres of groups of features, and MSCLNet's aggregation over three levels of them (Zhang et al., ECCV 2022)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vireid.losses.distance import full_precision
from vireid.losses.ranks import over_ranks

InterForm = Literal["identities", "printed"]


class Cascade(NamedTuple):
    """The three scalar losses of `cascaded_aggregation`."""

    sub: Tensor
    intra: Tensor
    inter: Tensor


def group_means(features: Tensor, groups: Tensor, count: int) -> Tensor:
    """Return the mean feature of every group, (count, D); 0 for an empty one.

    Args:
        features: (N, D).
        groups: (N,) in 0..count-1.
        count: number of groups.
    """
    sums = features.new_zeros(count, features.shape[1]).index_add(0, groups, features)
    return sums / torch.bincount(groups, minlength=count).clamp(min=1)[:, None]


@full_precision
def cascaded_aggregation(
    features: Tensor,
    pids: Tensor,
    subclasses: Tensor,
    normalized: bool = True,
    inter: InterForm = "identities",
) -> Cascade:
    """Pull features to their sub-class centre, sub-class to identity centres, and push identity centres apart.

    With C_s and C_y the means of the features of sub-class s and identity y (MSCLNet, Eq. 10 to 12):
    `sub = mean_i |f_i - C_{s_i}|^2`, `intra = mean_i sum over the sub-classes s of y_i of |C_s - C_{y_i}|^2`,
    `inter = -mean over pairs of identities of |C_y - C_y'|^2`, which is minus twice the centres' total variance.

    Args:
        features: (N, D).
        pids: (N,) identities.
        subclasses: (N,) sub-class numbers, each within one identity.
        normalized: L2-normalise the features first, hence inter >= -4; without, scaling the features lowers the
            sum without bound.
        inter: `printed` sums over ordered pairs of images and divides by the number of unordered ones.

    Returns:
        Scalars; inter is 0 where there is one identity alone.
    """
    z = F.normalize(features, dim=1) if normalized else features
    _, y, images = torch.unique(pids, return_inverse=True, return_counts=True)
    names, s = torch.unique(subclasses, return_inverse=True)
    owner = y.new_zeros(len(names)).scatter(0, s, y)
    centers, sub_centers = group_means(z, y, len(images)), group_means(z, s, len(names))
    spread = (sub_centers - centers[owner]).square().sum(1)
    rows, factor = (centers, 2) if inter == "identities" else (centers[y], 4)
    return Cascade(
        sub=(z - sub_centers[s]).square().sum() / max(1, len(z)),
        intra=(images[owner] * spread).sum() / max(1, len(z)),
        inter=-factor * (rows.var(0).sum() if len(rows) > 1 else rows.sum() * 0),
    )


@over_ranks
def keyed_aggregation(
    features: Tensor, keys: Tensor, normalized: bool = True, inter: InterForm = "identities"
) -> Cascade:
    """Return `cascaded_aggregation` with rows of one key as a sub-class.

    Args:
        features: (N, D).
        keys: (N, K), the identity first; negative in rows that are left out, with which ranks come to equal numbers.
        normalized, inter: see `cascaded_aggregation`.
    """
    live = keys[:, 0] >= 0
    names, subclasses = torch.unique(keys[live], dim=0, return_inverse=True)
    return cascaded_aggregation(features[live], names[subclasses, 0], subclasses, normalized, inter)
