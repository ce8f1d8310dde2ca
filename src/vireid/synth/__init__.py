"""Rendered pedestrians in colour, near-infrared and thermal images: data for everyone without a signed agreement."""

from vireid.synth.dataset import write_dataset
from vireid.synth.difficulty import PRESETS, Difficulty, Preset

__all__ = ["PRESETS", "Difficulty", "Preset", "write_dataset"]
