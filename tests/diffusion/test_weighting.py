"""The spaces a weight can be stated in."""

import torch

import zoo.objectives  # noqa: F401
from vidiff.diffusion.estimate import Estimate, velocity
from vidiff.diffusion.weighting import error_ratio
from vidiff.registry import PATHS, PREDICTIONS, build


def test_error_ratios_are_those_of_actual_errors():
    """A network off by dy at fixed x_t is off in every space by what `solve` makes of it."""
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    g = torch.Generator().manual_seed(3)
    x_t, y, dy = (torch.randn(2, 5, generator=g, dtype=torch.float64) for _ in range(3))
    for path in (PATHS[n].build() for n in ("linear", "vp", "ve", "sigmoid")):
        for prediction in (p.build() for p in PREDICTIONS):
            a, b = prediction.solve(path, x_t, y, t), prediction.solve(path, x_t, y + dy, t)
            off = Estimate(b.x0 - a.x0, b.noise - a.noise)
            v = build("prediction", "v").target(path, *off, t)
            size = (dy**2).sum(1)
            for space, error in (("x0", off.x0), ("noise", off.noise), ("v", v), ("velocity", velocity(path, off, t))):
                ratio = error_ratio(space, path, prediction, t)
                assert torch.allclose(ratio * size, (error**2).sum(1), rtol=1e-9), (type(prediction), space)
            assert torch.equal(error_ratio("target", path, prediction, t), torch.ones_like(t))
            assert torch.allclose(path.point(*off, t), torch.zeros_like(x_t), atol=1e-9)
