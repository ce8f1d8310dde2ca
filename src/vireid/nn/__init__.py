"""Layers shared by methods."""

from vireid.nn.backbone import STAGES, Backbone, BackboneOptions, build_backbone
from vireid.nn.cbam import CBAM
from vireid.nn.discriminator import MultiScaleDiscriminator
from vireid.nn.disentangled import CodeExchanger, Codes, mix, per_modality, split_attribute
from vireid.nn.generator import Decoder, PrototypeEncoder
from vireid.nn.heatmaps import fill_poses, has_pose, render_heatmaps, standing_template
from vireid.nn.mogrifier import MogrifierLSTMCell, mogrify
from vireid.nn.neck import IdentityClassifier, IdentityHead, bnneck
from vireid.nn.non_local import NonLocalBlock, add_non_local
from vireid.nn.pooling import AveragePool, GeneralizedMeanPool
from vireid.nn.precision import widen
from vireid.nn.stripes import AlignedStripeHead, StripeClassifier, StripeHead, pool_stripes
from vireid.nn.two_stream import TwoStream, route
from vireid.nn.vit import HybridOptions, ViT, ViTOptions, build_vit

__all__ = [
    "CBAM",
    "STAGES",
    "AlignedStripeHead",
    "AveragePool",
    "Backbone",
    "BackboneOptions",
    "CodeExchanger",
    "Codes",
    "Decoder",
    "GeneralizedMeanPool",
    "HybridOptions",
    "IdentityClassifier",
    "IdentityHead",
    "MogrifierLSTMCell",
    "MultiScaleDiscriminator",
    "NonLocalBlock",
    "PrototypeEncoder",
    "StripeClassifier",
    "StripeHead",
    "TwoStream",
    "ViT",
    "ViTOptions",
    "add_non_local",
    "bnneck",
    "build_backbone",
    "build_vit",
    "fill_poses",
    "has_pose",
    "mix",
    "mogrify",
    "per_modality",
    "pool_stripes",
    "render_heatmaps",
    "route",
    "split_attribute",
    "standing_template",
    "widen",
]
