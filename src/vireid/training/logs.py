"""The curves of a run, which outlive its interruptions."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger

from vireid.training.ranks import is_rank_zero


def open_log(run: Path, epochs: int) -> CSVLogger:
    """Return the logger of a run's `logs/metrics.csv`, with the lines of the first `epochs` epochs that stand there.

    Lightning's logger by itself deletes what an interrupted run has logged.
    """
    path = run / "logs" / "metrics.csv"
    logger = CSVLogger(run, name="", version="logs")
    if not is_rank_zero() or not path.is_file():
        return logger
    with path.open(newline="") as file:
        for row in csv.DictReader(file, restval="torn"):
            try:
                epoch, step = int(row.pop("epoch")), int(row.pop("step"))
                values = {name: float(value) for name, value in row.items() if value}
            except (ValueError, TypeError):  # a torn line, which lacks columns or ends inside a number
                break
            if epoch < epochs:
                logger.log_metrics({"epoch": epoch, **values}, step)
    logger.save()
    return logger
