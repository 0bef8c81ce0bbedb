"""Kutta's fourth-order method, the 3/8 rule (Kutta 1901): torchdiffeq's "rk4" (SiT, flow_matching)."""

from __future__ import annotations

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import RungeKutta, Spacing
from vidiff.registry import SAMPLERS
from vidiff.types import Count


@SAMPLERS.register("rk4", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Rk4(RungeKutta):
    """Slopes at 0, 1/3, 2/3 and 1 of the step, weighted 1/8, 3/8, 3/8, 1/8: order 4, four evaluations per step."""

    nodes = (0, 1 / 3, 2 / 3, 1)
    matrix = ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1))
    weights = (1 / 8, 3 / 8, 3 / 8, 1 / 8)

    def __init__(self, steps: Count = 25, spacing: Spacing | str = "uniform", path: Path | str | None = None):
        super().__init__(steps, spacing, path)
