"""Mogrifier LSTM (Melis, Kocisky and Blunsom, ICLR 2020): input and state gate each other before an LSTM step."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def mogrify(x: Tensor, h: Tensor, gates: Iterable[Callable[[Tensor], Tensor]]) -> tuple[Tensor, Tensor]:
    """Gate x by h, then h by x, and so on, one gate per round: `x <- 2 sigmoid(Q h) x`, `h <- 2 sigmoid(R x) h`.

    Gates that return 0 change nothing.

    Args:
        x: (N, input_size).
        h: (N, hidden_size).
        gates: maps h to x's size in rounds 1, 3, … and x to h's size in rounds 2, 4, ….

    Returns:
        The last x and h.
    """
    for index, gate in enumerate(gates):
        if index % 2 == 0:
            x = 2 * torch.sigmoid(gate(h)) * x
        else:
            h = 2 * torch.sigmoid(gate(x)) * h
    return x, h


class MogrifierLSTMCell(nn.Module):
    """An LSTM step on mogrified input and state; without rounds it is `nn.LSTMCell`.

    Args:
        input_size, hidden_size: widths.
        rounds: number of gates.
        rank: inner width of a gate's two factors; None for one full matrix.

    The gates' biases start at 0, the forget gate's at 1.

    Shape: x (N, input_size), (h (N, hidden_size), c (N, hidden_size)) -> (h, c).
    """

    def __init__(self, input_size: int, hidden_size: int, rounds: int = 5, rank: int | None = 64) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(input_size, hidden_size)
        sizes = ((hidden_size, input_size), (input_size, hidden_size))
        self.gates = nn.ModuleList(_gate(*sizes[index % 2], rank) for index in range(rounds))
        forget = slice(hidden_size, 2 * hidden_size)
        with torch.no_grad():
            self.cell.bias_ih[forget] = 1
            self.cell.bias_hh[forget] = 0

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the next h and c."""
        h, c = state
        x, h = mogrify(x, h, self.gates)
        return self.cell(x, (h, c))


def _gate(source: int, target: int, rank: int | None) -> nn.Module:
    last = nn.Linear(rank or source, target)
    nn.init.zeros_(last.bias)
    return last if rank is None else nn.Sequential(nn.Linear(source, rank, bias=False), last)
