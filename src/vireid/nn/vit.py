"""Vision transformers from timm, on overlapping patches of the image or on the positions of an early CNN stage."""

from __future__ import annotations

import copy
from typing import Literal, cast

import timm
import torch
import torch.nn.functional as F
from pydantic import Field
from timm.layers import PatchEmbed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vireid.errors import InputError
from vireid.nn.backbone import STAGES, Backbone, BackboneOptions, build_backbone, require_stem_relu, timm_model
from vireid.options import Options

Interpolation = Literal["bilinear", "bicubic"]


class HybridOptions(Options):
    """The transformer on top of a CNN's early stages, which starts from random weights."""

    stage: Literal["layer1", "layer2", "layer3", "layer4"] = Field("layer4", description="whose positions are tokens")
    dim: int = Field(320, gt=0, description="width")
    depth: int = Field(2, gt=0, description="blocks")
    heads: int = Field(5, gt=0, description="attention heads; must divide dim")


class ViTOptions(Options):
    """Options of a ViT; `backbone.name` says which, and the name of a CNN makes it a hybrid."""

    image_size: tuple[int, int] = Field((256, 128), description="that positions are learned for; others interpolate")
    stride: int = Field(12, gt=0, description="of the patches, which overlap below their size (16)")
    interpolation: Interpolation = Field("bilinear", description="of the position table")
    dropout: float = Field(0.0, ge=0, lt=1, description="after the position embedding")
    drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth of the last block; linear from 0")
    checkpointing: bool = Field(False, description="recompute blocks in the backward pass: less memory, more time")
    hybrid: HybridOptions = HybridOptions()


class ViT(nn.Module):
    """A timm ViT on patches of any stride or a CNN's map, with an optional vector that is added to its tokens.

    Args:
        stem: (N, 3, H, W) images -> the map that `transformer.patch_embed.proj` embeds.
        transformer: whose parts are taken over.
        options: see `ViTOptions`.
        mean, std: input normalisation of the weights.
        hybrid: the class token starts as its learned vector plus the mean of the tokens, so that the pooled
            features of the stem reach the output before the transformer has learned anything.
        shift_class: whether the class token is shifted, too.

    Shape: images (N, 3, H, W), shift (N, dim) or None -> (N, dim), the normalised class token.
    """

    def __init__(
        self,
        stem: nn.Module,
        transformer: VisionTransformer,
        options: ViTOptions,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        hybrid: bool = False,
        shift_class: bool = True,
    ) -> None:
        super().__init__()
        self.stem, self.embed = stem, transformer.patch_embed.proj
        self.cls_token, self.drop, self.norm_pre = transformer.cls_token, transformer.pos_drop, transformer.norm_pre
        self.blocks, self.norm = transformer.blocks, transformer.norm
        self.hybrid, self.shift_class, self.checkpointing = hybrid, shift_class, options.checkpointing
        self.dim, self.mean, self.std = transformer.embed_dim, mean, std
        self.interpolation: Interpolation = options.interpolation
        _, *grid = map_shape(nn.Sequential(self.stem, self.embed), options.image_size)
        self.grid = (grid[0], grid[1])
        source = transformer.patch_embed.grid_size
        table = resize_positions(transformer.pos_embed.detach(), source, self.grid, options.interpolation)
        self.pos_embed = nn.Parameter(table.clone())

    def forward(self, images: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return V, the class token after the last LayerNorm."""
        x, _ = self.tokens(images, shift)
        recompute = self.checkpointing and self.training and torch.is_grad_enabled()
        x = checkpoint_seq(self.blocks, x) if recompute else self.blocks(x)
        return self.norm(x[:, 0])

    def tokens(self, images: Tensor, shift: Tensor | None = None) -> tuple[Tensor, tuple[int, int]]:
        """Return the first block's input (N, 1 + H'W', dim), class token first, and the grid (H', W')."""
        x = self.embed(self.stem(images))
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        first = self.cls_token + x.mean(1, keepdim=True) if self.hybrid else self.cls_token.expand(x.shape[0], -1, -1)
        x = torch.cat([first, x], 1) + resize_positions(self.pos_embed, self.grid, grid, self.interpolation)
        if shift is not None:
            shift = shift[:, None]
            x = x + shift if self.shift_class else torch.cat([x[:, :1], x[:, 1:] + shift], 1)
        return self.norm_pre(self.drop(x)), grid

    def attention(self, images: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return how much the class token attends to each position in the last block, mean over heads, (N, H', W')."""
        x, grid = self.tokens(images, shift)
        last = cast(Block, self.blocks[-1])
        x = last.norm1(self.blocks[:-1](x))
        heads = (len(x), x.shape[1], 3, last.attn.num_heads, last.attn.head_dim)
        q, k, _ = last.attn.qkv(x).reshape(heads).permute(2, 0, 3, 1, 4)
        q, k = last.attn.q_norm(q[:, :, :1]), last.attn.k_norm(k)
        weights = (q @ k.transpose(2, 3) * last.attn.scale).softmax(-1)
        return weights.mean(1)[:, 0, 1:].reshape(-1, *grid)

    def folded(self, shift: Tensor) -> ViT:
        """Return a plain ViT whose position table has a shift (dim,) in it; all other weights are shared."""
        twin = copy.deepcopy(self, {id(child): child for child in self.children()})
        with torch.no_grad():
            twin.pos_embed[:, 0 if self.shift_class else 1 :] += shift
        return twin


def build_vit(backbone: BackboneOptions, options: ViTOptions, shift_class: bool = True) -> ViT:
    """Build the ViT that `backbone.name` names, or a hybrid on the CNN that it names.

    Raises:
        InputError: for an unknown or unfit architecture, or weights that cannot be had.
    """
    if backbone.name.partition(".")[0] in timm.list_models(module="vision_transformer"):
        return _plain(backbone, options, shift_class)
    return _hybrid(backbone, options, shift_class)


def resize_positions(
    table: Tensor, source: tuple[int, int], target: tuple[int, int], interpolation: Interpolation = "bilinear"
) -> Tensor:
    """Resize a position table (1, 1 + h w, D), grids as (rows, columns); the class token's row stays as it is.

    Returns:
        (1, 1 + h' w', D); the table itself when the grids are equal.
    """
    if source == target:
        return table
    grid = table[:, 1:].unflatten(1, source).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, target, mode=interpolation, antialias=interpolation == "bicubic")
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], 1)


def map_shape(module: nn.Module, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return the channels, rows and columns of a module's map for images of a size (H, W)."""
    with torch.no_grad():
        x = module.eval()(torch.zeros(1, 3, *size))
    module.train()
    return x.shape[1], x.shape[2], x.shape[3]


def _plain(backbone: BackboneOptions, options: ViTOptions, shift_class: bool) -> ViT:
    require_stem_relu(backbone)
    rates = {"pos_drop_rate": options.dropout, "drop_path_rate": options.drop_path}
    model = cast(VisionTransformer, timm_model(backbone, num_classes=0, **rates))
    plain = isinstance(model.patch_embed, PatchEmbed) and model.pos_embed is not None and model.has_class_token
    if not plain or model.pos_embed.shape[1] != model.patch_embed.num_patches + 1:
        raise InputError(
            f"backbone.name={backbone.name}: choose a timm ViT with one class token, such as vit_base_patch16_224"
        )
    if min(options.image_size) < model.patch_embed.patch_size[0]:
        raise InputError(f"options.vit.image_size={options.image_size} is below a patch of {backbone.name}: enlarge it")
    model.patch_embed.proj.stride = (options.stride, options.stride)
    config = model.default_cfg
    return ViT(nn.Identity(), model, options, config["mean"], config["std"], shift_class=shift_class)


def _hybrid(backbone: BackboneOptions, options: ViTOptions, shift_class: bool) -> ViT:
    hybrid = options.hybrid
    if hybrid.dim % hybrid.heads:
        raise InputError(f"options.vit.hybrid.heads={hybrid.heads} does not divide dim={hybrid.dim}: choose a divisor")
    trunk = build_backbone(backbone)
    stem = _stages_until(trunk, hybrid.stage)
    channels, *grid = map_shape(stem, options.image_size)
    transformer = VisionTransformer(
        img_size=tuple(grid),
        patch_size=1,
        in_chans=channels,
        num_classes=0,
        embed_dim=hybrid.dim,
        depth=hybrid.depth,
        num_heads=hybrid.heads,
        pos_drop_rate=options.dropout,
        drop_path_rate=options.drop_path,
    )
    _start_as_projection(transformer)
    return ViT(stem, transformer, options, trunk.mean, trunk.std, hybrid=True, shift_class=shift_class)


def _stages_until(trunk: Backbone, stage: str) -> nn.Sequential:
    """Return the stages up to one, without the widening 1x1 convolution that ends an EfficientNet."""
    stages = list(trunk.stages.values())[: STAGES.index(stage) + 1]
    last = cast(nn.Sequential, stages[-1])
    if stage == STAGES[-1] and isinstance(last[-1], nn.Sequential):
        stages[-1] = last[:-1]
    return nn.Sequential(*stages)


def _start_as_projection(transformer: VisionTransformer) -> None:
    """Embed by an orthogonal map and zero what every block adds, so that pretrained features come through at first."""
    channels, dim = transformer.patch_embed.proj.in_channels, transformer.embed_dim
    proj = nn.Conv2d(channels, dim, kernel_size=1, bias=False)
    nn.init.orthogonal_(proj.weight)
    transformer.patch_embed.proj = nn.Sequential(proj, nn.BatchNorm2d(dim))
    for block in cast("list[Block]", transformer.blocks):
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.mlp.fc2.weight)
