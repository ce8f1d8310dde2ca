"""The model that ships, `vireid-lite0`: how it was made, and what it gives without any training on the data at hand.

vireid synth --preset synthetic-wide --out data/synthetic-wide
vireid train vireid_lite0 --root data/synthetic-wide --out runs/vireid-lite0
python benchmarks/shipped_model.py pack runs/vireid-lite0
python benchmarks/shipped_model.py curve runs/vireid-lite0
python benchmarks/shipped_model.py zero-shot data/synthetic-v1 data/synthetic-hard
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from matplotlib.figure import Figure

from ladder import PROTOCOLS
from measure import print_header
from vireid.bundle import load_bundle, save_bundle
from vireid.data import synthetic
from vireid.embedder import Embedder
from vireid.evaluation import PRESETS
from vireid.evaluation.evaluate import FeatureTable
from vireid.methods import build
from vireid.nn import BackboneOptions
from vireid.recipe import load_recipe
from vireid.weights import SHIPPED, find

app = typer.Typer()
ROOT = Path(__file__).parent.parent
FILE = ROOT / "src" / "vireid" / "weights" / f"{SHIPPED}.safetensors"
FIGURE = ROOT / "docs" / "images" / "vireid_lite0_curve.png"
LIMITS = (
    "Started from ImageNet weights and trained on rendered people only: no data set of photographed people, and no "
    "camera of yours. "
)
Run = Annotated[Path, typer.Argument(help="run folder of the training")]


@app.command()
def pack(run: Run) -> None:
    """Write the run's last bundle into the package, in float16."""
    method, card = load_bundle(run / "last.safetensors")
    update = {"license": "Apache-2.0, as the ImageNet weights it started from", "limits": LIMITS + card.limits}
    save_bundle(FILE, method, card.model_copy(update=update), torch.float16)
    print(f"{FILE}: {FILE.stat().st_size / 1e6:.1f} MB")


@app.command()
def curve(run: Run) -> None:
    """Draw rank-1 on people never seen against the number of images seen in training."""
    sampling = load_recipe(run / "recipe.yaml").sampling
    batch = sampling.identities * (sampling.visible + sampling.infrared)
    log = pd.read_csv(run / "logs" / "metrics.csv").dropna(subset="val/rank1")
    images = (log["step"] + 1) * batch
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.subplots()
    for name, label in (("val/rank1", "rank-1"), ("val/mAP", "mAP")):
        axis.plot(images / 1000, 100 * log[name], "o-", label=label)
    axis.set(xlabel="thousand images seen in training", ylabel="50 unseen people, %")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(FIGURE, dpi=120)
    print(pd.DataFrame({"images": images, "rank1": log["val/rank1"], "mAP": log["val/mAP"]}).to_string(index=False))


@app.command()
def zero_shot(roots: Annotated[list[Path], typer.Argument(help="folders of vireid synth")]) -> None:
    """Print a Markdown table: ImageNet's features and the shipped model's, on test people of some data sets."""
    print_header()
    imagenet = build("agw", num_classes=1, backbone=BackboneOptions(), non_local=False, pool="average").eval()
    contenders = {
        "ImageNet, Lite0": (Embedder(imagenet, (128, 64)), "pooled"),
        SHIPPED: (Embedder.load(find(Path(SHIPPED))), "global"),
    }
    print("| data | features | IR→VIS rank-1 | mAP | VIS→IR rank-1 | mAP | VIS→VIS rank-1 | mAP |\n|" + "---|" * 8)
    for root in roots:
        preset = json.loads((root / "synthetic.json").read_text())["preset"]
        for spectrum in ("nir", "lwir"):
            records = synthetic.load(root, spectrum=spectrum)
            test = records.where(split="test")
            for name, (embedder, feature) in contenders.items():
                table = FeatureTable.extract(embedder, test)
                found = [table.evaluate(PRESETS[p], feature=feature).summary.mean() for p in PROTOCOLS]
                cells = [f"{100 * metrics[key]:.1f}" for metrics in found for key in ("rank1", "mAP")]
                print(f"| {preset}, {spectrum.upper()} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    app()
