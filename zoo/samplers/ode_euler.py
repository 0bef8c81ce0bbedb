"""Euler's method for the probability-flow ODE: what SiT (2401.08740) and flow_matching call "euler"."""

from __future__ import annotations

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import RungeKutta, Spacing
from vidiff.registry import SAMPLERS
from vidiff.types import Count


@SAMPLERS.register("ode_euler", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class OdeEuler(RungeKutta):
    """x + (s - t) dx/dt: on curved paths another sampler than `euler`, which moves the estimate (DDIM).

    On `linear` and `ve` the two are one. Order 1.
    """

    nodes = (0,)
    matrix = ((),)
    weights = (1,)

    def __init__(self, steps: Count = 50, spacing: Spacing | str = "uniform", path: Path | str | None = None):
        super().__init__(steps, spacing, path)
