"""One photograph: a person, an instant and a camera become a small JPEG-ready crop with its keypoints."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vireid.synth import camera as cameras
from vireid.synth.body import KEYPOINTS, Skeleton, sample_pose, skeleton
from vireid.synth.camera import SPECTRA, Camera, View
from vireid.synth.difficulty import Difficulty
from vireid.synth.figure import Solids, dress
from vireid.synth.render import Box, Surface, trace
from vireid.synth.scene import HEIGHT_M, PIXELS_PER_METRE, WIDTH_M, Scene, make_scene
from vireid.synth.sensor import Conditions, Stage, degrade, expose
from vireid.synth.wardrobe import Identity, Materials, Slot, sample_identity

HEIGHT, WIDTH = 128, 64
"""Stored size in pixels."""

_RENDER = (192, 96)

_Columns = TypeVar("_Columns", Solids, Materials)


@dataclass(frozen=True)
class Shot:
    """Which photograph: everything in it follows from (seed, pid, spectrum, index).

    `instant` is the moment that the shot shares with other spectra, or -1 for a moment of its own.
    """

    pid: int
    spectrum: str
    index: int
    camid: int
    instant: int = -1


@dataclass(frozen=True)
class Photo:
    """Pixels (128, 64, 3) uint8, keypoints (18, 3) float32 in its pixels, and the JPEG quality to store it with."""

    pixels: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    quality: int


def take(shot: Shot, seed: int, difficulty: Difficulty) -> Photo:
    """Render one photograph."""
    spectrum = SPECTRA.index(shot.spectrum)
    own = np.random.default_rng((seed, 1, shot.pid, spectrum, shot.index))
    moment = np.random.default_rng((seed, 2, shot.pid, shot.instant)) if shot.instant >= 0 else own
    identity = _identity(seed, shot.pid, difficulty.nir_correlation)
    camera = cameras.make_camera(seed, shot.camid, shot.spectrum)
    pose = sample_pose(moment)
    yaw = cameras.sample_yaw(moment, difficulty.view_range_deg, 0.5 if shot.instant >= 0 else camera.approach)
    hour = float(moment.random())
    night = hour < (1 - difficulty.inversion if shot.spectrum == "lwir" else difficulty.night)
    view = View(yaw + float(own.normal(0, 0.05)), camera.elevation, float(own.uniform(*camera.distance)))
    joints = skeleton(identity.shape, pose)
    solids = cameras.project(dress(identity, joints), view, identity.shape.height)
    box = cameras.detect(solids, own, difficulty.box_jitter)
    stage = _stage(identity, solids, box, camera, seed, difficulty, own)
    light = Conditions(night, difficulty.texture_loss, difficulty.sun_warmth, difficulty.lighting)
    image = expose(stage, camera, own, light)
    hidden = np.zeros(_RENDER, dtype=bool)
    if own.random() < difficulty.occlusion:
        hidden = _occlude(image, own)
    pixels = _read_out(image, camera, own, difficulty)
    keypoints = _keypoints(joints, view, identity.shape.height, box, stage.surface, hidden)
    return Photo(pixels, keypoints, int(own.integers(*difficulty.jpeg_quality)))


@lru_cache(maxsize=16)
def _identity(seed: int, pid: int, nir_correlation: float) -> Identity:
    return sample_identity(np.random.default_rng((seed, 0, pid)), nir_correlation)


def _stage(
    identity: Identity,
    solids: Solids,
    box: Box,
    camera: Camera,
    seed: int,
    difficulty: Difficulty,
    rng: Generator,
) -> Stage:
    scene = make_scene(seed, camera.camid, int(rng.integers(camera.scenes)), difficulty.clutter)
    materials = identity.materials
    if rng.random() < 0.25 * difficulty.clutter:
        other = sample_identity(rng, difficulty.nir_correlation)
        passer = _passer_by(other, rng)
        solids, materials = _join(solids, passer), _join(materials, other.materials)
    surface = trace(solids, box, *_RENDER)
    feet = (box.top + 0.5 * identity.shape.height - 0.02) / (box.top - box.bottom) * _RENDER[0]
    return Stage(
        surface=surface,
        material=solids.material[surface.solid],
        radius=np.maximum(solids.start_radius, solids.end_radius)[surface.solid],
        materials=materials,
        background=_backdrop(scene, box, camera.spectrum, rng),
        feet_row=min(feet, _RENDER[0] - 1.0),
    )


def _passer_by(other: Identity, rng: Generator) -> Solids:
    """Someone else, a step behind and to the side, partly in the box."""
    view = View(float(rng.uniform(0, 2 * np.pi)), 0.15, 8.0)
    height = other.shape.height
    solids = cameras.project(dress(other, skeleton(other.shape, sample_pose(rng))), view, height)
    aside = float(rng.choice([-1, 1]) * rng.uniform(0.35, 0.7))
    moved = solids.transformed(np.eye(3), (aside, rng.uniform(0.0, 0.25), -1.5))
    return replace(moved, material=solids.material + len(Slot))


def _join(first: _Columns, second: _Columns) -> _Columns:
    return type(first)(*(np.concatenate([getattr(first, f.name), getattr(second, f.name)]) for f in fields(first)))


def _backdrop(scene: Scene, box: Box, spectrum: str, rng: Generator) -> NDArray[np.float32]:
    """Cut the scene where the person stands, (H, W[, 3]) in [0, 1]."""
    zoom = rng.uniform(0.8, 1.25)
    wide, tall = (box.right - box.left) * zoom, (box.top - box.bottom) * zoom
    bottom = float(rng.uniform(max(scene.floor + 0.1, tall), HEIGHT_M))
    left = float(rng.uniform(0, WIDTH_M - wide))
    image = {"visible": scene.colour, "nir": scene.nir, "lwir": scene.heat}[spectrum]
    edges = (left, max(bottom - tall, 0.0), left + wide, bottom)
    window = tuple(PIXELS_PER_METRE * edge for edge in edges)
    cut = image.resize(_RENDER[::-1], Image.Resampling.BILINEAR, box=window)  # type: ignore[arg-type]
    return np.asarray(cut, dtype=np.float32) / np.float32(255)


def _occlude(image: NDArray[np.float32], rng: Generator) -> NDArray[np.bool_]:
    """Put a pole, a parked car's edge or a railing in front, in place; return where."""
    height, width = image.shape[:2]
    mask = Image.new("1", (width, height))
    draw = ImageDraw.Draw(mask)
    kind = rng.integers(3)
    if kind == 0:
        x, wide = rng.uniform(0, width), rng.uniform(0.06, 0.18) * width
        draw.rectangle([x, 0, x + wide, height], fill=1)
    elif kind == 1:
        top = rng.uniform(0.62, 0.88) * height
        draw.polygon([(0, top), (width, top + rng.uniform(-0.1, 0.1) * height), (width, height), (0, height)], fill=1)
    else:
        top = rng.uniform(0.5, 0.75) * height
        for x in np.arange(rng.uniform(0, 12), width, rng.uniform(9, 16)):
            draw.rectangle([x, top, x + 2, height], fill=1)
        draw.rectangle([0, top, width, top + 4], fill=1)
    hidden = np.asarray(mask)
    shade = rng.uniform(0.08, 0.6) * (1 + 0.1 * rng.standard_normal((height, width), dtype=np.float32))
    tint = 1 + rng.normal(0, 0.08, image.shape[2:])
    image[hidden] = (shade[hidden][:, None] * tint if image.ndim == 3 else shade[hidden]).astype(np.float32)
    return hidden


def _read_out(image: NDArray[np.float32], camera: Camera, rng: Generator, difficulty: Difficulty) -> NDArray[np.uint8]:
    thermal = camera.spectrum == "lwir"
    low, high = difficulty.resolution
    rows = int(rng.integers(low, high) * (0.8 if thermal else 1.0))
    read = degrade(
        image,
        rng,
        rows=rows,
        blur=camera.blur * (1.3 if thermal else 0.7) * difficulty.blur,
        motion=abs(rng.normal(0, 1)) * difficulty.blur,
        noise=difficulty.noise * rng.uniform(0.3, 1.0),
        fixed=0.4 * difficulty.noise if thermal else 0.0,
    )
    stored = Image.fromarray(read).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    return np.asarray(stored.convert("RGB"))


def _keypoints(
    joints: Skeleton, view: View, height: float, box: Box, surface: Surface, hidden: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(18, 3) of x, y in stored pixels and a score: 1 in sight, 0.3 hidden, 0 outside the box."""
    points, _ = cameras.project_points(np.stack([joints[name] for name in KEYPOINTS]), view, height)
    x = (points[:, 0] - box.left) / (box.right - box.left)
    y = (box.top - points[:, 1]) / (box.top - box.bottom)
    rows, columns = (y * _RENDER[0]).astype(np.int64), (x * _RENDER[1]).astype(np.int64)
    inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    rows, columns = rows.clip(0, _RENDER[0] - 1), columns.clip(0, _RENDER[1] - 1)
    in_sight = (surface.depth[rows, columns] < points[:, 2] + 0.16) & ~hidden[rows, columns]
    score = np.where(inside, np.where(in_sight, 1.0, 0.3), 0.0)
    return np.stack([x * WIDTH - 0.5, y * HEIGHT - 0.5, score], axis=1).astype(np.float32)
