"""Where MSCLNet's instance normalisation sends the gradient of each loss, at the start of a training.

    vireid synth --preset synthetic-v1 --out data/synthetic-v1
    python benchmarks/instance_norm.py --root data/synthetic-v1

For each epsilon beside the variance: the share of a loss's squared gradient on the last map that falls on channels
whose variance over an image is below 0.001, channels in which next to nothing happens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from compare import prepared
from measure import print_header
from vireid.methods.msclnet import MSCLNet
from vireid.recipe import load_recipe, packaged_recipe

LOSSES = ("id", "triplet", "div", "id_hat", "sub", "intra", "inter")
QUIET = 1e-3


def main(root: Annotated[Path, typer.Option(help="folder made by vireid synth")]) -> None:
    """Print a line an epsilon."""
    print_header()
    recipe = load_recipe(packaged_recipe("msclnet", "synthetic"), [f"data.root={root}"])
    method, batch = prepared(recipe)
    assert isinstance(method, MSCLNet)
    seen: list[Tensor] = []
    method.train().network.register_forward_hook(lambda module, inputs, output: seen.append(output))
    print(f"{'epsilon':>10s}" + "".join(f"{name:>10s}" for name in LOSSES))
    for epsilon in (1e-5, 1e-3, 1e-2, 1e-1, 1.0):
        for norm in method.norms:
            norm.eps = epsilon
        terms = method.losses(batch)
        print(f"{epsilon:>10g}" + "".join(f"{quiet_share(terms[name], seen[-1]):>10.1%}" for name in LOSSES))
    zeros, quiet = (seen[0] == 0).float().mean(), quiet_channels(seen[0]).float().mean()
    print(f"{zeros:.1%} of the last map's values are 0, {quiet:.1%} of its channels quiet")


def quiet_channels(maps: Tensor) -> Tensor:
    """Tell which channels of which image hardly vary, (N, C, H, W) -> (N, C)."""
    return maps.detach().var((2, 3), unbiased=False) < QUIET


def quiet_share(loss: Tensor, maps: Tensor) -> float:
    """Return the share of a loss's squared gradient that the quiet channels get."""
    (gradient,) = torch.autograd.grad(loss, maps, retain_graph=True)
    energy = gradient.square().sum((2, 3))
    return float(energy[quiet_channels(maps)].sum() / energy.sum())


if __name__ == "__main__":
    typer.run(main)
