"""Layers shared by methods."""

from vireid.nn.backbone import STAGES, Backbone, BackboneOptions, build_backbone
from vireid.nn.cbam import CBAM
from vireid.nn.neck import IdentityHead, bnneck, identity_classifier
from vireid.nn.non_local import NonLocalBlock, add_non_local
from vireid.nn.pooling import AveragePool, GeneralizedMeanPool
from vireid.nn.stripes import AlignedStripeHead, StripeHead, StripeLinear
from vireid.nn.two_stream import TwoStream, route

__all__ = [
    "CBAM",
    "STAGES",
    "AlignedStripeHead",
    "AveragePool",
    "Backbone",
    "BackboneOptions",
    "GeneralizedMeanPool",
    "IdentityHead",
    "NonLocalBlock",
    "StripeHead",
    "StripeLinear",
    "TwoStream",
    "add_non_local",
    "bnneck",
    "build_backbone",
    "identity_classifier",
    "route",
]
