"""The ROC of a calibration."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vireid.gallery.calibration import Calibration


def roc_figure(calibration: Calibration) -> Figure:
    """Draw the share of one person's pairs found against the share of strangers let in, by pair of modalities."""
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, pair in sorted(calibration.pairs.items()):
        (line,) = axes.plot(pair.roc_fpr, pair.roc_tpr, label=f"{name}, EER {pair.eer:.1%}", linewidth=1.6)
        axes.plot(pair.fpr, pair.tpr, "o", color=line.get_color())
    axes.axvline(calibration.target_fpr, color="0.5", linewidth=0.8, linestyle="--")
    axes.set(xscale="log", xlabel="false positive rate", ylabel="true positive rate", ylim=(0, 1.02))
    axes.set_title("Pairs of one person at the calibrated threshold (dots)", fontsize=9.5)
    axes.grid(True, alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    return figure
