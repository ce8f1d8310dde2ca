"""Training on Lightning."""

from vireid.training.ranks import is_rank_zero
from vireid.training.run import open_records, resume, train

__all__ = ["is_rank_zero", "open_records", "resume", "train"]
