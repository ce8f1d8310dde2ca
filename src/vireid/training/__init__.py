"""Training on Lightning."""

from vireid.training.run import open_records, resume, train

__all__ = ["open_records", "resume", "train"]
