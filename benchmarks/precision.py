"""Images per second of a training step by number format and memory layout: what `vireid.precision` chooses from.

python benchmarks/precision.py            # both backbones at their recipe's size; needs a calm machine
"""

import itertools
import time

import torch
import typer

from measure import print_header
from vireid.methods import build
from vireid.precision import Precision, choose_precision
from vireid.records import Batch

CASES = {"resnet50": (288, 144), "tf_efficientnet_lite0": (128, 64)}
BATCH, STEPS = 32, 3


def make_batch(size, memory_format):
    """Return a random batch that stays on the device, half of it infrared."""
    rows = torch.arange(BATCH)
    zeros = torch.zeros_like(rows)
    images = torch.randn(BATCH, 3, *size).contiguous(memory_format=memory_format)
    return Batch(images, modality=rows % 2, pid=rows // 4, camid=zeros, view=zeros)


def images_per_second(name, size, precision):
    """Measure forward, losses, backward of AGW."""
    method = build("agw", num_classes=BATCH, backbone={"name": name, "weights": "none"}, wrt="exact")
    method.to(memory_format=precision.memory_format)
    batch = make_batch(size, precision.memory_format)
    started = 0.0
    for step in range(STEPS + 1):
        if step == 1:
            started = time.perf_counter()
        with precision.autocast(batch.images.device):
            loss = sum(method.losses(batch).values())
        loss.backward()
    return STEPS * BATCH / (time.perf_counter() - started)


def main():
    """Print the table, and what `auto` would choose."""
    print_header()
    for name, size in CASES.items():
        for number, layout in itertools.product(("32", "bf16"), (torch.contiguous_format, torch.channels_last)):
            speed = images_per_second(name, size, Precision(number, layout))
            print(f"{name:24s}{size[0]}x{size[1]}  {number:5s}{str(layout)[6:]:20s}{speed:8.1f} images/s", flush=True)
        method = build("agw", num_classes=2, backbone={"name": name, "weights": "none"})
        print(f"{name:24s}auto: {choose_precision(method, torch.device('cpu')).name}, channels_last")


if __name__ == "__main__":
    typer.run(main)
