"""What every registered spacing promises."""

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from vidiff.registry import PATHS, SPACINGS


@pytest.fixture(params=SPACINGS.names())
def spacing(request):
    return SPACINGS[request.param].build(SPACINGS[request.param].tiny)


@pytest.mark.parametrize("path", PATHS.names())
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.95)])
def test_descends_within_the_interval_to_clean(spacing, path, steps, interval):
    if spacing.fixed not in (None, steps):
        with pytest.raises(ValueError, match=f"{steps} steps, and the list of"):
            spacing(steps, PATHS[path].build(), interval)
        steps = spacing.fixed
    times = spacing(steps, PATHS[path].build(), interval)
    assert times.shape == (steps + 1,) and times.dtype == torch.float64 and times.device.type == "cpu"
    assert times[-1] == 0 and (times.diff() <= 0).all()
    assert (times[:-1] >= interval[0]).all() and times[0] <= interval[1] and times[0] > 0
    if interval == (0.0, 1.0):
        assert (times.diff() < 0).all()
