"""What every registered density over t promises."""

import pytest
import torch

import zoo.objectives  # noqa: F401
from vidiff.random import Random
from vidiff.registry import PATHS, TIMES

U = torch.linspace(0.001, 0.999, 301, dtype=torch.float64)


@pytest.fixture(params=TIMES.names())
def times(request):
    return TIMES[request.param].build(TIMES[request.param].tiny)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.1, 0.7)])
@pytest.mark.parametrize("path", PATHS.names())
def test_quantiles_ascend_and_stay_in_the_interval(times, path, interval):
    t = times.quantile(U, PATHS[path].build(), interval)
    assert t.shape == U.shape and t.dtype == torch.float64
    assert (t >= interval[0]).all() and (t <= interval[1]).all() and (t.diff() >= 0).all() and t[-1] > t[0]


def test_draws_follow_the_quantile_function(times):
    """Kolmogorov-Smirnov at n = 20,000, p > 1e-3."""
    path, interval, num = PATHS["linear"].build(), (0.0, 1.0), 20_000
    t = times.draw(Random(1, "ks", rows=range(num)), path, interval, frames=4)
    assert t.shape == ((num, 4) if times.framewise else (num,))
    t = t.reshape(num, -1)[:, -1].sort().values
    fine = torch.linspace(0, 1, 200_003, dtype=torch.float64)[1:-1]
    law = torch.searchsorted(times.quantile(fine, path, interval), t) / len(fine)
    steps = torch.arange(num + 1, dtype=torch.float64) / num
    distance = torch.maximum((law - steps[:-1]).abs(), (law - steps[1:]).abs()).max()
    assert distance * num**0.5 < 1.95


def test_a_row_draws_the_same_in_any_process_of_the_same_global_batch(times):
    path, interval = PATHS["linear"].build(), (0.0, 1.0)
    whole = times.draw(Random(3, "step", 7, rows=range(40, 52), first=40, total=12), path, interval, frames=5)
    part = times.draw(Random(3, "step", 7, rows=range(45, 48), first=40, total=12), path, interval, frames=5)
    assert whole.dtype == torch.float64 and whole.shape[0] == 12
    assert torch.equal(whole[5:8], part)
    other = times.draw(Random(3, "step", 8, rows=range(40, 52), first=40, total=12), path, interval, frames=5)
    assert not torch.equal(whole, other)
