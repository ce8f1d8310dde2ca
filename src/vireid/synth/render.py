"""Closed-form rendering of rounded cones: every ray that can meet a solid is solved in one vectorised pass.

The camera looks along -z with parallel rays; perspective is applied to the solids beforehand (`camera.project`), which
is exact for their centres. The intersection is the quadratic of a cone tangent to two spheres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vireid.synth.figure import Solids

BACKGROUND_DEPTH = np.float32(-1e3)


class Box(NamedTuple):
    """The crop, in metres of the projected plane: left, bottom, right, top."""

    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True)
class Surface:
    """What the camera sees of the solids, one row a foreground pixel.

    Attributes:
        depth: (H, W) float32 metres towards the camera, `BACKGROUND_DEPTH` where no solid is.
        index: (N,) int64 flat pixel index into `depth`.
        solid: (N,) int64 which solid was hit.
        normal: (N, 3) float32 unit normals, z towards the camera.
        along: (N,) float32 metres from the solid's start along its length.
        across: (N,) float32 metres from the solid's middle towards the person's left.
        facing: (N,) float32 cosine between the normal and the person's forward direction.
    """

    depth: NDArray[np.float32]
    index: NDArray[np.int64]
    solid: NDArray[np.int64]
    normal: NDArray[np.float32]
    along: NDArray[np.float32]
    across: NDArray[np.float32]
    facing: NDArray[np.float32]


def extent(solids: Solids) -> Box:
    """Return the box that holds all solids."""
    radius = np.stack([solids.start_radius, solids.end_radius])[..., None]
    ends = np.stack([solids.start, solids.end])[..., :2]
    low, high = (ends - radius).min((0, 1)), (ends + radius).max((0, 1))
    return Box(float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def trace(solids: Solids, box: Box, height: int, width: int) -> Surface:
    """Find the nearest solid for each pixel of a crop.

    Args:
        solids: N projected solids in view coordinates (x right, y up, z towards the camera).
        box: the crop in metres.
        height, width: pixels of the result.
    """
    pixel, solid = _candidates(solids, box, height, width)
    x, y = _ray(pixel, box, height, width)
    depth = _hit_depth(solids, solid, x, y)
    nearest = np.full(height * width, BACKGROUND_DEPTH, dtype=np.float32)
    np.maximum.at(nearest, pixel, depth)
    owner = np.full(height * width, -1, dtype=np.int64)
    wins = (depth == nearest[pixel]) & (depth > BACKGROUND_DEPTH)
    owner[pixel[wins]] = solid[wins]
    index = np.flatnonzero(owner >= 0)
    x, y = _ray(index, box, height, width)
    return _surface(solids, nearest.reshape(height, width), index, owner[index], x, y)


def _ray(pixel: NDArray[np.int64], box: Box, height: int, width: int) -> tuple[NDArray[Any], NDArray[Any]]:
    row, column = (part.astype(np.float32) for part in np.divmod(pixel, width))
    x = np.float32(box.left) + (column + np.float32(0.5)) * np.float32((box.right - box.left) / width)
    y = np.float32(box.top) - (row + np.float32(0.5)) * np.float32((box.top - box.bottom) / height)
    return x, y


def _candidates(solids: Solids, box: Box, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All (pixel, solid) pairs inside the solids' bounding rectangles, as two flat arrays."""
    radius = np.stack([solids.start_radius, solids.end_radius])[..., None]
    ends = np.stack([solids.start, solids.end])[..., :2]
    low, high = (ends - radius).min(0), (ends + radius).max(0)
    scale_x, scale_y = width / (box.right - box.left), height / (box.top - box.bottom)
    column0, column1 = ((edge[:, 0] - box.left) * scale_x for edge in (low, high))
    row0, row1 = ((box.top - edge[:, 1]) * scale_y for edge in (high, low))
    first_column, last_column = (np.clip(np.rint(c), 0, width).astype(np.int64) for c in (column0, column1))
    first_row, last_row = (np.clip(np.rint(r), 0, height).astype(np.int64) for r in (row0, row1))
    columns = last_column - first_column
    counts = columns * (last_row - first_row)
    solid = np.repeat(np.arange(len(solids)), counts)
    offset = np.arange(len(solid)) - np.repeat(np.cumsum(counts) - counts, counts)
    row, column = np.divmod(offset.astype(np.int32), columns[solid].astype(np.int32))
    return (row + first_row[solid]) * width + column + first_column[solid], solid


def _dot(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.einsum("ij,ij->i", first, second)


def _stretched(solids: Solids, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Undo the flattening of (N, 3) vectors: round solids again."""
    gain = (1 / solids.thickness - 1)[:, None]
    return vectors + gain * _dot(vectors, solids.axis)[:, None] * solids.axis


def _hit_depth(solids: Solids, solid: NDArray[np.int64], x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float32]:
    """Depth at which the ray (x, y) first meets its solid, `BACKGROUND_DEPTH` where it misses.

    With S the stretch that makes the solid round, o the ray's point relative to the start, d the ray's direction and
    b = end - start, all dot products below are those of S o, S d / |S d| and S b: affine or quadratic in (x, y), with
    coefficients of the solid alone.
    """
    axis, start = solids.axis, solids.start
    gain = 1 / solids.thickness - 1
    down = np.zeros_like(start)
    down[:, 2] = -1
    ray, bone = _stretched(solids, down), _stretched(solids, solids.end - start)
    speed = np.sqrt(_dot(ray, ray))
    ray /= speed[:, None]
    to_bone, to_ray = _stretched(solids, bone), _stretched(solids, ray)
    taper = solids.start_radius - solids.end_radius
    length2, bone_ray = _dot(bone, bone), _dot(bone, ray)
    slant2 = length2 - taper**2
    round_body = slant2 > 1e-6
    quadratic = slant2 - bone_ray**2
    quadratic = np.where(np.abs(quadratic) < 1e-7, np.float32(1e-7), quadratic)

    x, y = x - start[solid, 0], y - start[solid, 1]
    flat = _affine(axis, start, solid, x, y)
    m1, m3 = _affine(to_bone, start, solid, x, y), _affine(to_ray, start, solid, x, y)
    m5 = x * x + y * y + (start[:, 2] ** 2)[solid] + (2 * gain + gain**2)[solid] * flat * flat
    ra = solids.start_radius
    d2, m2 = slant2[solid], bone_ray[solid]
    tip = m1 - (ra * taper)[solid]
    k1 = d2 * m3 - m2 * tip
    k0 = d2 * m5 - m1 * m1 + (2 * ra * taper)[solid] * m1 - (length2 * ra**2)[solid]
    k2 = quadratic[solid]
    root = k1 * k1 - k0 * k2
    t = (-np.sqrt(root.clip(0)) - k1) / k2
    reach = tip + t * m2
    body = (root >= 0) & (reach > 0) & (reach < d2) & round_body[solid]
    t = np.where(body, t, np.inf)

    ball = m3 * m3 - m5 + (ra**2)[solid]
    t = np.minimum(t, np.where(ball >= 0, -m3 - np.sqrt(ball.clip(0)), np.inf))
    m6 = m3 - m2
    ball = m6 * m6 - (m5 - 2 * m1 + length2[solid]) + (solids.end_radius**2)[solid]
    capped = (ball >= 0) & ~solids.open_end[solid]
    t = np.minimum(t, np.where(capped, -m6 - np.sqrt(ball.clip(0)), np.inf))
    return np.where(np.isfinite(t), -t / speed[solid], BACKGROUND_DEPTH).astype(np.float32)


def _affine(
    vector: NDArray[Any], start: NDArray[Any], solid: NDArray[np.int64], x: NDArray[Any], y: NDArray[Any]
) -> NDArray[Any]:
    """Dot product of each solid's vector with (x, y, -start_z)."""
    constant = -vector[:, 2] * start[:, 2]
    return vector[solid, 0] * x + vector[solid, 1] * y + constant[solid]


def _surface(
    solids: Solids,
    depth: NDArray[Any],
    index: NDArray[np.int64],
    solid: NDArray[np.int64],
    x: NDArray[Any],
    y: NDArray[Any],
) -> Surface:
    offset = np.stack([x, y, depth.ravel()[index]], axis=1) - solids.start[solid]
    axis, gain = solids.axis[solid], (1 / solids.thickness - 1)[solid, None]
    local = offset + gain * _dot(offset, axis)[:, None] * axis
    bone = _stretched(solids, solids.end - solids.start)
    length2 = _dot(bone, bone)
    taper = solids.start_radius - solids.end_radius
    slant2 = np.maximum(length2 - taper**2, 1e-6)
    reach = (_dot(local, bone[solid]) - (solids.start_radius * taper)[solid]) / slant2[solid]
    normal = local - reach.clip(0, 1)[:, None] * bone[solid]
    normal = normal + gain * _dot(normal, axis)[:, None] * axis
    normal /= np.sqrt(_dot(normal, normal)[:, None]).clip(1e-6)
    return Surface(
        depth=depth,
        index=index,
        solid=solid,
        normal=normal.astype(np.float32),
        along=reach * np.sqrt(length2)[solid],
        across=_dot(offset, solids.side[solid]),
        facing=_dot(normal, solids.front[solid]),
    )
