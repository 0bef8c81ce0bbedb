"""Shortcut models with guidance inside their targets: Frans et al. 2024 (2410.12557), sec. 3.2 and 4.

Of the two half steps that a long one is to end where they do, the shortest are guided,

    u(x_t, t) + scale (u(x_t, t | c) - u(x_t, t)),      both of length 0,

and longer ones are the network's own, which have learned it. Steps of length 0 stay plain flow matching.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import Estimate, Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Net
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.times import Times
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Count, Fraction, NonNegative, Positive
from zoo.objectives.shortcut import Shortcut


@OBJECTIVES.register("shortcut_guided", parts=PARTS)
class ShortcutGuided(Shortcut):
    """A shortcut model whose jumps are guided by `scale` (1 is none) and are sampled without guidance.

    Its steps of length 0 (`euler`, `jump` with `finest` steps) are not, so they are sampled with it.
    """

    needs_null = True

    def __init__(
        self,
        path: Path | str = "linear",
        prediction: Prediction | str = "velocity",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        share: Fraction = 0.25,
        finest: Count = 128,
        step_scale: Positive = 1000.0,
        scale: NonNegative = 1.5,
        *,
        width: int = 64,
    ):
        """Raises ValueError as `shortcut`."""
        super().__init__(path, prediction, weighting, times, noise, share, finest, step_scale, width=width)
        self.scale = scale

    def half(self, net: Net, x_t: Tensor, t: Tensor, cond: Cond, s: Tensor) -> Estimate:
        """Half of a long step, from t to s (B,), as the network takes it now; the shortest with guidance.

        Raises ValueError when the condition does not come with the one that says nothing.
        """
        if cond.without is None:
            raise ValueError("objective shortcut_guided: there is no null condition to be guided away from.")
        believed, short = super().half(net, x_t, t, cond, s), self.short(t, s)
        if not short.any():
            return believed
        null = self.estimate(net, x_t, t, cond.without)
        weight = torch.where(short, self.scale, 1.0).to(t.dtype)
        return Estimate(*(u + expand(weight, u) * (c - u) for c, u in zip(believed, null, strict=True)))
