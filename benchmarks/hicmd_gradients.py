"""How much of each loss of Hi-CMD reaches the encoders: the norm of its gradient, with the recipe's weights.

    vireid synth --preset synthetic-v1 --out data/synthetic-v1
    python benchmarks/hicmd_gradients.py --root data/synthetic-v1                 # at the start of a training
    python benchmarks/hicmd_gradients.py --root data/synthetic-v1 --run RUN       # as its last checkpoint has them

Adam makes steps of one length of whatever is the sum: a loss whose gradient is small beside the others' goes unheard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from compare import prepared
from measure import print_header
from vireid.methods.hicmd import HiCMD
from vireid.recipe import load_recipe, packaged_recipe
from vireid.training.checkpoint import AtomicCheckpointIO, latest_checkpoint


def main(
    root: Annotated[Path, typer.Option(help="folder made by vireid synth")],
    run: Annotated[Path | None, typer.Option(help="a run folder; default: untrained networks")] = None,
) -> None:
    """Print a line a loss: its value, and its gradient's norm at the encoders of attributes and of prototypes."""
    print_header()
    recipe = load_recipe(packaged_recipe("hicmd", "synthetic"), [f"data.root={root}"])
    method, batch = prepared(recipe)
    assert isinstance(method, HiCMD)
    if run is not None:
        state = AtomicCheckpointIO().load_checkpoint(latest_checkpoint(run))["state_dict"]
        method.load_state_dict({name.removeprefix("method."): value for name, value in state.items()})
    encoders = (method.generator.attribute_encoders, method.generator.prototype_encoders)
    print(f"{'loss':12s}{'value':>12s}{'attributes':>12s}{'prototypes':>12s}")
    for name, loss in method.train().losses(batch).items():
        norms = "".join(f"{gradient_norm(loss, encoder):>12.3f}" for encoder in encoders)
        print(f"{name:12s}{float(loss.detach()):>12.3f}{norms}")


def gradient_norm(loss: Tensor, module: nn.Module) -> float:
    """Return the norm of a loss's gradient with respect to all weights of a module."""
    gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, materialize_grads=True)
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


if __name__ == "__main__":
    typer.run(main)
