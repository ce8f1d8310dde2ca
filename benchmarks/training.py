"""Images per second of training AGW: as public repositories write it, as `vireid train` does it, and the bare network.

    vireid synth --preset demo --out data/demo
    python benchmarks/training.py data/demo --json training.json      # both backbones; needs a calm machine

`plain` is a short loop in the general style of the field: float32, contiguous maps, images that were decoded before but
are augmented one by one by PIL in loader processes, a triplet loss that loops over anchors, an accuracy read each step.
`vireid train` is the command's own code with its loader, augmentation, losses, checks, progress bar and logs. `bare` is
forward, cross-entropy, backward and optimiser on one resident random batch, in the precision that `vireid train` takes.
The network is the same in all three. The first steps, which fill caches and choose kernels, are not counted. Each
backbone has its own process; "memory given back" is the bare network without `kept_memory`.
"""

import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import vireid.training.run as training
from measure import print_header
from vireid.allocator import kept_memory
from vireid.data import open_dataset
from vireid.data.images import decode
from vireid.data.sampler import epoch_batches
from vireid.environment import describe_environment
from vireid.methods import build
from vireid.precision import choose_precision, default_device
from vireid.recipe import load_recipe, packaged_recipe
from vireid.records import LabelMap
from vireid.training.callbacks import LossBar
from vireid.training.optim import build_optimizers

CASES = {"ResNet-50 288x144": ("sysu_mm01", (288, 144)), "Lite0 128x64": ("synthetic", (128, 64))}
SKIPPED = 2


@dataclass
class Clock:
    """Times steps, the first `SKIPPED` left out."""

    steps: int
    batch: int
    seen: int = 0
    started: float = 0.0
    speed: float = 0.0

    def tick(self):
        """Count one step; return whether it was the last."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seen += 1
        if self.seen == SKIPPED:
            self.started = time.perf_counter()
        if self.seen < SKIPPED + self.steps:
            return False
        self.speed = self.steps * self.batch / (time.perf_counter() - self.started)
        return True


class Done(Exception):
    """Leaves `vireid train` after the last timed step."""


class PlainImages(Dataset):
    """Decoded images in memory, augmented one by one."""

    def __init__(self, records, size, mean, std):
        self.records, self.labels = records, LabelMap.of(records.pid).labels(records.pid)
        self.images = [decode(records.absolute(row), size)[0] for row in range(len(records))]
        steps = [transforms.ToPILImage(), transforms.Pad(10), transforms.RandomCrop(size)]
        steps += [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(mean, std)]
        self.transform = transforms.Compose(steps)

    def __getitem__(self, row):
        return self.transform(self.images[row]), self.labels[row], self.records.modality[row]


def triplet_by_loops(features, labels, margin=0.3):
    """Hardest positive and negative of each anchor, one anchor after the other."""
    distances = torch.cdist(features, features)
    positives, negatives = [], []
    for i in range(len(labels)):
        same = labels == labels[i]
        positives.append(distances[i][same].max())
        negatives.append(distances[i][~same].min())
    return F.margin_ranking_loss(
        torch.stack(negatives), torch.stack(positives), torch.ones(len(labels), device=features.device), margin
    )


def plain(recipe, records, steps, device):
    """Return images/s of the plain loop."""
    method = make_method(recipe, records).to(device).train()
    dataset = PlainImages(records, recipe.data.image_size, method.mean, method.std)
    batches = epoch_batches(dataset.labels, records.modality, recipe.sampling, seed=0, epoch=0)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=os.cpu_count())
    optimizer = torch.optim.SGD(method.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    clock, seen = Clock(steps, len(batches[0])), []
    for images, labels, modality in loader:
        images, labels, modality = images.to(device), labels.to(device), modality.to(device)
        f, _, logits = method(images, modality)
        loss = F.cross_entropy(logits, labels) + triplet_by_loops(f, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append((loss.item(), (logits.argmax(1) == labels).float().mean().item()))
        if clock.tick():
            return clock.speed
    raise AssertionError("too few batches")


def ours(recipe, steps):
    """Return images/s of `vireid train`, and the GPU's mean utilisation in percent where there is one."""
    sampling = recipe.sampling
    clock, busy = Clock(steps, sampling.identities * (sampling.visible + sampling.infrared)), []

    class TimedBar(LossBar):
        def on_train_batch_end(self, *arguments):
            super().on_train_batch_end(*arguments)
            if torch.cuda.is_available():
                busy.append(torch.cuda.utilization())
            if clock.tick():
                raise Done

    training.LossBar = TimedBar
    with tempfile.TemporaryDirectory() as folder, suppress(Done):
        training.train(recipe, Path(folder) / "run", console=Console(stderr=True))
    return clock.speed, float(np.mean(busy[SKIPPED:])) if busy else None


def bare(recipe, records, steps, device, compiled=False):
    """Return images/s of the network on a resident batch, as `vireid train` sets it up."""
    method = make_method(recipe, records).to(device).train()
    precision = choose_precision(method, device, recipe.precision)
    method.to(memory_format=precision.memory_format)
    optimizers = build_optimizers(method, recipe.optimizers)
    sampling = recipe.sampling
    rows = torch.arange(sampling.identities * (sampling.visible + sampling.infrared), device=device)
    images = torch.randn(len(rows), 3, *recipe.data.image_size, device=device)
    images = images.contiguous(memory_format=precision.memory_format)
    forward = torch.compile(method.__call__) if compiled else method
    clock = Clock(steps, len(rows))
    while True:
        with precision.autocast(device):
            logits = forward(images, rows % 2)[2]
        loss = F.cross_entropy(logits.float(), rows % 2)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
        if clock.tick():
            return clock.speed


def make_method(recipe, records):
    """Build the recipe's network with random weights."""
    count = len(LabelMap.of(records.pid))
    return build(recipe.method, num_classes=count, backbone=recipe.backbone, **recipe.options.model_dump())


def case_recipe(source, size, root, batch, steps):
    """Return a shipped recipe on synthetic data with random weights."""
    recipe = load_recipe(packaged_recipe("agw", source))
    backbone = recipe.backbone.model_copy(update={"weights": "none"})
    data = recipe.data.model_copy(update={"name": "synthetic", "root": root, "image_size": size, "options": {}})
    changed = {"steps": steps + SKIPPED + 1} | ({} if batch is None else {"identities": batch // 8})
    if batch is not None:
        changed |= {"visible": 4, "infrared": 4}
    validation = recipe.validation.model_copy(update={"protocol": None, "every": 0})
    update = {"backbone": backbone, "data": data, "sampling": recipe.sampling.model_copy(update=changed)}
    return recipe.model_copy(update=update | {"validation": validation, "expected_steps": None, "precision": "auto"})


def measured(name, root, steps, batch, compiled):
    """Return images/s of each way for one backbone."""
    device, records = default_device(), open_dataset("synthetic", root).where(split="train")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VIREID_CACHE"] = folder
        recipe = case_recipe(*CASES[name], root, batch, steps)
        row = {"case": name, "precision": choose_precision(make_method(recipe, records), device).name}
        row["plain"] = plain(recipe, records, steps, device)
        row["bare, memory given back"] = bare(recipe, records, steps, device)
        with kept_memory(device):
            row["bare"] = bare(recipe, records, steps, device)
            row["vireid train"], row["gpu percent"] = ours(recipe, steps)
            if compiled:
                row["bare, torch.compile"] = bare(recipe, records, steps, device, compiled=True)
        return row


def main(
    root: Annotated[Path, typer.Argument(help="folder of vireid synth")],
    only: Annotated[str, typer.Option(help="part of a case's name")] = "",
    steps: Annotated[int, typer.Option(help="timed steps of each way")] = 10,
    batch: Annotated[int | None, typer.Option(help="images a step, a multiple of 8; default: the recipe's")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="also the bare network under torch.compile")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="write the figures")] = None,
) -> None:
    """Print images/s and the ratios for both backbones."""
    print_header()
    figures = []
    for name in CASES:
        if only in name:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                figures.append(pool.submit(measured, name, root, steps, batch, compiled).result())
            print_case(figures[-1])
    if out is not None:
        text = {"command": sys.argv, "rows": figures, "environment": describe_environment()}
        out.write_text(json.dumps(text, indent=2) + "\n")


def print_case(row):
    """Print one case: each way, its ratio to the plain one and to the bare network."""
    print(f"{row['case']}, precision {row['precision']}{'':18s}images/s   to plain    to bare")
    for way in ("plain", "vireid train", "bare, memory given back", "bare", "bare, torch.compile"):
        if way in row:
            print(f"  {way:40s}{row[way]:12.1f}{row[way] / row['plain']:10.2f}x{row[way] / row['bare']:10.2f}x")
    if row["gpu percent"] is not None:
        print(f"  GPU utilisation of vireid train: {row['gpu percent']:.0f} %")
    sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
