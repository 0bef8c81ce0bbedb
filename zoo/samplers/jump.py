"""Steps of a model that knows where they end: shortcut models, Frans et al. 2024 (2410.12557), alg. 2; MeanFlow, Geng
et al. 2025 (2505.13447), eq. 12.

    x_s = x_t - (t - s) u(x_t, t, s)           u the average velocity from t down to s
"""

from __future__ import annotations

from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, place, toward
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler, Spacing, steps_of
from vidiff.random import Random
from vidiff.registry import SAMPLERS
from vidiff.types import Count


@SAMPLERS.register("jump", tiny=dict(steps=2), parts={"spacing": "spacing", "path": "path"})
class Jump(Sampler):
    """One evaluation per step, told the time it ends at; `euler` where a belief ends nowhere in particular.

    One step maps noise to data. Shortcut models were trained for powers of two: 1, 2, 4, ... uniform steps.
    """

    asks = frozenset({"jump"})

    def __init__(self, steps: Count = 1, spacing: Spacing | str = "uniform", path: Path | str | None = None):
        super().__init__(steps, spacing, path)

    def __call__(self, estimate: EstimateFn, x: Tensor, times: Tensor, path: Path, random: Random) -> Tensor:
        for _, t, s in steps_of(times, x):
            x = place(path, toward(estimate, s)(x, t), s)
        return x
