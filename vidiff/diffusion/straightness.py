"""How straight the trajectories of a model are: Liu et al. 2022 (2209.03003), sec. 3, eq. 8.

S = integral over t of E |dx/dt - (x_1 - x_0)|^2,       0 where one Euler step is exact
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.estimate import EstimateFn, velocity
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import steps_of


@torch.no_grad()
def straightness(estimate: EstimateFn, x: Tensor, times: Tensor, path: Path) -> Tensor:
    """S per element (B,) of the trajectories from x (B,...) at times[0] down to times[-1], by Euler steps on dx/dt.

    `times` (S+1,) descending; the slope must be finite at all but the last.
    """
    first, slopes = x, []
    for _, t, s in steps_of(times, x):
        slopes.append(velocity(path, estimate(x, t), t))
        x = x + expand(s - t, x) * slopes[-1]
    chord = (first - x) / (times[0] - times[-1]).to(x.dtype)
    gaps = torch.stack([((slope - chord) ** 2).flatten(1).mean(1) for slope in slopes])
    shares = (times[:-1] - times[1:]) / (times[0] - times[-1])
    return (shares.to(gaps)[:, None] * gaps).sum(0)
