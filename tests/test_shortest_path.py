"""The local shortest path: worked numbers, slow oracles, blocks, memory."""

import itertools
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vireid.losses import (
    StripeMetric,
    paired_path_distances,
    path_distances,
    shortest_path,
    streamed_path_distances,
    top_path_distances,
)
from vireid.losses.shortest_path import block_sides, stream

SUM = StripeMetric(reduce="sum")
METRICS = [StripeMetric(), SUM, StripeMetric("aligned")]
UNIT = torch.eye(8)


def enumerated(table):
    """The cheapest of all C(h+w-2, h-1) monotone paths."""
    h, w = table.shape
    costs = []
    for downs in itertools.combinations(range(h + w - 2), h - 1):
        i = j = 0
        cost = float(table[0, 0])
        for step in range(h + w - 2):
            i, j = (i + 1, j) if step in downs else (i, j + 1)
            cost += float(table[i, j])
        costs.append(cost)
    return costs


def cell_loop(table):
    """The printed recursion, S as nested lists."""
    total = [[0.0] * table.shape[1] for _ in range(table.shape[0])]
    for i, j in itertools.product(*map(range, table.shape)):
        before = [total[a][b] for a, b in ((i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
        total[i][j] = float(table[i, j]) + (min(before) if before else 0.0)
    return total


class Tabulated(StripeMetric):
    """Stripes that are row and column numbers into a table."""

    table: torch.Tensor

    def between(self, x, y):
        return self.table[x[..., 0].long()[:, None], y[..., 0].long()]


def streamed(table):
    metric = Tabulated()
    object.__setattr__(metric, "table", table)
    rows, columns = (torch.arange(n, dtype=torch.float64).view(n, 1, 1) for n in table.shape)
    return stream(rows, columns, metric)[0, 0]


def test_worked_path():
    table = torch.tensor([[1.0, 2, 9], [4, 1, 3], [7, 5, 1]])
    assert cell_loop(table) == [[1, 3, 12], [5, 4, 7], [12, 9, 8]]
    assert sorted(enumerated(table)) == [8, 10, 10, 12, 16, 18]
    value = shortest_path(table.requires_grad_())
    value.backward()
    assert value.item() == 8
    assert table.grad.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_ties_share_the_gradient():
    table = torch.ones(3, 3, requires_grad=True)
    value = shortest_path(table)
    value.backward()
    assert value.item() == 5
    assert table.grad.tolist() == [[1, 0.5, 0.25], [0.5, 0.5, 0.5], [0.25, 0.5, 1]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (3, 3), (4, 6), (6, 4), (6, 6), (8, 8)])
def test_all_forms_agree_with_the_oracles(shape):
    table = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))
    expected = min(enumerated(table))
    assert cell_loop(table)[-1][-1] == pytest.approx(expected, abs=1e-12)
    for value in (shortest_path(table), streamed(table), shortest_path(table.T)):
        assert float(value) == pytest.approx(expected, abs=1e-12)
    assert float(shortest_path(table + 3)) == pytest.approx(expected + 3 * (sum(shape) - 1), abs=1e-12)
    assert float(shortest_path(7 * table)) == pytest.approx(7 * expected, abs=1e-12)
    if 1 in shape:
        assert expected == pytest.approx(float(table.sum()), abs=1e-12)


def test_gradients_of_the_wave_are_those_of_the_cheapest_path():
    table = torch.rand(6, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    shortest_path(table).sum().backward()
    for n in range(4):
        on_path = table.grad[..., n] == 1
        assert int(on_path.sum()) == 10
        assert table[..., n][on_path].sum().item() == pytest.approx(shortest_path(table[..., n]).item(), abs=1e-12)


def test_stripe_distance():
    f, t = torch.tensor([[1.0, 3, 2, 6]]), torch.tensor([[2.0, 2, 4, 0]])
    assert SUM.normalize(f)[0].tolist() == pytest.approx([-0.4, 0, -0.2, 0.6])
    assert SUM.normalize(t)[0].tolist() == pytest.approx([0, 0, 0.5, -0.5])
    for shifted in (f, 5 * f + 7):
        assert float(SUM.between(SUM.normalize(shifted), SUM.normalize(t))) == pytest.approx(2.2, abs=1e-6)
    a, b = torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[0.0, 0, 1, 1]])
    assert float(SUM.between(SUM.normalize(a), SUM.normalize(b))) == 4
    aligned = StripeMetric("aligned")
    assert float(aligned.between(aligned.normalize(a), aligned.normalize(b))) == pytest.approx(0.608859, abs=1e-6)


def test_alignment_beats_the_diagonal():
    a, shifted, stranger = UNIT[None, 0:4], UNIT[None, 1:5], UNIT[None, 4:8]
    for other, diagonal, path in ((a, 0, 6), (shifted, 8, 8), (stranger, 8, 14)):
        assert float((SUM.normalize(a) - SUM.normalize(other)).abs().sum()) == pytest.approx(diagonal, abs=1e-5)
        assert float(path_distances(a, other, SUM)) == pytest.approx(path, abs=1e-5)
        assert float(path_distances(a, other)) == pytest.approx(path / 8, abs=1e-6)
    five = torch.eye(5)[None, :4]
    assert float((SUM.normalize(five) - SUM.normalize(five.flip(1))).abs().sum()) == pytest.approx(8, abs=1e-5)
    assert float(path_distances(five, five.flip(1), SUM)) == pytest.approx(12, abs=1e-5)


def test_gradient_check_and_invariance():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(3, 4, 16, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2))
    for metric in METRICS:
        assert torch.autograd.gradcheck(lambda a, b, m=metric: path_distances(a, b, m), (x, y), fast_mode=True)
    (grad,) = torch.autograd.grad(path_distances(x, y).sum(), x)
    assert grad.abs().max() > 1e-3
    assert grad.sum(-1).abs().max() < 1e-12
    assert (grad * x).sum(-1).abs().max() < 1e-12


def test_constant_stripes_are_finite_with_finite_gradients():
    x = torch.ones(2, 3, 5, requires_grad=True)
    value = path_distances(x, torch.rand(2, 3, 5))
    value.sum().backward()
    assert value.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("metric", METRICS)
def test_blocks_pairs_and_top_agree_with_the_table(metric):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(7, 6, 32, generator=generator), torch.rand(11, 6, 32, generator=generator)
    expected = path_distances(x, y, metric)
    assert expected.max() <= metric.bound(x)
    for pairs in (1, 12, 77, 10**6):
        blocks = streamed_path_distances(x, y, metric, budget=36 * pairs)
        assert torch.allclose(blocks, expected, atol=1e-6, rtol=1e-6)
    assert torch.allclose(paired_path_distances(x, y[:7], metric), expected.diagonal(), atol=1e-6, rtol=1e-6)
    top = expected.topk(4).indices
    for budget in (1, 10**9):
        chosen = top_path_distances(x, y, top, metric, budget)
        assert torch.allclose(chosen.gather(1, top), expected.gather(1, top), atol=1e-6, rtol=1e-6)
        assert int(chosen.isinf().sum()) == 7 * 7


@pytest.mark.parametrize(("queries", "gallery"), [(0, 3), (3, 0), (0, 0)])
def test_empty_sides(queries, gallery):
    x, y = torch.rand(queries, 2, 4), torch.rand(gallery, 2, 4)
    for distances in (path_distances, streamed_path_distances):
        assert distances(x, y).shape == (queries, gallery)


@pytest.mark.parametrize(
    ("columns", "pairs", "sides"), [(11, 77, (8, 8)), (11, 1000, (90, 11)), (0, 0, (1, 1)), (301, 0, (1, 1))]
)
def test_block_sides(columns, pairs, sides):
    assert block_sides(columns, pairs) == sides


class LiveBytes(TorchDispatchMode):
    """Count the bytes of the tensors that are alive, and their peak."""

    def __init__(self, *inputs):
        super().__init__()
        self.live = self.peak = 0
        self.owned = {tensor.untyped_storage().data_ptr() for tensor in inputs}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in self.owned:
            address, size = out.untyped_storage().data_ptr(), out.untyped_storage().nbytes()
            self.owned.add(address)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(out, self._free, address, size)
        return out

    def _free(self, address, size):
        self.owned.discard(address)
        self.live -= size


@pytest.mark.parametrize("h", [4, 6])
def test_streaming_holds_h_plus_three_planes(h):
    x, y = torch.rand(h, 64, 8), torch.rand(h, 50, 8)
    x, y = StripeMetric().normalize(x), StripeMetric().normalize(y)
    with LiveBytes(x, y) as memory:
        stream(x, y, StripeMetric())
    plane = 64 * 50 * 4
    assert (h + 1) * plane < memory.peak <= (h + 3) * plane
    with LiveBytes(x, y) as memory:
        path_distances(x.transpose(0, 1), y.transpose(0, 1))
    assert memory.peak >= h * h * plane
