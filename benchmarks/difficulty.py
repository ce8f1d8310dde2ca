"""How each difficulty parameter moves the synthetic data: rank-1 of pixels, ImageNet features and a linear probe.

    python benchmarks/difficulty.py --figure docs/images/difficulty.png        # about half a minute a setting

The probe is a linear discriminant on frozen EfficientNet-Lite0 stripe features, fitted on training identities: it shows
the signal that is there to be learned, in seconds, and is no trained method. Near infrared to visible, unseen people.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from imagenet import stripe_features
from measure import print_header
from vireid.data import open_dataset
from vireid.data.images import DecodedImages
from vireid.evaluation import PRESETS, evaluate_features
from vireid.records import Modality, Records
from vireid.synth import Difficulty, write_dataset

VALUES = {
    "nir_correlation": (0.4, 0.8),
    "view_range_deg": (15.0, 60.0, 90.0),
    "lighting": (0.2, 1.0),
    "clutter": (0.2, 1.5),
    "noise": (0.03, 0.06),
    "occlusion": (0.15, 0.35),
    "box_jitter": (0.015, 0.06),
}


def probe(features: NDArray[np.float32], records: Records) -> NDArray[np.float64]:
    """Fit a linear discriminant on the training identities, modalities centred, and project everything."""
    train = records.mask(split="train")
    centred = features.astype(np.float64)
    for modality in Modality:
        rows = records.modality == modality
        centred[rows] -= centred[rows & train].mean(0)
    reduced = PCA(300, random_state=0).fit(centred[train]).transform(centred)
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.3)
    return model.fit(reduced[train], records.pid[train]).transform(reduced)


def measure_records(records: Records) -> tuple[float, ...]:
    """Return rank-1 of pixels, ImageNet features and the probe, in percent."""
    pixels, _ = DecodedImages(records, (128, 64)).read(np.arange(len(records)))
    features = stripe_features(pixels, 4)
    raw = pixels.reshape(len(pixels), -1).astype(np.float32)
    test = np.flatnonzero(records.mask(split="test"))
    probed = probe(features.reshape(len(features), -1), records)
    tables = (raw - raw.mean(1, keepdims=True), features.mean(1), probed)
    protocol, asked = PRESETS["cross-ir2vis"], records.take(test)
    return tuple(100 * evaluate_features(protocol, asked, table[test]).mean()["rank1"] for table in tables)


def measure_setting(difficulty: Difficulty, ids: int) -> tuple[float, ...]:
    """Render a data set of this difficulty and measure it."""
    with tempfile.TemporaryDirectory() as name:
        return measure_records(
            open_dataset("synthetic", write_dataset(Path(name) / "x", ids=ids, difficulty=difficulty))
        )


def main(
    root: Annotated[Path | None, typer.Option(help="measure this rendered folder only")] = None,
    ids: Annotated[int, typer.Option(help="identities in all")] = 860,
    figure: Annotated[Path | None, typer.Option(help="draw the table")] = None,
) -> None:
    """Vary one parameter at a time around synthetic-v1."""
    print_header()
    rows: dict[str, tuple[float, ...]] = {}
    if root is not None:
        for spectrum in ("nir", "lwir"):
            rows[f"{root.name} {spectrum}"] = measure_records(open_dataset("synthetic", root, spectrum=spectrum))
    else:
        rows["synthetic-v1"] = measure_setting(Difficulty(), ids)
        for (name, values), base in ((item, getattr(Difficulty(), item[0])) for item in VALUES.items()):
            for value in values:
                setting = replace(Difficulty(), **{name: value})
                rows[f"{name} {value:g} (v1: {base:g})"] = measure_setting(setting, ids)
    print(f"{'':42s}{'pixels':>8s}{'ImageNet':>10s}{'probe':>8s}   rank-1 %, near infrared or thermal to visible")
    for name, (raw, imagenet, linear) in rows.items():
        print(f"{name:42s}{raw:8.1f}{imagenet:10.1f}{linear:8.1f}")
    if figure is not None:
        draw(rows).savefig(figure, dpi=110)


def draw(rows: dict[str, tuple[float, ...]]) -> Figure:
    """Draw one group of bars a setting."""
    chart = Figure(figsize=(8, 0.32 * len(rows) + 1), layout="constrained")
    axes = chart.subplots()
    positions = np.arange(len(rows))[::-1]
    columns = zip(("pixels", "ImageNet", "linear probe"), zip(*rows.values(), strict=True), strict=True)
    for offset, (label, column) in enumerate(columns):
        axes.barh(positions + 0.25 - 0.25 * offset, column, height=0.25, label=label)
    axes.set_yticks(positions, list(rows))
    axes.set_xlabel("rank-1 %, near infrared to visible, unseen synthetic identities")
    axes.legend()
    return chart


if __name__ == "__main__":
    typer.run(main)
