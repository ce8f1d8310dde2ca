"""What the tests of several ranks run: under torchrun, a list of recipes; by itself, the command line.

BatchNorm stands still in both, and `RANK_OF_NAN` names the rank on which a loss breaks in the second epoch.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
import yaml
from torch import nn

from vireid.cli import main as command_line
from vireid.losses.memory import ProxyQueue
from vireid.methods.agw import AGW
from vireid.recipe import load_recipe
from vireid.training import callbacks, train
from vireid.training.module import TrainingModule


def freeze_norm():
    """Let BatchNorm use its running statistics: on CPUs, a batch's are those of a rank's own share of it."""
    nn.modules.batchnorm._BatchNorm.forward = lambda self, x: F.batch_norm(
        x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
    )


def watch_gradients(errors):
    """Note by how much each gradient after a backward pass differs from the mean over ranks, and that from its own."""
    backward = TrainingModule.manual_backward

    def watched(self, loss, *args, **kwargs):
        parameters = [p for p in self.method.parameters() if p.requires_grad]
        before = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        own = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        backward(self, loss, *args, **kwargs)
        for parameter, old, gradient in zip(parameters, before, own, strict=True):
            mean = torch.zeros_like(parameter) if gradient is None else gradient.contiguous().clone()
            dist.all_reduce(mean)
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            expected = old + mean / dist.get_world_size()
            alone = old if gradient is None else old + gradient
            scale = expected.abs().max().clamp(min=1e-6)
            errors.append([((found - other).abs().max() / scale).item() for other in (expected, alone)])

    TrainingModule.manual_backward = watched


def break_losses():
    """Turn this process's identity loss into NaN from the second epoch on."""
    losses, start, epochs = AGW.losses, AGW.on_epoch_start, []

    def broken(self, *arguments):
        terms = losses(self, *arguments)
        return {**terms, "id": terms["id"] * torch.nan} if epochs[-1] else terms

    AGW.on_epoch_start = lambda self, epoch: (epochs.append(epoch), start(self, epoch))[1]
    AGW.losses = broken


def train_all(folder):
    """Train the recipes of a file and write down what this rank ends with."""
    recipes = yaml.safe_load((folder / "recipes.yaml").read_text())
    errors, modules = [], []
    watch_gradients(errors)
    setup = TrainingModule.setup
    TrainingModule.setup = lambda self, stage: (modules.append(self), setup(self, stage))[1]
    for name, recipe in recipes.items():
        train(load_recipe(recipe), folder / name)
        method, rank = modules[-1].method, modules[-1].ranks.rank
        queues = [b for m in method.modules() if isinstance(m, ProxyQueue) for b in m.buffers()]
        state = {"errors": list(errors), "weights": list(method.state_dict().values()), "queues": queues}
        torch.save(state, folder / f"{name}-{rank}.pt")
        errors.clear()


if __name__ == "__main__":
    freeze_norm()
    callbacks.BATCH_SIZE = 5  # both ranks get validation images, in turns
    if os.environ.get("RANK_OF_NAN", "none") == os.environ.get("LOCAL_RANK", "0"):
        break_losses()
    if sys.argv[1] == "train":
        command_line()
    else:
        train_all(Path(sys.argv[1]))
