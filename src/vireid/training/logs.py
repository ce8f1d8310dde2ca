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
        rows = [row for row in csv.DictReader(file) if None not in row.values()]  # a torn line lacks columns
    for row in rows:
        epoch, step = int(row.pop("epoch")), int(row.pop("step"))
        if epoch < epochs:
            logger.log_metrics({"epoch": epoch, **{name: float(value) for name, value in row.items() if value}}, step)
    logger.save()
    return logger
