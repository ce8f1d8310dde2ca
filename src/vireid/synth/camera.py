"""Cameras: where they hang, how they see a person, and how their detector boxes him."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vireid.synth.figure import Solids
from vireid.synth.render import Box, extent

SPECTRA = ("visible", "nir", "lwir")


@dataclass(frozen=True)
class Camera:
    """A fixed camera: angles in radians, distances in metres.

    `approach` is the share of people that walk towards it, `scenes` the places that it pans over.
    """

    camid: int
    spectrum: str
    elevation: float
    distance: tuple[float, float]
    approach: float
    blur: float
    contrast: float
    saturation: float
    tint: tuple[float, float, float]
    scenes: int = 4


@dataclass(frozen=True)
class View:
    """How one instant is seen: the person's yaw from facing the camera, the camera's elevation, the distance."""

    yaw: float
    elevation: float
    distance: float


@lru_cache(maxsize=64)
def make_camera(seed: int, camid: int, spectrum: str) -> Camera:
    """Draw the fixed traits of a camera from (seed, camid)."""
    rng = np.random.default_rng((seed, 101, camid))
    near = float(rng.uniform(4, 9))
    return Camera(
        camid=camid,
        spectrum=spectrum,
        elevation=float(rng.uniform(0.08, 0.40)),
        distance=(near, near * float(rng.uniform(1.3, 2.2))),
        approach=float(rng.uniform(0.35, 0.65)),
        blur=float(rng.uniform(0.4, 1.0)),
        contrast=float(rng.uniform(0.85, 1.1)),
        saturation=float(rng.uniform(0.5, 0.95)),
        tint=tuple(float(t) for t in 1 + rng.normal(0, 0.05, 3)),  # type: ignore[arg-type]
    )


def sample_yaw(rng: Generator, view_range_deg: float, approach: float) -> float:
    """Draw the body's yaw: front or back view, at most `view_range_deg` (up to 90) to either side."""
    back = 0.0 if rng.random() < approach else np.pi
    return float(back + np.deg2rad(rng.uniform(-view_range_deg, view_range_deg)))


def rotation(view: View) -> NDArray[np.float64]:
    """Return the (3, 3) matrix from the body frame to the view frame."""
    sin_yaw, cos_yaw = np.sin(view.yaw), np.cos(view.yaw)
    sin_up, cos_up = np.sin(view.elevation), np.cos(view.elevation)
    turn = np.array([[cos_yaw, 0, sin_yaw], [0, 1, 0], [-sin_yaw, 0, cos_yaw]])
    return np.array([[1, 0, 0], [0, cos_up, -sin_up], [0, sin_up, cos_up]]) @ turn


def project_points(points: NDArray[Any], view: View, height: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Turn (N, 3) body points into the view and scale them by perspective about the body's middle.

    Returns:
        (N, 3) view coordinates in metres and the (N,) perspective scale.
    """
    turned = (points - (0.0, height / 2, 0.0)) @ rotation(view).T
    scale = view.distance / (view.distance - turned[:, 2])
    return turned * np.stack([scale, scale, np.ones_like(scale)], axis=1), scale


def project(solids: Solids, view: View, height: float) -> Solids:
    """Bring body-frame solids into view coordinates, nearer parts larger (pinhole camera)."""
    start, start_scale = project_points(solids.start, view, height)
    end, end_scale = project_points(solids.end, view, height)
    return replace(
        solids.transformed(rotation(view), (0.0, 0.0, 0.0)),
        start=start.astype(np.float32),
        end=end.astype(np.float32),
        start_radius=(solids.start_radius * start_scale).astype(np.float32),
        end_radius=(solids.end_radius * end_scale).astype(np.float32),
    )


def detect(solids: Solids, rng: Generator, jitter: float) -> Box:
    """Box a person as a detector would: a thin margin, jittered edges, never thinner than a person stands.

    Args:
        solids: projected solids of the person alone.
        rng: source of the jitter.
        jitter: standard deviation of each edge, as a fraction of the person's height.
    """
    box = extent(solids)
    tall = box.top - box.bottom
    noise = rng.normal(0, jitter * tall, 4).clip(-0.12 * tall, 0.12 * tall)
    bottom, top = box.bottom - 0.02 * tall + noise[0], box.top + 0.02 * tall + noise[1]
    half = max(0.5 * (box.right - box.left) + 0.01 * tall, rng.uniform(0.17, 0.23) * (top - bottom))
    middle = 0.5 * (box.left + box.right) + noise[2]
    return Box(middle - half, bottom, middle + half, top)
