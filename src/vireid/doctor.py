"""What `vireid doctor` looks at."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vireid.data.images import cache_folder
from vireid.environment import describe_environment
from vireid.errors import InputError
from vireid.nn import BackboneOptions, build_backbone
from vireid.precision import choose_precision, cpu_has_bf16, default_device


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    value: str
    ok: bool = True


def examine(roots: Sequence[Path] = ()) -> Iterator[Check]:
    """Yield the state of versions, device, precision, weights, cache and data roots."""
    environment = describe_environment()
    yield Check("vireid", f"{environment['vireid']} {environment['commit']}".strip())
    yield Check("python", sys.version.split()[0], sys.version_info >= (3, 11))
    for package, version in environment["packages"].items():
        yield Check(package, version)
    device = default_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else environment["cpu"]
    yield Check("device", f"{device.type}: {name}, {torch.get_num_threads()} threads")
    yield Check("bfloat16 on the CPU", "in hardware" if cpu_has_bf16() else "not in hardware: float32 is used")
    yield from _weights(device)
    folder = cache_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    yield Check("image cache", f"{folder}, {shutil.disk_usage(existing).free / 1e9:.0f} GB free")
    for root in roots:
        yield Check("data", f"{root} {'found' if root.is_dir() else 'is no folder'}", root.is_dir())


def _weights(device: torch.device) -> Iterator[Check]:
    try:
        backbone = build_backbone(BackboneOptions())
    except InputError as error:
        yield Check("EfficientNet-Lite0 weights", str(error), ok=False)
        return
    yield Check("EfficientNet-Lite0 weights", f"packaged, precision {choose_precision(backbone, device).name}")
