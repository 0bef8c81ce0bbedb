"""One evaluation per step: DDIM, Song et al. 2020 (2010.02502), eq. 12; the Euler method of flow models."""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, Spacing, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count


@SAMPLERS.register("euler", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Euler(Sampler):
    """x_s = alpha_s x0 + sigma_s noise: move the estimate to the next time.

    On every path this is DDIM. On the linear and the `ve` path it is also the Euler step
    x + (s - t) dx/dt of the probability-flow ODE; on curved paths it is not: it stays exact for a
    single data point however long the step. Ascending times run it backwards (encoding).
    """

    framewise = True
    asks = frozenset({"velocity", "end", "step"})

    def __init__(self, steps: Count = 50, spacing: Spacing | str = "uniform", path: Path | str | None = None):
        super().__init__(steps, spacing, path)

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        for _, t, s in steps_of(times, x):
            x = place(path, estimate(x, t), s)
        return x
