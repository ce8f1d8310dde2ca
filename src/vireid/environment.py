"""What a result depends on besides the recipe: versions, machine, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vireid import __version__

PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "pillow", "safetensors")


@cache
def git_commit() -> str:
    """Return the checkout's commit (`+` marks uncommitted changes), or an empty string outside a checkout."""
    folder = Path(__file__).resolve().parent
    if not (folder.parents[1] / ".git").exists():  # an installed package may lie in another project's checkout
        return ""
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def describe_environment() -> dict[str, Any]:
    """Return versions, processor, devices and commit."""
    return {
        "vireid": __version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def cpu_model() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
