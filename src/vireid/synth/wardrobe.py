"""An identity: a body shape and the clothes it wears, with what each material looks like to each sensor."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vireid.synth.body import Shape, sample_shape

LUMINANCE = np.array([0.299, 0.587, 0.114])

PALETTE = np.array(
    [
        *((0.08, 0.08, 0.09), (0.16, 0.16, 0.18), (0.12, 0.15, 0.28), (0.25, 0.33, 0.48), (0.42, 0.43, 0.45)),
        *((0.88, 0.88, 0.86), (0.72, 0.65, 0.52), (0.38, 0.27, 0.20), (0.36, 0.38, 0.25), (0.70, 0.13, 0.14)),
        *((0.42, 0.10, 0.17), (0.85, 0.55, 0.60), (0.86, 0.72, 0.25), (0.20, 0.45, 0.28), (0.18, 0.50, 0.58)),
        *((0.42, 0.30, 0.55), (0.55, 0.68, 0.85), (0.80, 0.42, 0.18), (0.62, 0.62, 0.60), (0.20, 0.30, 0.66)),
    ]
)
"""sRGB of common fabrics: black, charcoal, navy, denim, grey, white, beige, brown, olive, red, …"""

PALETTE_WEIGHTS = np.array([6, 4, 5, 5, 4, 8, 5, 4, 4, 4, 4, 4, 4, 4, 4, 3, 5, 3, 4, 4]) / 88
HAIR = np.array([(0.07, 0.06, 0.05), (0.18, 0.12, 0.08), (0.33, 0.22, 0.12), (0.62, 0.48, 0.28), (0.6, 0.6, 0.6)])
SKIN = np.array([(0.91, 0.74, 0.64), (0.82, 0.63, 0.50), (0.66, 0.46, 0.34), (0.45, 0.30, 0.22), (0.32, 0.21, 0.16)])


class Slot(IntEnum):
    """What a surface is made of: the rows of an identity's material table."""

    SKIN = 0
    HAIR = 1
    UPPER = 2
    LOWER = 3
    SHOES = 4
    HAT = 5
    BAG = 6
    EYES = 7


class Pattern(IntEnum):
    """How a fabric's second colour is laid out."""

    PLAIN = 0
    HORIZONTAL = 1
    VERTICAL = 2
    CHECK = 3
    PRINT = 4
    BLOCK = 5
    OPEN = 6


@dataclass(frozen=True)
class Materials:
    """What the sensors see of each `Slot` (rows).

    Attributes:
        rgb, rgb2: (M, 3) visible albedo in sRGB, [0, 1], of the first and the second colour.
        nir, nir2: (M,) near-infrared albedo, [0, 1].
        heat: (M,) surface temperature from the air's (0) to the skin's (1).
        pattern: (M,) `Pattern`.
        period: (M,) metres of one repeat of the pattern.
        folds: (M,) strength of creases.
    """

    rgb: NDArray[np.float32]
    rgb2: NDArray[np.float32]
    nir: NDArray[np.float32]
    nir2: NDArray[np.float32]
    heat: NDArray[np.float32]
    pattern: NDArray[np.int64]
    period: NDArray[np.float32]
    folds: NDArray[np.float32]


@dataclass(frozen=True)
class Outfit:
    """Cut of the clothes. Lengths are fractions of the limb, or metres where the name says so."""

    sleeve: float
    hem_m: float
    upper_ease_m: float
    lower: str
    lower_length: float
    lower_ease_m: float
    flare_m: float
    boots: bool
    hair: str
    hat: str
    hood: bool
    scarf: bool
    bag: str


@dataclass(frozen=True)
class Identity:
    """One person in one set of clothes."""

    shape: Shape
    outfit: Outfit
    materials: Materials


def sample_identity(rng: Generator, nir_correlation: float) -> Identity:
    """Draw a person: shape, cut, colours, and what infrared makes of them."""
    outfit = _sample_outfit(rng)
    return Identity(sample_shape(rng), outfit, _sample_materials(rng, outfit, nir_correlation))


def nir_albedo(luminance: NDArray[Any], rng: Generator, correlation: float) -> NDArray[Any]:
    """Near-infrared albedo of fabrics whose correlation with visible luminance is `correlation`.

    A dye says little about reflectance beyond 750 nm: a share of the value comes from an independent fabric.

    Args:
        luminance: (N,) of visible albedo drawn from the palette.
        rng: source of the independent share.
        correlation: Pearson correlation over the palette, in [0, 1].
    """
    mean = float(PALETTE_WEIGHTS @ (PALETTE @ LUMINANCE))
    other = PALETTE[rng.choice(len(PALETTE), len(luminance), p=PALETTE_WEIGHTS)] @ LUMINANCE
    return mean + correlation * (luminance - mean) + np.sqrt(1 - correlation**2) * (other - mean)


def _fabric(rng: Generator) -> NDArray[Any]:
    colour = PALETTE[rng.choice(len(PALETTE), p=PALETTE_WEIGHTS)]
    return (colour * rng.uniform(0.7, 1.3) + rng.normal(0, 0.03, 3)).clip(0.03, 0.95)


def _sample_outfit(rng: Generator) -> Outfit:
    coat = rng.random() < 0.25
    lower = str(rng.choice(["trousers", "trousers", "trousers", "shorts", "skirt"]))
    return Outfit(
        sleeve=1.0 if coat or rng.random() < 0.55 else float(rng.choice([0.0, 0.25, 0.4, 0.7])),
        hem_m=float(rng.uniform(0.25, 0.6)) if coat else float(rng.uniform(0.0, 0.16)),
        upper_ease_m=float(rng.uniform(0.02, 0.04)) if coat else float(rng.uniform(0.004, 0.03)),
        lower=lower,
        lower_length={"trousers": 1.0, "shorts": 0.35, "skirt": 0.5}[lower] * float(rng.uniform(0.85, 1.12)),
        lower_ease_m=float(rng.uniform(0.002, 0.028)),
        flare_m=float(rng.uniform(0.01, 0.1)),
        boots=bool(rng.random() < 0.2),
        hair=str(rng.choice(["short", "short", "short", "long", "long", "bun", "bald"])),
        hat=str(rng.choice(["none", "none", "none", "cap", "beanie", "brim"])),
        hood=bool(rng.random() < 0.12),
        scarf=bool(rng.random() < 0.12),
        bag=str(rng.choice(["none", "none", "backpack", "backpack", "shoulder", "hand"])),
    )


def _sample_materials(rng: Generator, outfit: Outfit, nir_correlation: float) -> Materials:
    count = len(Slot)
    rgb = np.stack([_fabric(rng) for _ in range(count)])
    rgb2 = np.stack([_fabric(rng) for _ in range(count)])
    rgb[Slot.SKIN] = rgb2[Slot.SKIN] = SKIN[rng.integers(len(SKIN))] * rng.uniform(0.92, 1.08)
    rgb[Slot.HAIR] = rgb2[Slot.HAIR] = HAIR[rng.choice(len(HAIR), p=[0.35, 0.3, 0.2, 0.08, 0.07])]
    rgb[Slot.EYES] = rgb2[Slot.EYES] = 0.08
    rgb[Slot.SHOES] *= rng.choice([0.4, 0.7, 1.0])
    nir = nir_albedo(rgb @ LUMINANCE, rng, nir_correlation)
    nir2 = nir_albedo(rgb2 @ LUMINANCE, rng, nir_correlation)
    nir[Slot.SKIN] = nir2[Slot.SKIN] = rng.uniform(0.58, 0.7)
    nir[Slot.HAIR] = nir2[Slot.HAIR] = rng.uniform(0.12, 0.35)
    pattern = np.zeros(count, dtype=np.int64)
    pattern[Slot.UPPER] = rng.choice(len(Pattern), p=[0.36, 0.13, 0.05, 0.07, 0.14, 0.1, 0.15])
    pattern[Slot.LOWER] = rng.choice([Pattern.PLAIN, Pattern.VERTICAL, Pattern.CHECK], p=[0.86, 0.07, 0.07])
    pattern[Slot.BAG] = rng.choice([Pattern.PLAIN, Pattern.BLOCK])
    folds = np.array([0.0, 0.12, 0.17, 0.15, 0.05, 0.05, 0.08, 0.0])
    return Materials(
        rgb=rgb.clip(0.02, 0.97).astype(np.float32),
        rgb2=rgb2.clip(0.02, 0.97).astype(np.float32),
        nir=nir.clip(0.04, 0.95).astype(np.float32),
        nir2=nir2.clip(0.04, 0.95).astype(np.float32),
        heat=_heat(rng, outfit).astype(np.float32),
        pattern=pattern,
        period=rng.uniform(0.07, 0.2, count).astype(np.float32),
        folds=folds.astype(np.float32),
    )


def _heat(rng: Generator, outfit: Outfit) -> NDArray[Any]:
    """Surface temperature of each slot: thick, loose clothes insulate; bags carry no warmth."""
    heat = np.empty(len(Slot))
    heat[Slot.SKIN] = rng.uniform(0.9, 1.0)
    heat[Slot.HAIR] = rng.uniform(0.5, 0.7)
    heat[Slot.UPPER] = rng.uniform(0.4, 0.75) - 6 * outfit.upper_ease_m
    heat[Slot.LOWER] = rng.uniform(0.48, 0.82) - 5 * outfit.lower_ease_m
    heat[Slot.SHOES] = rng.uniform(0.2, 0.4)
    heat[Slot.HAT] = rng.uniform(0.35, 0.55)
    heat[Slot.BAG] = rng.uniform(0.05, 0.2)
    heat[Slot.EYES] = 1.0
    return heat
