"""The midpoint rule for the probability-flow ODE: torchdiffeq's and flow_matching's "midpoint"."""

from __future__ import annotations

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import RungeKutta, Spacing
from vidiff.registry import SAMPLERS
from vidiff.types import Count


@SAMPLERS.register("midpoint", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Midpoint(RungeKutta):
    """x + (s - t) dx/dt at (t + s)/2, reached by half an Euler step: order 2, two evaluations per step.

    The slope at the end is never asked for, so it runs to sigma = 0. In log sigma instead of t: `dpm2`.
    """

    nodes = (0, 1 / 2)
    matrix = ((), (1 / 2,))
    weights = (0, 1)

    def __init__(self, steps: Count = 25, spacing: Spacing | str = "uniform", path: Path | str | None = None):
        super().__init__(steps, spacing, path)
