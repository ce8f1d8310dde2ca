"""Body joints as heat-maps, and the standing figure for images whose joints nobody knows (SPOT)."""

from __future__ import annotations

import torch
from torch import Tensor

from vireid.records import NUM_KEYPOINTS

LIMBS = slice(2, 14)
"""The twelve joints of arms and legs."""

TEMPLATE_SCORE = 0.5
_MIN_JOINT_SCORE = 0.1
_MIN_POSE_SCORE = 0.2
_STANDING = (
    (0.50, 0.10), (0.50, 0.19),  # nose, neck
    (0.36, 0.20), (0.30, 0.34), (0.29, 0.47),  # right shoulder, elbow, wrist
    (0.64, 0.20), (0.70, 0.34), (0.71, 0.47),  # left
    (0.42, 0.50), (0.42, 0.70), (0.42, 0.90),  # right hip, knee, ankle
    (0.58, 0.50), (0.58, 0.70), (0.58, 0.90),  # left
    (0.47, 0.08), (0.53, 0.08), (0.43, 0.09), (0.57, 0.09),  # right and left eye, ear
)  # fmt: skip


def has_pose(keypoints: Tensor) -> Tensor:
    """Return the (N,) mask of keypoints (N, 18, 3) whose limb joints score at least 0.2 on average; NaN never does."""
    return keypoints[:, LIMBS, 2].mean(1) >= _MIN_POSE_SCORE


def standing_template(size: tuple[int, int]) -> Tensor:
    """Return the keypoints (18, 3) of a person who stands upright and fills an image of (H, W) pixels, score 0.5.

    Mirroring the image and exchanging left and right joints changes nothing.
    """
    height, width = size
    points = torch.full((NUM_KEYPOINTS, 3), TEMPLATE_SCORE)
    points[:, :2] = torch.tensor(_STANDING) * torch.tensor([width, height]) - 0.5
    return points


def fill_poses(keypoints: Tensor | None, images: Tensor) -> Tensor:
    """Put the standing template where there is no pose.

    Args:
        keypoints: (N, 18, 3) in pixels of `images`, NaN where unknown; None when all are.
        images: (N, C, H, W).

    Returns:
        (N, 18, 3) without NaN.
    """
    height, width = images.shape[2:]
    template = standing_template((height, width)).to(images.device).expand(images.shape[0], -1, -1)
    return template if keypoints is None else torch.where(has_pose(keypoints)[:, None, None], keypoints, template)


def render_heatmaps(
    keypoints: Tensor, image_size: tuple[int, int], map_size: tuple[int, int], sigma: float = 2.0
) -> Tensor:
    """Draw every joint as a Gaussian of height score, `s exp(-((u - u_k)^2 + (v - v_k)^2) / (2 sigma^2))`.

    Args:
        keypoints: (N, J, 3), x, y in pixels with centres at integers; scores are clipped to [0, 1], and joints that
            score below 0.1 leave their map empty.
        image_size: (H, W) of the image.
        map_size: (H', W') of the maps.
        sigma: in cells of the map.

    Returns:
        (N, J, H', W') float32.
    """
    x, y, score = keypoints.float().unbind(-1)
    rows, columns = (
        _profile((place + 0.5) * cells / pixels - 0.5, cells, sigma)
        for place, cells, pixels in zip((y, x), map_size, image_size, strict=True)
    )
    height = score.clamp(0, 1) * (score >= _MIN_JOINT_SCORE)
    return (height[..., None] * rows)[..., :, None] * columns[..., None, :]


def _profile(center: Tensor, cells: int, sigma: float) -> Tensor:
    """Return the (N, J, cells) values of a Gaussian along one axis."""
    offset = torch.arange(cells, device=center.device) - center[..., None]
    return torch.exp(-offset.square() / (2 * sigma**2))
