"""What every registered spacing promises."""

from itertools import product

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from vidiff.registry import PATHS, SPACINGS


@pytest.fixture(params=SPACINGS.names())
def spacing(request):
    return SPACINGS[request.param].build(SPACINGS[request.param].tiny)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.95)])
def test_descends_within_the_interval_to_clean(spacing, interval):
    """On every path; one test for all of them, whose cells take a tenth of a millisecond each."""
    for (name, path), steps in product(((name, PATHS[name].build()) for name in PATHS.names()), (1, 2, 7, 50)):
        if spacing.fixed not in (None, steps):
            with pytest.raises(ValueError, match=f"{steps} steps, and the list of"):
                spacing(steps, path, interval)
        steps = spacing.fixed or steps
        times = spacing(steps, path, interval)
        assert times.shape == (steps + 1,) and times.dtype == torch.float64 and times.device.type == "cpu", name
        assert times[-1] == 0 and (times.diff() <= 0).all(), (name, steps)
        assert (times[:-1] >= interval[0]).all() and times[0] <= interval[1] and times[0] > 0, (name, steps)
        if interval == (0.0, 1.0):
            assert (times.diff() < 0).all(), (name, steps)
