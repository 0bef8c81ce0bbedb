"""One error for every objective: how far the believed x0 is from the true one at a given log-SNR.

error(l) = mean over elements of (x0_hat(x_t, t) - x0)^2,    x_t = alpha x0 + sigma noise,    logsnr(t) = l

Losses of different objectives are numbers of different things. At equal log-SNR, though, the x_t of all paths are
the same up to a known factor (Kingma et al. 2021 (2107.00630), sec. 5), and every prediction believes some x0:
this is the same question put to every model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.diffusion.objective import Net, Objective
from vidiff.types import Cond

REACH = 0.05
"""A path is taken to reach a log-SNR when it comes this near to it."""


def time_at(objective: Objective, logsnr: float) -> Tensor:
    """The t () in float64 with this log-SNR. Raises ValueError when path or interval do not reach it."""
    path, (low, high) = objective.path, objective.interval
    t = path.time(torch.tensor(logsnr, dtype=torch.float64, device="cpu")).clamp(low, high)
    reached = path.logsnr(t).item()
    if abs(reached - logsnr) > REACH:
        raise ValueError(
            f"log-SNR {logsnr:g} is not reached by this objective in its interval [{low:g}, {high:g}]: "
            f"the nearest is {reached:.2f}. Measure at other levels."
        )
    return t


def x0_error(objective: Objective, net: Net, x0: Tensor, noise: Tensor, cond: Cond, logsnr: float) -> Tensor:
    """The mean squared error (B,) of the believed x0; x0 and noise (B,c,t,h,w). Raises ValueError as `time_at`."""
    t = time_at(objective, logsnr).to(x0.device).expand(len(x0))
    believed = objective.estimate(net, objective.path.point(x0, noise, t), t, cond).x0
    return (believed - x0).square().flatten(1).mean(1)
