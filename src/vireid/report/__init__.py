"""The report of a training run: one self-contained HTML page."""

from vireid.report.page import write_report

__all__ = ["write_report"]
