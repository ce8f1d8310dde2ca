"""The methods, one file per paper."""

from __future__ import annotations

from typing import Any

from vireid.errors import InputError
from vireid.losses import TERMS
from vireid.methods.agw import AGW
from vireid.methods.base import Features, Method, ParameterGroup, cosine_distance, require_statistics
from vireid.methods.caj import CAJ
from vireid.methods.cmlspge import CMLSPGE
from vireid.methods.cmtr import CMTR
from vireid.methods.hicmd import HiCMD
from vireid.methods.maum import MAUM
from vireid.methods.msclnet import MSCLNet
from vireid.methods.nformer import NFormer
from vireid.methods.refiner import Refiner
from vireid.methods.spot import SPOT
from vireid.nn import BackboneOptions
from vireid.options import Options, checked

METHODS: dict[str, type[Method]] = {
    "agw": AGW,
    "caj": CAJ,
    "maum": MAUM,
    "cmlspge": CMLSPGE,
    "cmtr": CMTR,
    "hicmd": HiCMD,
    "msclnet": MSCLNet,
    "nformer": NFormer,
    "spot": SPOT,
}
"""Every trainable method by its command-line name."""


def method_class(name: str) -> type[Method]:
    """Look a method up by name.

    Raises:
        InputError: naming the methods there are.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}: choose one of {', '.join(sorted(METHODS))}")
    return METHODS[name]


def parse_options(name: str, options: dict[str, Any]) -> Options:
    """Check a method's options against its own option set.

    Raises:
        InputError: for an unknown or ill-typed option, naming it.
    """
    return checked(method_class(name).Options, options, f"method {name}:")


def parse_terms(method: str, terms: dict[str, dict[str, Any]]) -> dict[str, Options]:
    """Check loss terms that are added to a method against their own option sets.

    Raises:
        InputError: for a method that hosts no terms, an unknown term, or an unknown or ill-typed option.
    """
    if terms and not method_class(method).hosts_terms:
        hosts = ", ".join(sorted(name for name, kind in METHODS.items() if kind.hosts_terms))
        raise InputError(f"method {method} takes no extra loss terms ({', '.join(terms)}): drop terms or use {hosts}")
    parsed = {}
    for name, options in terms.items():
        if name not in TERMS:
            raise InputError(f"unknown loss term {name!r} in terms: choose one of {', '.join(sorted(TERMS))}")
        parsed[name] = checked(TERMS[name].Options, options, f"terms.{name}:")
    return parsed


def build(
    name: str,
    *,
    num_classes: int,
    backbone: BackboneOptions | dict[str, Any] | None = None,
    terms: dict[str, dict[str, Any]] | None = None,
    training: bool = True,
    **options: Any,
) -> Method:
    """Build a method, with weights as `backbone` says.

    Args:
        name: key of `METHODS`.
        num_classes: C, number of training identities.
        backbone: trunk options or their dict; the default is EfficientNet-Lite0 with packaged weights.
        terms: options of extra loss terms by name, see `vireid.losses.TERMS`; each is fed the method's embedding.
        training: add the terms of the method itself, such as MAUM's memories, which a search does without.
        options: the method's own options, see its `Options`.

    Raises:
        InputError: for an unknown method, term or option, a method that hosts no terms, or weights that cannot be had.
    """
    if not isinstance(backbone, BackboneOptions):
        backbone = checked(BackboneOptions, backbone or {}, "backbone:")
    parsed = parse_options(name, options)
    extra = parse_terms(name, terms or {})
    method = method_class(name)(num_classes, backbone, parsed)
    method.terms.update(method.own_terms() if training else {})
    for key, term in extra.items():
        method.terms[key] = TERMS[key](num_classes, method.embedding_dim, term)
    return method


__all__ = [
    "METHODS",
    "Features",
    "Method",
    "ParameterGroup",
    "Refiner",
    "build",
    "cosine_distance",
    "method_class",
    "parse_options",
    "parse_terms",
    "require_statistics",
]
