"""The portable model file: one `.safetensors` file whose metadata says all that is needed to use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vireid import __version__
from vireid.errors import InputError
from vireid.files import file_digest, replacing
from vireid.methods import Method, build
from vireid.nn import BackboneOptions
from vireid.options import Options, describe
from vireid.precision import Wanted
from vireid.weights import find

METADATA_KEY = "vireid"
Pixels = Annotated[int, Field(gt=0, le=4096)]


class BundleCard(Options):
    """What a bundle knows about itself: how to rebuild the network, how to feed it, where it comes from."""

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    backbone: BackboneOptions = BackboneOptions()
    num_classes: int = Field(gt=0, le=10_000_000)
    image_size: tuple[Pixels, Pixels]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    training_data: str = Field(description="data set and split, `synthetic` named as such")
    label_map: str = Field("", description="digest of the training identities")
    encoder: str = Field("", description="digest of the bundle whose features a refiner was trained on")
    epochs: int = 0
    precision: Wanted = Field("auto", description="of the training, which evaluations take too")
    seed: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    selection: str = Field("last", description="last, or best and on what")
    commit: str = ""
    license: str = "the terms of the training data apply to these weights"
    limits: str = (
        "Ranks candidates by the similarity of clothing and build; it does not identify a person. Accuracy falls with "
        "occlusion, poor light, unseen cameras and changed clothes. A person must check every candidate."
    )
    version: str = __version__

    @field_validator("mean", "std")
    @classmethod
    def _by_channel(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) not in (0, 3):  # a refiner sees no pixels
            raise ValueError("takes three numbers")
        return value


def save_bundle(path: Path, method: Method, card: BundleCard, dtype: torch.dtype = torch.float32) -> None:
    """Write a method without its terms and training-only tensors; whole or not at all."""
    dropped = ("terms.", *method.training_only())
    weights = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in method.state_dict().items()
        if not name.startswith(dropped)
    }
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata={METADATA_KEY: card.model_dump_json()})


def read_card(path: Path) -> BundleCard:
    """Read a bundle's metadata without its weights.

    Raises:
        InputError: when the file is missing, torn or not a bundle.
    """
    path = _existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError) as error:
        raise InputError(f"bundle {path} is damaged or no safetensors file ({error}): copy it again") from error
    if text is None:
        raise InputError(f"{path} is a safetensors file but no bundle: name one that vireid train has written")
    try:
        return BundleCard.model_validate_json(text)
    except ValidationError as error:
        problem = describe(error, BundleCard)
        remedy = "open it with that version, or train it again"
        raise InputError(f"bundle {path} was made by another version of vireid ({problem}): {remedy}") from error


def resolve_bundle(model: Path, select: str = "last") -> Path:
    """Return a bundle file from a bundle or a run folder.

    Raises:
        InputError: for an unknown selection or a folder without that bundle.
    """
    if select not in ("last", "best"):
        raise InputError(f"unknown selection {select!r}: use last or best")
    if not model.is_dir():
        return find(model)
    bundle = model / f"{select}.safetensors"
    if not bundle.is_file():
        raise InputError(f"{model} has no {bundle.name}: wait for the first epoch's end, or name a run or bundle")
    return bundle


def bundle_digest(path: Path) -> str:
    """Return the SHA-256 of a bundle's bytes, by which a refiner knows its encoder.

    Raises:
        InputError: when there is no such file.
    """
    return file_digest(_existing(path))


def load_bundle(path: Path, options: dict[str, Any] | None = None) -> tuple[Method, BundleCard]:
    """Rebuild a method from a bundle, in eval mode, on the CPU, float32.

    Args:
        path: bundle file, or the name of one that ships.
        options: test-time options that replace the bundle's, such as CM-LSP-GE's `test_distance`.

    Raises:
        InputError: when the file is no bundle, its network cannot be built, or its tensors do not fit it or are not
            finite.
    """
    card = read_card(path)
    card = card.model_copy(update={"options": {**card.options, **(options or {})}})
    backbone = card.backbone.model_copy(update={"weights": "none"})
    try:
        method = build(card.method, num_classes=card.num_classes, backbone=backbone, training=False, **card.options)
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes that no memory holds
        raise InputError(f"bundle {path} asks for a network that cannot be built ({error}): train it again") from error
    weights = load_file(find(path))
    wanted, found = _kinds(method.state_dict()), _kinds(weights)
    needed = {name: kind for name, kind in wanted.items() if not name.startswith(method.training_only())}
    misfits = sorted(name for name in needed | found if wanted.get(name) != found.get(name))
    if misfits:
        changed = f" with {', '.join(options)} changed" if options else ""
        raise InputError(f"bundle {path} does not fit method {card.method}{changed}: tensor {misfits[0]}")
    if broken := sorted(name for name in weights if not bool(weights[name].isfinite().all())):
        raise InputError(f"bundle {path} holds numbers that are not finite in tensor {broken[0]}: train it again")
    method.load_state_dict(weights, strict=False)
    method.mean, method.std = card.mean, card.std
    return method.eval(), card


def _kinds(weights: dict[str, Tensor]) -> dict[str, tuple[torch.Size, bool]]:
    return {name: (tensor.shape, tensor.is_floating_point()) for name, tensor in weights.items()}


def _existing(path: Path) -> Path:
    path = find(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the bundle in it, such as {path / 'last.safetensors'}")
    if not path.is_file():
        raise InputError(f"there is no bundle {path}: check the path, or make one with vireid train")
    return path
