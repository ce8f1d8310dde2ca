"""Cluttered backgrounds: a street corner per camera, painted for all three spectra at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

PIXELS_PER_METRE = 56
WIDTH_M, HEIGHT_M = 8.0, 6.0
_WARM, _GREEN = np.array([1.0, 0.1, -0.9]), np.array([-0.5, 1.0, -0.5])
SIZE = (int(WIDTH_M * PIXELS_PER_METRE), int(HEIGHT_M * PIXELS_PER_METRE))


@dataclass(frozen=True)
class Scene:
    """A painted place; images are W×H of `SIZE`.

    Attributes:
        colour: RGB visible albedo.
        nir: L near-infrared albedo.
        heat: L temperature, 0 the coldest sky, 255 skin.
        floor: metres from the top to where the wall meets the ground.
    """

    colour: Image.Image
    nir: Image.Image
    heat: Image.Image
    floor: float


@dataclass(frozen=True)
class _Surface:
    colour: tuple[int, int, int]
    nir: int
    heat: int


class _Painter:
    """Draws each shape into the three maps with that map's value; coordinates in metres."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        self.maps = [Image.new("RGB", SIZE), Image.new("L", SIZE), Image.new("L", SIZE)]
        self.draws = [ImageDraw.Draw(image) for image in self.maps]

    def surface(self, grey: float, spread: float, heat: float, tone: float = 0.03) -> _Surface:
        """Draw a material near a grey level (0..1) with a touch of colour; its NIR albedo wanders."""
        level = np.clip(grey + self.rng.normal(0, spread), 0.04, 0.95)
        warmth, green = self.rng.normal(0, tone, 2) * (2.5, 0.8)
        colour = (255 * np.clip(level * (1 + warmth * _WARM + green * _GREEN), 0, 1)).astype(int)
        nir = int(255 * np.clip(level + self.rng.normal(0, 0.12), 0.05, 0.9))
        warm = int(255 * np.clip(heat + self.rng.normal(0, 0.05), 0, 1))
        return _Surface((int(colour[0]), int(colour[1]), int(colour[2])), nir, warm)

    def shape(self, kind: str, points: list[tuple[float, float]], surface: _Surface, **options: int) -> None:
        """Call ImageDraw's `kind` (rectangle, polygon, ellipse, line) on every map."""
        pixels = [(x * PIXELS_PER_METRE, y * PIXELS_PER_METRE) for x, y in points]
        for draw, value in zip(self.draws, (surface.colour, surface.nir, surface.heat), strict=True):
            getattr(draw, kind)(pixels, fill=value, **options)

    def box(self, x: float, y: float, width: float, height: float, surface: _Surface) -> None:
        self.shape("rectangle", [(x, y), (x + max(width, 0.0), y + max(height, 0.0))], surface)

    def line(self, x0: float, y0: float, x1: float, y1: float, surface: _Surface, width: int) -> None:
        self.shape("line", [(x0, y0), (x1, y1)], surface, width=width)


@lru_cache(maxsize=64)
def make_scene(seed: int, camid: int, place: int, clutter: float) -> Scene:
    """Paint the `place`-th background of a camera; the same arguments give the same pixels."""
    rng = np.random.default_rng((seed, 202, camid, place))
    painter = _Painter(rng)
    floor = float(rng.uniform(2.6, 3.6))
    _wall(painter, floor)
    _ground(painter, floor)
    for _ in range(rng.poisson(9 * clutter)):
        x = float(rng.uniform(-0.5, WIDTH_M))
        _OBJECTS[rng.integers(len(_OBJECTS))](painter, x, floor)
    stain = 1 + 0.11 * _noise(rng, 5) + 0.08 * _noise(rng, 19) + 0.07 * _noise(rng, 90)
    colour, nir, heat = (_weather(image, stain) for image in painter.maps)
    return Scene(colour, nir, heat, floor)


def _weather(image: Image.Image, stain: NDArray[np.float32]) -> Image.Image:
    """Break up flat paint: stains, grain and uneven light."""
    pixels = np.asarray(image, dtype=np.float32)
    pixels = pixels * (stain[..., None] if pixels.ndim == 3 else stain)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _noise(rng: Generator, cells: int) -> NDArray[np.float32]:
    small = rng.standard_normal((cells * 3 // 4 + 1, cells), dtype=np.float32)
    return np.asarray(Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC))


def _wall(painter: _Painter, floor: float) -> None:
    rng = painter.rng
    base = painter.surface(rng.uniform(0.15, 0.8), 0.05, 0.2, tone=0.04)
    joint = painter.surface(rng.uniform(0.1, 0.7), 0.1, 0.18)
    painter.box(0, 0, WIDTH_M, floor, base)
    style = rng.integers(5)
    if style == 0:
        _grid(painter, floor, joint, float(rng.uniform(0.1, 0.25)), float(rng.uniform(0.25, 0.6)))
    elif style == 1:
        _grid(painter, floor, joint, float(rng.uniform(0.8, 1.6)), float(rng.uniform(0.8, 2.0)))
    elif style == 2:
        _bars(painter, 0.0, WIDTH_M, 0.0, floor, joint, float(rng.uniform(0.12, 0.3)))
    elif style == 3:
        _leaves(painter, floor)
    else:
        _openings(painter, floor)


def _grid(painter: _Painter, floor: float, joint: _Surface, rise: float, run: float) -> None:
    for row, y in enumerate(np.arange(0, floor, rise)):
        painter.line(0, y, WIDTH_M, y, joint, 1)
        for x in np.arange(0, WIDTH_M, run) + (row % 2) * run / 2:
            painter.line(x, y, x, min(y + rise, floor), joint, 1)


def _bars(painter: _Painter, x0: float, x1: float, top: float, bottom: float, bar: _Surface, step: float) -> None:
    for x in np.arange(x0, x1, step):
        painter.line(x, top, x, bottom, bar, 2)
    for y in (top + 0.1, bottom - 0.15):
        painter.line(x0, y, x1, y, bar, 3)


def _leaves(painter: _Painter, floor: float) -> None:
    for _ in range(350):
        x, y = painter.rng.uniform(0, WIDTH_M), painter.rng.uniform(0, floor)
        _leaf(painter, x, y, painter.rng.uniform(0.05, 0.3))


def _leaf(painter: _Painter, x: float, y: float, size: float) -> None:
    """Foliage: dark green to the eye, bright in near infrared, close to the air's temperature."""
    grey = painter.rng.uniform(0.08, 0.32)
    green = (int(185 * grey), int(255 * grey), int(120 * grey))
    leaf = _Surface(green, int(255 * (0.35 + grey)), int(42 + 55 * grey))
    painter.shape("ellipse", [(x, y), (x + size, y + 0.7 * size)], leaf)


def _openings(painter: _Painter, floor: float) -> None:
    """Windows and doors, some lit from within."""
    step = painter.rng.uniform(1.1, 2.4)
    for x in np.arange(painter.rng.uniform(-0.5, 0.5), WIDTH_M, step):
        glass = painter.surface(painter.rng.choice([0.12, 0.2, 0.75]), 0.06, painter.rng.choice([0.08, 0.35]))
        frame = painter.surface(0.5, 0.25, 0.2)
        wide, top = 0.7 * step, painter.rng.uniform(0.2, 1.2)
        bottom = floor if painter.rng.random() < 0.35 else floor - painter.rng.uniform(0.5, 1.0)
        painter.box(x, top, wide, bottom - top, frame)
        painter.box(x + 0.06, top + 0.06, wide - 0.12, bottom - top - 0.12, glass)


def _ground(painter: _Painter, floor: float) -> None:
    rng = painter.rng
    painter.box(0, floor, WIDTH_M, HEIGHT_M, painter.surface(rng.uniform(0.2, 0.6), 0.05, 0.24, tone=0.015))
    joint = painter.surface(rng.uniform(0.15, 0.7), 0.08, 0.22)
    kerb = floor + float(rng.uniform(0.05, 0.3))
    painter.box(0, floor, WIDTH_M, kerb - floor, painter.surface(0.5, 0.15, 0.2))
    style = rng.integers(3)
    if style == 0:
        for y in floor + 0.12 * 1.45 ** np.arange(9):
            painter.line(0, y, WIDTH_M, y, joint, 1)
        for x in np.arange(-8, 16, rng.uniform(0.4, 1.0)):
            painter.line(0.5 * x + 2, floor, 2 * x - 4, HEIGHT_M, joint, 1)
    elif style == 1:
        paint = painter.surface(0.8, 0.08, 0.22)
        y, slope = rng.uniform(floor + 0.3, HEIGHT_M), rng.uniform(-0.8, 0.8)
        painter.line(0, y - slope, WIDTH_M, y + slope, paint, int(rng.integers(3, 9)))
    else:
        grass = painter.surface(0.25, 0.06, 0.2, tone=0.08)
        painter.box(0, floor + rng.uniform(0.1, 1.5), WIDTH_M, rng.uniform(0.3, 2.0), grass)


def _pole(painter: _Painter, x: float, floor: float) -> None:
    rng = painter.rng
    painter.box(x, 0, rng.uniform(0.05, 0.2), floor + rng.uniform(0, 0.6), painter.surface(0.4, 0.25, 0.2))


def _car(painter: _Painter, x: float, floor: float) -> None:
    rng = painter.rng
    body, glass = painter.surface(rng.uniform(0.05, 0.9), 0.1, 0.2, tone=0.12), painter.surface(0.15, 0.06, 0.08)
    tyre, long = painter.surface(0.06, 0.02, 0.45), 3.9
    base = floor + rng.uniform(0.1, 0.6)
    roof = [(x + 0.7, base - 0.8), (x + 1.2, base - 1.3), (x + 2.7, base - 1.3), (x + 3.3, base - 0.8)]
    painter.shape("polygon", roof, glass)
    painter.box(x, base - 0.85, long, 0.65, body)
    for wheel in (0.45, 2.8):
        painter.shape("ellipse", [(x + wheel, base - 0.5), (x + wheel + 0.6, base + 0.1)], tyre)
    painter.box(x + 0.02, base - 0.7, 0.2, 0.12, painter.surface(0.85, 0.1, 0.5))


def _sign(painter: _Painter, x: float, floor: float) -> None:
    rng = painter.rng
    y, wide, tall = rng.uniform(0.2, floor - 0.5), rng.uniform(0.3, 1.4), rng.uniform(0.2, 0.8)
    painter.box(x, y, wide, tall, painter.surface(rng.uniform(0.1, 0.9), 0.1, 0.25, tone=0.2))
    for k in range(int(rng.integers(1, 4))):
        painter.line(
            x + 0.1, y + 0.1 + 0.15 * k, x + wide - 0.1, y + 0.1 + 0.15 * k, painter.surface(0.5, 0.3, 0.22), 2
        )


def _fence(painter: _Painter, x: float, floor: float) -> None:
    rng = painter.rng
    bottom, tall, bar = floor + rng.uniform(0.0, 0.5), rng.uniform(0.7, 1.4), painter.surface(0.4, 0.25, 0.15)
    _bars(painter, x, x + rng.uniform(1, 4), bottom - tall, bottom, bar, rng.uniform(0.1, 0.2))


def _bin(painter: _Painter, x: float, floor: float) -> None:
    rng = painter.rng
    wide, tall, base = rng.uniform(0.3, 0.9), rng.uniform(0.4, 1.1), floor + rng.uniform(0.05, 0.9)
    painter.box(x, base - tall, wide, tall, painter.surface(rng.uniform(0.1, 0.7), 0.1, 0.2, tone=0.1))
    painter.line(x, base - 0.85 * tall, x + wide, base - 0.85 * tall, painter.surface(0.3, 0.2, 0.2), 2)
    painter.shape("ellipse", [(x - 0.1, base - 0.06), (x + wide + 0.1, base + 0.08)], painter.surface(0.1, 0.03, 0.2))


def _tree(painter: _Painter, x: float, floor: float) -> None:
    rng = painter.rng
    painter.box(x, 0, rng.uniform(0.12, 0.35), floor + rng.uniform(0.0, 0.5), painter.surface(0.2, 0.06, 0.28))
    for _ in range(25):
        _leaf(painter, x + rng.normal(0.1, 0.6), rng.uniform(0, 0.35 * floor), rng.uniform(0.15, 0.5))


def _lamp(painter: _Painter, x: float, floor: float) -> None:
    y = painter.rng.uniform(0.1, 0.5 * floor)
    painter.shape("ellipse", [(x, y), (x + 0.25, y + 0.2)], _Surface((255, 245, 215), 235, 190))


_OBJECTS = (_pole, _car, _car, _sign, _fence, _bin, _tree, _lamp)
