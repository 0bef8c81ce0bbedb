"""The trapezoid rule in every step: torchdiffeq's "heun2" (SiT) and Nano-Sora's sample_heun."""

from __future__ import annotations

from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import RungeKutta, Spacing
from vidiff.registry import SAMPLERS
from vidiff.types import Count


@SAMPLERS.register("heun2", tiny=dict(steps=3), parts={"spacing": "spacing", "path": "path"})
class Heun2(RungeKutta):
    """`heun` that corrects its last step as well, with the slope at clean data: order 2, 2 steps evaluations.

    A network is hardly ever trained there; `heun` leaves that correction out.
    """

    nodes = (0, 1)
    matrix = ((), (1,))
    weights = (1 / 2, 1 / 2)

    def __init__(self, steps: Count = 25, spacing: Spacing | str = "uniform", path: Path | str | None = None):
        super().__init__(steps, spacing, path)
