"""Three sensors looking at the same surfaces: daylight reflection, active near infrared, and thermal emission.

Images are float32 in [0, 1]: (H, W, 3) visible, (H, W) infrared. Reflected light is added in squared (linear-light)
values and shown through a square root, a cheap stand-in for the sRGB curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter, uniform_filter1d

from vireid.synth.camera import Camera
from vireid.synth.render import BACKGROUND_DEPTH, Surface
from vireid.synth.wardrobe import LUMINANCE, Materials, Pattern, Slot

Image2D = NDArray[np.float32]


@dataclass(frozen=True)
class Stage:
    """A crop ready to be lit: the surfaces in front and the background behind them.

    Attributes:
        surface: traced foreground.
        material: (N,) row of `materials` of each foreground pixel.
        radius: (N,) metres, half width of the solid that was hit.
        materials: table of all people in the crop.
        background: (H, W, 3) or (H, W) of albedo or heat in [0, 1].
        feet_row: row on which the person stands.
    """

    surface: Surface
    material: NDArray[np.int64]
    radius: NDArray[np.float32]
    materials: Materials
    background: NDArray[np.float32]
    feet_row: float


@lru_cache(maxsize=1)
def _cloth_noise() -> NDArray[np.float32]:
    """(2, 256, 256) smooth, tileable noise: creases of cloth."""
    rng = np.random.default_rng(7)
    noise = rng.standard_normal((2, 256, 256), dtype=np.float32)
    for _ in range(3):
        noise = uniform_filter(noise, (0, 9, 21), mode="wrap")
    return noise / noise.std()


@dataclass(frozen=True)
class Conditions:
    """Light and weather of one image.

    Attributes:
        night: visible: lamps instead of daylight; thermal: cool ground instead of sun-warmed.
        texture_loss: share of fabric pattern that near infrared loses, [0, 1].
        sun_warmth: how much warmer than a white fabric a black one is in thermal images.
        lighting: factor of the changes of light, exposure and temperature between images.
    """

    night: bool
    texture_loss: float
    sun_warmth: float
    lighting: float


def expose(stage: Stage, camera: Camera, rng: Generator, conditions: Conditions) -> NDArray[np.float32]:
    """Light a stage as the camera's spectrum sees it."""
    normal, crevice = _creased(stage, rng), _crevices(stage.surface)
    if camera.spectrum == "visible":
        return _visible(stage, camera, rng, normal, crevice, conditions)
    if camera.spectrum == "nir":
        return _nir(stage, camera, rng, normal, crevice, conditions)
    return _lwir(stage, camera, rng, normal, conditions)


def _creased(stage: Stage, rng: Generator) -> NDArray[np.float32]:
    """Bend the normals by the folds of the cloth."""
    surface, noise = stage.surface, _cloth_noise()
    shift = rng.integers(0, 256, 2)
    u = (surface.across * 200).astype(np.int64) + shift[0] + 31 * surface.solid
    v = (surface.along * 200).astype(np.int64) + shift[1]
    bend = noise[:, u & 255, v & 255] * (stage.materials.folds[stage.material])
    normal = surface.normal.copy()
    normal[:, :2] += bend.T
    return normal / np.sqrt(np.einsum("ij,ij->i", normal, normal))[:, None]


def _crevices(surface: Surface) -> NDArray[np.float32]:
    """(N,) ambient light left where nearer neighbours stand around a pixel, [0.45, 1]."""
    depth = np.where(surface.depth > BACKGROUND_DEPTH, surface.depth, np.float32(-0.6))
    around = uniform_filter(depth, 1 + depth.shape[0] // 12)
    sunk = (around - depth).ravel()[surface.index]
    return 1 - (4.0 * sunk).clip(0, 0.55)


def _second_colour(stage: Stage) -> NDArray[np.float32]:
    """(N,) share of the material's second colour at each foreground pixel."""
    surface = stage.surface
    pattern, period = stage.materials.pattern[stage.material], stage.materials.period[stage.material]
    trunk = stage.radius > 0.1
    rows, columns = (surface.along / period) % 1 < 0.45, (surface.across / period) % 1 < 0.4
    front = trunk & (surface.facing > 0.1)
    chest = front & (np.abs(surface.across) < 1.1 * period) & (surface.along % 0.5 < 2.4 * period)
    share = np.zeros(len(surface.index), dtype=np.float32)
    share[(pattern == Pattern.HORIZONTAL) & rows] = 1
    share[(pattern == Pattern.VERTICAL) & columns] = 1
    check = pattern == Pattern.CHECK
    share[check] = 0.5 * rows[check] + 0.5 * columns[check]
    share[(pattern == Pattern.PRINT) & chest] = 1
    share[(pattern == Pattern.BLOCK) & (surface.along > 2 * period)] = 1
    share[(pattern == Pattern.OPEN) & front & (np.abs(surface.across) < 0.045 + 0.2 * period)] = 1
    return share


def _blend(first: NDArray[Any], second: NDArray[Any], share: NDArray[Any]) -> NDArray[Any]:
    return first + share * (second - first)


def _ground_shadow(stage: Stage, strength: float, slant: float, squash: float) -> Image2D:
    """(H, W) light left on the ground: the person's silhouette laid down from its feet, softened."""
    height, width = stage.surface.depth.shape
    mask = Image.fromarray(((stage.surface.depth > BACKGROUND_DEPTH) * 255).astype(np.uint8))
    feet = stage.feet_row
    laid = (1.0, slant, -slant * feet, 0.0, 1 / squash, feet - feet / squash)
    shadow = mask.transform((width, height), Image.Transform.AFFINE, laid, Image.Resampling.BILINEAR)
    soft = uniform_filter(np.asarray(shadow, dtype=np.float32), 1 + height // 40)
    return 1 - np.float32(strength / 255) * soft


def _composite(background: NDArray[Any], index: NDArray[np.int64], colour: NDArray[Any]) -> NDArray[np.float32]:
    image = background.astype(np.float32)
    image.reshape(-1, *image.shape[2:])[index] = colour
    return image


def _draw(rng: Generator, low: float, high: float, spread: float) -> np.float32:
    """Draw from the range [low, high] shrunk about its middle by `spread`."""
    return np.float32(0.5 * (low + high) + spread * rng.uniform(-0.5, 0.5) * (high - low))


def _visible(
    stage: Stage, camera: Camera, rng: Generator, normal: NDArray[Any], crevice: NDArray[Any], conditions: Conditions
) -> NDArray[np.float32]:
    night, change = conditions.night, conditions.lighting
    materials, share = stage.materials, _second_colour(stage)[:, None]
    albedo = _blend(materials.rgb[stage.material], materials.rgb2[stage.material], share) ** 2
    sun = change * rng.normal(0, 1, 3) * (0.8, 0.3, 0.5) + (0, 0.8, 0.5)
    sun = (sun / np.linalg.norm(sun)).astype(np.float32)
    hard = _draw(rng, 0.5, 1.2, change) if night else _draw(rng, 0.1, 1.0, change)
    warm = np.array([1.25, 1.0, 0.7] if night else [1.05, 1.0, 0.95], dtype=np.float32)
    ambient = np.float32(0.2 if night else 0.55)
    sky = (ambient * (0.72 + 0.28 * normal[:, 1]) * crevice)[:, None] * np.array([0.95, 1.0, 1.08], dtype=np.float32)
    key = (hard * (normal @ sun).clip(0) * (0.5 + 0.5 * crevice))[:, None] * warm
    shadow = _ground_shadow(stage, 0.35 + 0.4 * min(float(hard), 1.0), rng.uniform(-1.5, 1.5), rng.uniform(0.1, 0.4))
    ground = (ambient + np.float32(0.55) * hard * warm) * _draw(rng, 0.8, 1.2, change)
    image = _composite(stage.background**2 * shadow[..., None] * ground, stage.surface.index, albedo * (sky + key))
    grey = (image @ np.full(3, 1 / 3, dtype=np.float32))[..., None]
    image = grey + np.float32(camera.saturation) * (image - grey)
    white = np.asarray(camera.tint) * (1 + change * rng.normal(0, 0.03, 3)) / warm**0.6
    gain = _draw(rng, 0.85, 1.25, change) * camera.contrast / (ambient + 0.45 * hard)
    return np.sqrt((image * (gain * white).astype(np.float32)).clip(0) + _draw(rng, 0, 0.03, change))


def _nir(
    stage: Stage, camera: Camera, rng: Generator, normal: NDArray[Any], crevice: NDArray[Any], conditions: Conditions
) -> Image2D:
    """Light from a lamp at the camera: it falls off with distance, fades at the rim and saturates up close."""
    materials, change = stage.materials, conditions.lighting
    share = (1 - conditions.texture_loss) * _second_colour(stage)
    albedo = _blend(materials.nir[stage.material], materials.nir2[stage.material], share) ** 2
    depth = stage.surface.depth.ravel()[stage.surface.index]
    lamp = (0.2 + 0.8 * normal[:, 2].clip(0)) * (1 + 0.12 * depth) * (0.4 + 0.6 * crevice)
    height, width = stage.background.shape
    row = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    column = np.linspace(-1, 1, width, dtype=np.float32)
    falloff = _draw(rng, 0.08, 0.35, change) * (0.6 + 0.8 * row)
    off_axis = (column - change * rng.normal(0, 0.3)) ** 2 + (row - _draw(rng, 0.2, 0.7, change)) ** 2
    beam = np.exp(-off_axis * _draw(rng, 0.1, 0.6, change)).astype(np.float32)
    shadow = _ground_shadow(stage, 0.35, 0.0, 0.12)
    image = _composite(stage.background**2 * falloff * shadow, stage.surface.index, albedo * lamp)
    exposed = image * beam * _draw(rng, 0.9, 1.6, change) * np.float32(camera.contrast)
    return np.sqrt(exposed / (1 + 0.35 * exposed) + _draw(rng, 0.0, 0.02, change))


def _lwir(stage: Stage, camera: Camera, rng: Generator, normal: NDArray[Any], conditions: Conditions) -> Image2D:
    """Emission; people stand out against cool ground at night and sink into warm walls by day."""
    change = conditions.lighting
    heat = _heat(stage, conditions.sun_warmth)
    person = heat * (0.8 + 0.2 * normal[:, 2]) * (1 + 0.1 * (normal[:, 0] - stage.surface.normal[:, 0]))
    spread = _draw(rng, 0.5, 1.1, change)
    air, contrast = (0.16, spread) if conditions.night else (_draw(rng, 0.42, 0.67, change), 1.2 * spread)
    image = _composite(air + contrast * (stage.background - np.float32(0.2)), stage.surface.index, person)
    silhouette = (stage.surface.depth > BACKGROUND_DEPTH).astype(np.float32)
    size = image.shape[0]
    halo = uniform_filter(uniform_filter(silhouette, size // 7), size // 7)
    image += _draw(rng, -0.14, 0.08, change) * halo * (1 - silhouette)
    low, gain = _draw(rng, -0.05, 0.12, change), _draw(rng, 0.65, 1.0, change) * np.float32(camera.contrast)
    return (image - low) * gain + _draw(rng, 0.0, 0.12, change)


def _heat(stage: Stage, sun_warmth: float) -> NDArray[np.float32]:
    """(N,) surface temperature of each foreground pixel: fabrics take up light, the darker the more."""
    materials, slot = stage.materials, stage.material % len(Slot)
    first, second = materials.rgb @ LUMINANCE, materials.rgb2 @ LUMINANCE
    bright = _blend(first[stage.material], second[stage.material], _second_colour(stage))
    warmed = np.float32(sun_warmth) * (np.float32(0.5) - bright) * ((slot != Slot.SKIN) & (slot != Slot.EYES))
    return materials.heat[stage.material] + warmed


def degrade(
    image: NDArray[np.float32], rng: Generator, *, rows: int, blur: float, motion: float, noise: float, fixed: float
) -> NDArray[np.uint8]:
    """Read a sharp image out of a poor sensor of `rows` lines.

    Args:
        image: (H, W[, 3]) in [0, 1], larger than the sensor.
        rng: source of the noise.
        rows: lines that the person covers on the sensor.
        blur: width of the optics' blur in sensor pixels.
        motion: horizontal motion blur in sensor pixels.
        noise: standard deviation of the read-out noise; shadows carry more.
        fixed: standard deviation of the columns' fixed pattern (thermal).
    """
    height, width = image.shape[:2]
    per_row = height / rows
    for axis, spread in ((0, blur), (1, blur + motion)):
        size = round(per_row * spread)
        if size > 1:
            image = uniform_filter1d(image, size, axis=axis)
    sharp = Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8))
    sampled = sharp.resize((max(8, round(width / per_row)), rows), Image.Resampling.BILINEAR)
    read = np.asarray(sampled, dtype=np.float32)
    grain = rng.standard_normal(read.shape, dtype=np.float32) * (255 * noise) * (1.3 - 0.6 * read / 255)
    stripes = rng.standard_normal((1, read.shape[1]), dtype=np.float32) * np.float32(255 * fixed)
    grain += stripes.reshape(stripes.shape + (1,) * (read.ndim - 2))
    return (read + grain).clip(0, 255).astype(np.uint8)
