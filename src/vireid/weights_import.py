"""Bundles from the checkpoints of other code bases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireid.bundle import BundleCard, bundle_digest, save_bundle
from vireid.errors import InputError
from vireid.methods import Method, build, parse_options
from vireid.nn import BackboneOptions

IMAGE_SIZE = (288, 144)
DATA_SETS = {395: "SYSU-MM01, training and validation identities", 206: "RegDB, one of its ten splits"}
"""The training sets of the official code by their number of identities."""

BLOCKS, NON_LOCAL = {"1": 3, "2": 4, "3": 6, "4": 3}, {"2": 2, "3": 3}
"""Blocks of each of ResNet-50's stages, and how many at its end are followed by non-local attention."""

STEM = {"conv1": "0", "bn1": "1"}
ATTENTION = {"theta": "theta", "phi": "phi", "g": "g", "g.0": "g", "W.0": "out", "W.1": "norm"}
STREAMS = {"visible_module.visible": 0, "thermal_module.thermal": 1}

Target = Callable[[re.Match[str]], str]


def _block(match: re.Match[str]) -> str:
    stage, block, rest = match.groups()
    plain = BLOCKS[stage] - NON_LOCAL.get(stage, 0)
    return f"network.shared.{int(stage) - 1}.{int(block) + max(0, int(block) - plain)}.{rest}"


def _attention(match: re.Match[str]) -> str:
    stage, number, layer, rest = match.groups()
    place = BLOCKS[stage] - NON_LOCAL[stage] + 2 * int(number) + 1
    return f"network.shared.{int(stage) - 1}.{place}.{ATTENTION[layer]}.{rest}"


USED: dict[str, Target] = {
    r"(visible_module\.visible|thermal_module\.thermal)\.(conv1|bn1)\.(\w+)": lambda m: (
        f"network.specific.{STREAMS[m[1]]}.0.{STEM[m[2]]}.{m[3]}"
    ),
    r"base_resnet\.base\.layer([1-4])\.(\d+)\.(.+)": _block,
    r"NL_([23])\.(\d+)\.(theta|phi|g|g\.0|W\.0|W\.1)\.(\w+)": _attention,
    r"bottleneck\.(\w+)": lambda m: f"head.neck.{m[1]}",
    r"classifier\.(\w+)": lambda m: f"head.classifier.{m[1]}",
}
"""Names of the official cross-modality AGW (Ye et al., TPAMI 2021), and where their tensors belong."""

UNUSED = (
    r"(visible_module\.visible|thermal_module\.thermal)\.(layer[1-4]|fc)\..+",
    r"base_resnet\.base\.(conv1|bn1|fc)\..+",
)
"""Layers that the official module stores and never runs."""


def import_agw(file: Path, out: Path) -> BundleCard:
    """Turn a checkpoint of AGW's official cross-modality code into a bundle.

    Args:
        file: `.t` or `.pth` file: a state dict, by itself or under `net` or `state_dict`.
        out: bundle to write.

    Returns:
        The bundle's card.

    Raises:
        InputError: for a file that cannot be read safely, or whose tensors are not those of AGW's ResNet-50.
    """
    weights = rename_agw(read_state(file), file)
    classes = len(weights["head.classifier.weight"])
    backbone = BackboneOptions(name="resnet50", weights="none")
    method = build("agw", num_classes=classes, backbone=backbone)
    _load(method, weights, file)
    card = BundleCard(
        method="agw",
        options=parse_options("agw", {}).model_dump(mode="json"),
        backbone=backbone,
        num_classes=classes,
        image_size=IMAGE_SIZE,
        mean=method.mean,
        std=method.std,
        training_data=f"{DATA_SETS.get(classes, f'unknown, {classes} identities')}; trained elsewhere, imported from "
        f"the official AGW checkpoint {file.name}, SHA-256 {bundle_digest(file)}",
        precision="32",
        selection="of another code base; the official one keeps the best rank-1 on the test set",
    )
    save_bundle(out, method, card)
    return card


def read_state(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch file without running any code of it; `module.` prefixes are dropped.

    Raises:
        InputError: when the file is missing, torn, or holds anything but tensors, arrays and plain values.
    """
    if not file.is_file():
        raise InputError(f"checkpoint {file}: no such file")
    try:
        with torch.serialization.safe_globals(_arrays()):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several types on torn or hostile files
        raise InputError(f"checkpoint {file} is damaged or holds more than weights: get it again") from error
    for key in ("net", "state_dict"):
        content = content.get(key, content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"checkpoint {file} holds no state dict: give the file that the official code has saved")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def rename_agw(state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Give the tensors of an official AGW the names of ours, and leave out those that it never runs.

    Raises:
        InputError: naming a tensor that the official code does not have.
    """
    renamed, strange = {}, []
    for name, value in state.items():
        found = [target(match) for pattern, target in USED.items() if (match := re.fullmatch(pattern, name))]
        if found:
            renamed[found[0]] = value
        elif not any(re.fullmatch(pattern, name) for pattern in UNUSED):
            strange.append(name)
    if strange or "head.classifier.weight" not in renamed:
        problem = f"{len(strange)} unknown tensors, such as {strange[0]}" if strange else "no classifier.weight"
        raise InputError(f"checkpoint {file} is none of the official cross-modality AGW: it has {problem}")
    return renamed


def _load(method: Method, weights: dict[str, Tensor], file: Path) -> None:
    own = method.state_dict()
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    strange = [name for name, value in weights.items() if name not in own or own[name].shape != value.shape]
    if missing or strange:
        faults = [*(f"{name} is missing" for name in missing), *(f"{name} does not fit" for name in strange)]
        raise InputError(
            f"checkpoint {file} does not fit AGW with a ResNet-50 ({len(faults)} tensors): {', '.join(faults[:3])}"
        )
    method.load_state_dict(weights, strict=False)


def _arrays() -> list[Any]:
    """Return what NumPy arrays and numbers are pickled as: the official code stores its test results so."""
    functions: list[Any] = [np.zeros(1).__reduce__()[0], np.float64().__reduce__()[0]]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    rebuild = [(function, f"{module}.{function.__name__}") for function in functions for module in modules]
    return [*rebuild, np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")}]
