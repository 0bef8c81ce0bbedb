"""Heun's third-order method for the probability-flow ODE: torchdiffeq's "heun3" (SiT, flow_matching)."""

from __future__ import annotations

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import RungeKutta, Spacing
from vidiff.registry import SAMPLERS
from vidiff.types import Count


@SAMPLERS.register("heun3", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Heun3(RungeKutta):
    """Slopes at t, a third and two thirds of the step, weighted 1/4, 0, 3/4: order 3, three evaluations per step."""

    nodes = (0, 1 / 3, 2 / 3)
    matrix = ((), (1 / 3,), (0, 2 / 3))
    weights = (1 / 4, 0, 3 / 4)

    def __init__(self, steps: Count = 25, spacing: Spacing | str = "uniform", path: Path | str | None = None):
        super().__init__(steps, spacing, path)
