"""Number format and memory layout by device, in one place.

The choices are measurements (`benchmarks/precision.py`): on CPUs with AVX-512 BF16 or AMX, ResNet-50 at 288x144
trains about 3 times and a ViT-S at 256x128 2.4 times as fast in bfloat16 as in float32, while the depthwise
convolutions of EfficientNet are fastest in float32; channels-last is fastest for all. CUDA devices run bfloat16 where
they have it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Name = Literal["32", "bf16", "16"]
Wanted = Literal["auto", "32", "bf16", "16"]

PRECISIONS: dict[str, Wanted] = {"auto": "auto", "float32": "32", "bfloat16": "bf16"}
"""`--precision` of the commands and what it is called here."""


@dataclass(frozen=True)
class Precision:
    """A number format for the forward pass and a memory layout for maps."""

    name: Name
    memory_format: torch.memory_format = torch.channels_last

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context to run forward passes in."""
        if self.name == "32":
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16 if self.name == "bf16" else torch.float16)

    @property
    def plugin(self) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
        """Lightning's name of it."""
        names: dict[Name, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
            "32": "32-true",
            "bf16": "bf16-mixed",
            "16": "16-mixed",
        }
        return names[self.name]


def default_device() -> torch.device:
    """Return CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(module: nn.Module, device: torch.device, wanted: Wanted = "auto") -> Precision:
    """Return the precision for a network on a device; `wanted` other than `auto` is taken as it is."""
    if wanted != "auto":
        return Precision(wanted)
    if device.type == "cuda":  # those before Ampere emulate bfloat16
        return Precision("bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "16")
    if device.type == "cpu" and cpu_has_bf16() and not has_depthwise(module):
        return Precision("bf16")
    return Precision("32")


def cpu_has_bf16() -> bool:
    """Tell whether the CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX)."""
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, flag, bool)() for flag in flags)


def has_depthwise(module: nn.Module) -> bool:
    """Tell whether a network convolves channel by channel."""
    return any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in module.modules())
