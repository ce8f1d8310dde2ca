"""The named knobs that decide how hard the synthetic data is, and the presets made of them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Difficulty:
    """How far apart two photographs of one person may be.

    Attributes:
        nir_correlation: Pearson correlation of fabrics' visible luminance and near-infrared albedo, [0, 1].
        texture_loss: share of the fabric pattern that near infrared loses, [0, 1].
        view_range_deg: largest turn from the front or back view; 90 shows people from all sides.
        night: share of moments lit by lamps in visible images.
        sun_warmth: how much warmer than a white fabric a black one is in thermal images; 1 is skin above the air.
        inversion: share of thermal moments by day, when ground and walls are as warm as clothes.
        lighting: factor of the changes of light, exposure and temperature between images.
        noise: largest standard deviation of the read-out noise, fraction of full scale.
        blur: factor of optical and motion blur.
        clutter: factor of objects in the background and of passers-by.
        occlusion: share of images with something in front of the person.
        box_jitter: standard deviation of the box's edges, fraction of the person's height.
        resolution: range of sensor lines that a person covers, before scaling to the stored size.
        jpeg_quality: range of the stored quality.
    """

    nir_correlation: float = 0.985
    texture_loss: float = 0.15
    view_range_deg: float = 30.0
    night: float = 0.25
    sun_warmth: float = 0.8
    inversion: float = 0.15
    lighting: float = 0.6
    noise: float = 0.01
    blur: float = 0.5
    clutter: float = 0.7
    occlusion: float = 0.02
    box_jitter: float = 0.03
    resolution: tuple[int, int] = (88, 128)
    jpeg_quality: tuple[int, int] = (60, 92)


@dataclass(frozen=True)
class Preset:
    """Counts and difficulty of a data set.

    Attributes:
        train, val, test: identities in each split.
        images: images per identity in (visible, nir, lwir).
        shared: of those, how many per spectrum show an instant that the other spectra saw too.
        difficulty: see `Difficulty`.
        seed: what all randomness of the fixed data set starts from.
    """

    train: int
    val: int
    test: int
    images: tuple[int, int, int] = (3, 3, 3)
    shared: int = 1
    difficulty: Difficulty = field(default_factory=Difficulty)
    seed: int = 0

    def split_ids(self, ids: int | None = None) -> dict[str, range]:
        """Return the identities 1, 2, … of each split; `ids` in all, shared out in the preset's proportions."""
        counts = self.train, self.val, self.test
        total = sum(counts) if ids is None else ids
        test = max(1, round(total * self.test / sum(counts)))
        val = max(1, round(total * self.val / sum(counts))) if self.val else 0
        train = total - val - test
        return {
            "train": range(1, train + 1),
            "val": range(train + 1, train + val + 1),
            "test": range(train + val + 1, total + 1),
        }


PRESETS = {
    "demo": Preset(
        train=1000,
        val=30,
        test=50,
        images=(3, 3, 0),
        difficulty=Difficulty(view_range_deg=20.0, night=0.1, lighting=0.4, clutter=0.4, occlusion=0.0),
    ),
    "synthetic-v1": Preset(train=2000, val=50, test=100),
    "synthetic-wide": Preset(
        train=6000,
        val=50,
        test=100,
        seed=7,
        difficulty=Difficulty(
            nir_correlation=0.85,
            texture_loss=0.25,
            view_range_deg=75,
            night=0.35,
            sun_warmth=0.6,
            inversion=0.2,
            lighting=0.8,
            noise=0.02,
            blur=0.8,
            clutter=1.0,
            occlusion=0.1,
            box_jitter=0.04,
            resolution=(64, 128),
            jpeg_quality=(50, 92),
        ),
    ),
    "synthetic-hard": Preset(
        train=3000,
        val=200,
        test=500,
        images=(8, 6, 6),
        difficulty=Difficulty(
            nir_correlation=0.4,
            texture_loss=0.5,
            view_range_deg=90,
            night=0.5,
            sun_warmth=0.15,
            inversion=0.25,
            lighting=1.0,
            noise=0.05,
            blur=1.2,
            clutter=1.6,
            occlusion=0.3,
            box_jitter=0.05,
            resolution=(48, 128),
            jpeg_quality=(40, 90),
        ),
    ),
}
