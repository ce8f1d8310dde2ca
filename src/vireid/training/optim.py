"""Optimisers from a recipe, and the learning rate as a pure function of the epoch and the step."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from vireid.errors import InputError
from vireid.methods import Method, ParameterGroup
from vireid.nn import IdentityClassifier, StripeClassifier
from vireid.recipe import OptimizerOptions, Schedule


def build_optimizers(method: Method, recipes: dict[str, OptimizerOptions]) -> dict[str, Optimizer]:
    """Build the named optimisers over the method's parameter groups and the group `classifier`, split off from them.

    Every torch group carries `name`, `base_lr`, the learning rate before the schedule, and `clip`.

    Raises:
        InputError: when a group asks for an optimiser, or a recipe names a group or a phase, that does not exist, or a
            phase has no optimiser.
    """
    for name, options in recipes.items():
        if options.phase not in method.phases:
            phases = ", ".join(method.phases)
            raise InputError(f"optimizers.{name}.phase={options.phase}: the method's steps have other phases: {phases}")
    taken = {group: name for name, options in recipes.items() for group in options.takes}
    groups = [
        replace(group, optimizer=taken.get(group.name, group.optimizer))
        for group in split_classifiers(method)
        if any(p.requires_grad for p in group.params)
    ]
    for group in groups:
        if group.optimizer not in recipes:
            raise InputError(f"the recipe lacks optimizers.{group.optimizer}, which parameter group {group.name} needs")
    taught = {options.phase for options in recipes.values()}
    if idle := [phase for phase in method.phases if phase not in taught]:
        raise InputError(f"no optimiser minimises the losses of phase {idle[0]}: set optimizers.NAME.phase={idle[0]}")
    biases = {id(p) for name, p in method.named_parameters() if "bias" in name.rpartition(".")[2]}
    return {name: _build(name, options, groups, biases) for name, options in recipes.items()}


def split_classifiers(method: Method) -> list[ParameterGroup]:
    """Return the method's groups, each without its identity classifiers, which follow as groups named `classifier`.

    A row of them has a gradient of its own only where its identity is in the batch. Adam makes full steps of the tiny
    gradients in between, SGD does not, so a recipe may want another optimiser there.
    """
    kinds = (IdentityClassifier, StripeClassifier)
    rows = [p for module in method.modules() if isinstance(module, kinds) for p in module.parameters()]
    groups = []
    for group in method.parameter_groups():
        rest = group.without(rows)
        groups += [rest, ParameterGroup("classifier", group.without(rest.params).params, group.optimizer)]
    return groups


def _build(name: str, options: OptimizerOptions, groups: list[ParameterGroup], biases: set[int]) -> Optimizer:
    own = [group for group in groups if group.optimizer == name]
    known = {group.name for group in own}
    strange = sorted({*options.lr_scale, *options.weight_decay_scale, *options.takes} - known)
    if strange or not own:
        raise InputError(
            f"optimizers.{name}: {f'no parameter group {strange[0]}' if strange else 'no parameters to optimise'} "
            f"(groups: {', '.join(sorted(known)) or 'none'})"
        )
    settings = [
        {
            "params": params,
            "name": group.name,
            "lr": lr,
            "base_lr": lr,
            "weight_decay": options.weight_decay * options.weight_decay_scale.get(group.name, 1.0),
            "clip": group.clip,
        }
        for group in own
        for params, lr in _rates(group, options, biases)
    ]
    if options.kind == "sgd":
        nesterov = options.nesterov and options.momentum > 0
        return torch.optim.SGD(settings, lr=options.lr, momentum=options.momentum, nesterov=nesterov)
    kind = torch.optim.Adam if options.kind == "adam" else torch.optim.AdamW
    return kind(settings, lr=options.lr, betas=options.betas)


def _rates(group: ParameterGroup, options: OptimizerOptions, biases: set[int]) -> list[tuple[list[Parameter], float]]:
    """Return a group's trained parameters with their learning rate, the biases apart where they have another one."""
    lr, trained = options.lr * options.lr_scale.get(group.name, 1.0), [p for p in group.params if p.requires_grad]
    if options.bias_lr_scale == 1:
        return [(trained, lr)]
    split = [p for p in trained if id(p) not in biases], [p for p in trained if id(p) in biases]
    return [(p, rate) for p, rate in zip(split, (lr, lr * options.bias_lr_scale), strict=True) if p]


def limit_gradients(optimizer: Optimizer, clip_norm: float | None) -> None:
    """Scale the gradient of every group with a `clip` down to that norm, then all of them jointly to `clip_norm`.

    A group's biases may stand apart, under the same name, for their learning rate: they are limited with the rest.
    """
    groups = optimizer.param_groups
    for name, clip in {group["name"]: group["clip"] for group in groups if group["clip"] is not None}.items():
        clip_grad_norm_([p for group in groups if group["name"] == name for p in group["params"]], clip)
    if clip_norm is not None:
        clip_grad_norm_([p for group in groups for p in group["params"]], clip_norm)


def lr_factor(schedule: Schedule, epoch: int, epochs: int, step: int = 0) -> float:
    """Return the factor on every base learning rate.

    Args:
        schedule: see `Schedule`.
        epoch: 0-based.
        epochs: their number, the end of a cosine.
        step: batches trained on so far, for `halving`.
    """
    if schedule.kind == "halving":
        return 0.5 ** (step // schedule.halve_every)
    if epoch < schedule.warmup_epochs:
        progress = min(1.0, (epoch + schedule.warmup_offset) / schedule.warmup_epochs)
        return schedule.warmup_start + (1 - schedule.warmup_start) * progress
    if schedule.kind == "cosine":
        progress = (epoch - schedule.warmup_epochs) / max(1, epochs - schedule.warmup_epochs)
        return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2
    passed = sum(epoch >= milestone for milestone in schedule.milestones)
    if isinstance(schedule.gamma, tuple):
        return math.prod(schedule.gamma[:passed])
    return schedule.gamma**passed


def set_learning_rates(optimizers: dict[str, Optimizer], recipes: dict[str, OptimizerOptions], factor: float) -> None:
    """Set every scheduled group to its base learning rate times `factor`."""
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * (factor if recipes[name].scheduled else 1.0)
