"""Figures of reports and commands as pure functions, and the SVG that suits light and dark pages alike."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from vireid.evaluation.ranking import RankMetrics
from vireid.records import Modality

Curve = NDArray[np.float64]
Line = tuple[Sequence[float], Sequence[float]]
"""x and y of one curve."""

INK = "#1b2026"
PALETTE = ("#3f7fd4", "#e0693a", "#2f9e77", "#b35fb8", "#c79a1b", "#7b8794")
COLORS = {Modality.VISIBLE: PALETTE[0], Modality.INFRARED: PALETTE[1]}
MARKERS = {Modality.VISIBLE: "o", Modality.INFRARED: "^"}
_STYLE = "<style>svg{color:#1b2026}@media(prefers-color-scheme:dark){svg{color:#dfe4ea}}</style>"


def cmc_figure(curves: Mapping[str, Sequence[Curve]]) -> Figure:
    """Draw cumulative matching characteristics.

    Args:
        curves: (max_rank,) shares of 1 by label, the first solid and the others of the label dashed.
    """
    figure, (axes,) = _figure(1)
    drawn = [(label, index, curve) for label, group in curves.items() for index, curve in enumerate(group)]
    colors = dict(zip(curves, cycle(PALETTE), strict=False))
    for label, index, curve in drawn:
        style: dict[str, Any] = {"linestyle": "--", "linewidth": 1.2} if index else {"linewidth": 2, "label": label}
        axes.plot(np.arange(1, len(curve) + 1), curve, color=colors[label], **style)
    lowest = min(float(curve[0]) for _, _, curve in drawn)
    axes.set(xlabel="rank k", ylabel="queries with a match in the first k", ylim=(max(0, lowest - 0.1), 1.01))
    axes.set_xticks([1, *range(5, max(len(curve) for _, _, curve in drawn) + 1, 5)])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend_above(figure)
    return figure


def gallery_size_figure(curves: Mapping[str, Sequence[RankMetrics]]) -> Figure:
    """Draw rank-1 (solid) and mAP (dashed) against the number of gallery images, by protocol."""
    figure, (axes,) = _figure(1)
    for (name, curve), color in zip(curves.items(), cycle(PALETTE), strict=False):
        sizes = [metrics.num_gallery for metrics in curve]
        axes.plot(sizes, [metrics.cmc[0] for metrics in curve], "o-", color=color, linewidth=2, label=f"{name} rank-1")
        axes.plot(sizes, [metrics.mean_ap for metrics in curve], "o--", color=color, linewidth=1.2, label=f"{name} mAP")
    axes.set(xscale="log", xlabel="gallery images", ylim=(0, 1.01))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend_above(figure)
    return figure


def distance_figure(same: NDArray[np.floating], other: NDArray[np.floating]) -> Figure:
    """Draw the densities of cross-modal distances of pairs of one person and of two people.

    Args:
        same: (S,) distances within identities.
        other: (O,) distances between identities.
    """
    figure, (axes,) = _figure(1)
    bins = np.histogram_bin_edges(np.concatenate([same, other]), bins=60).tolist()
    for values, label, color in ((same, "same person", PALETTE[2]), (other, "different people", PALETTE[5])):
        if len(values):  # a single person has no pairs of two
            named = f"{label} ({len(values):,} pairs)"
            axes.hist(values, bins=bins, density=True, color=color, alpha=0.55, label=named)
            axes.axvline(float(np.median(values)), color=color, linestyle="--", linewidth=1.4)
    axes.set(xlabel="distance across modalities (dashed: median)", ylabel="density")
    _legend_above(figure)
    return figure


def embedding_figure(points: NDArray[np.floating], pid: NDArray[np.int64], modality: NDArray[np.int64]) -> Figure:
    """Draw a plane of embeddings twice: coloured by identity and by modality, modality always the marker's shape.

    Args:
        points: (N, 2) positions.
        pid: (N,) identities.
        modality: (N,) see `Modality`.
    """
    figure, panels = _figure(2, height=4.6)
    identity = np.unique(pid, return_inverse=True)[1]
    hues = colormaps["hsv"](identity / (identity.max() + 1) * 0.98)
    hues[:, :3] = 0.15 + 0.72 * hues[:, :3]
    for kind in Modality:
        rows = modality == kind
        shape: dict[str, Any] = {"marker": MARKERS[kind], "s": 20, "linewidths": 0, "alpha": 0.85}
        panels[0].scatter(*points[rows].T, color=hues[rows], **shape)
        panels[1].scatter(*points[rows].T, color=COLORS[kind], label=str(kind), **shape)
    for axes, title in zip(panels, ("colour: identity", "colour: modality"), strict=True):
        axes.set_title(f"{title}, shape: modality", fontsize=9.5, color=INK)
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set(visible=True, color=INK, alpha=0.25)
    _legend(panels[1])
    return figure


def training_figure(losses: Mapping[str, Line], scores: Mapping[str, Line]) -> Figure:
    """Draw loss terms and validation metrics against epochs.

    Args:
        losses: epochs and mean losses by term.
        scores: epochs and shares of 1 by metric.
    """
    figure, (left, right) = _figure(2)
    for axes, curves, label in ((left, losses, "loss, mean of the epoch"), (right, scores, "validation metric")):
        for index, (name, (epochs, values)) in enumerate(curves.items()):
            color = PALETTE[index % len(PALETTE)]
            axes.plot(epochs, values, marker="o", markersize=3.5, color=color, label=name)
        axes.set(xlabel="epoch", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if curves:
            _legend(axes)
        else:
            axes.text(0.5, 0.5, "nothing was logged", transform=axes.transAxes, ha="center", color=INK)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def attention_figure(images: NDArray[np.uint8], maps: Mapping[str, NDArray[np.floating]]) -> Figure:
    """Draw images and, beside each, where every map looks: bright is the map's own maximum, dark its minimum.

    Args:
        images: (N, H, W, 3).
        maps: (N, h, w) by column title.
    """
    rows, height, width = images.shape[:3]
    inches = 1.35 * (1 + len(maps)), 1.35 * rows * height / width + 0.4
    figure = Figure(figsize=inches, layout="constrained")
    panels = figure.subplots(rows, 1 + len(maps), squeeze=False)
    for column, title in enumerate(("image", *maps)):
        panels[0, column].set_title(title, fontsize=9.5, color=INK)
        for row, image in enumerate(images):
            axes = panels[row, column]
            axes.imshow(image, extent=(0, width, height, 0))
            if column:
                axes.imshow(
                    maps[title][row], extent=(0, width, height, 0), cmap="magma", alpha=0.7, interpolation="bilinear"
                )
            axes.set_axis_off()
    return figure


def swap_figure(images: NDArray[np.uint8], swapped: NDArray[np.uint8]) -> Figure:
    """Draw a grid of exchanged codes: the identity of the left column in the pose and light of the top row.

    Args:
        images: (N, H, W, 3), both the left column and the top row.
        swapped: (N, N, H, W, 3).
    """
    count, height, width = images.shape[:3]
    gap = max(1, width // 16)
    canvas = np.full((count + 1, count + 1, height + gap, width + gap, 3), 255, dtype=np.uint8)
    canvas[0, 1:, :height, :width] = canvas[1:, 0, :height, :width] = images
    canvas[1:, 1:, :height, :width] = swapped
    sheet = canvas.transpose(0, 2, 1, 3, 4).reshape((count + 1) * (height + gap), (count + 1) * (width + gap), 3)
    inches = 0.85 * (count + 1)
    figure = Figure(figsize=(inches + 0.3, inches * sheet.shape[0] / sheet.shape[1] + 0.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(sheet)
    axes.axhline(height + gap / 2, color=INK, linewidth=0.8)
    axes.axvline(width + gap / 2, color=INK, linewidth=0.8)
    axes.set(xticks=[], yticks=[], ylabel="identity: prototype and style")
    axes.set_title("pose and illumination", fontsize=9.5, color=INK)
    axes.spines[:].set_visible(False)
    return figure


def to_svg(figure: Figure) -> bytes:
    """Return a figure as SVG with a transparent ground, whose ink follows the reader's colour scheme."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue().replace(INK, "currentColor")
    start = svg.index(">", svg.index("<svg")) + 1
    return (svg[:start] + _STYLE + svg[start:]).encode()


def _figure(columns: int, height: float = 3.5) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.9 * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.tick_params(colors=INK, labelsize=8.5)
        axes.xaxis.label.set(color=INK, fontsize=9)
        axes.yaxis.label.set(color=INK, fontsize=9)
        axes.grid(color=PALETTE[5], alpha=0.22, linewidth=0.7)
        axes.set_axisbelow(True)
    return figure, panels


def _legend_above(figure: Figure) -> None:
    figure.legend(loc="outside upper left", ncols=2, fontsize=8.5, frameon=False, labelcolor=INK)


def _legend(axes: Axes) -> None:
    axes.legend(loc="best", fontsize=8.5, frameon=False, labelcolor=INK)
