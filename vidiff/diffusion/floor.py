"""The least loss there is: what the perfect network loses, when the data are a mixture of Gaussians.

A network cannot know more of x0 than its posterior leaves open, so the least mean square error of its output is

    (D / sigma)^2 mean Var[x0 | x_t],      D = alpha q - sigma p

averaged over x_t (Rao-Blackwell: of the draws only x_t is random, not the error), and weighted as the loss is.
For one Gaussian with variances l this is (D / sigma)^2 mean l sigma^2 / (alpha^2 l + sigma^2), whatever x_t.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vidiff.diffusion.levels import time_at
from vidiff.diffusion.mixture import Mixture
from vidiff.diffusion.objective import Objective, per_time
from vidiff.random import Random
from vidiff.types import Grid


class Floor(NamedTuple):
    """The least weighted loss, the least error of the network's output and of x0, with standard errors; () each."""

    loss: Tensor
    loss_error: Tensor
    mse: Tensor
    x0: Tensor


def floor(
    objective: Objective, law: Mixture, grid: Grid, logsnr: float | None = None, told: float = 0.0, num: int = 4000
) -> Floor:
    """At one log-SNR, or (None) over the times that training draws; `told` is the share that knows its class.

    Raises ValueError as `check_floor` and `time_at`.
    """
    check_floor(objective)
    random = Random(0, "floor", rows=range(num))
    x0, k = law.draw(random.shared("law"), num)
    x0 = x0.reshape(num, *grid)
    same = law.classes == law.classes[k][:, None]
    prior = law.weights * (same | (random.uniform((num,)) >= told)[:, None])
    noise = objective.noise(x0.shape, random, torch.float64)
    t = objective.draw_times(random, x0) if logsnr is None else time_at(objective, logsnr).expand(num)
    path, prediction = objective.path, objective.prediction
    left = per_time(law.posterior(path, path.point(x0, noise, t), t, prior).variance, t)
    mse = (prediction.determinant(path, t) / path.sigma(t)) ** 2 * left
    loss = objective.weighting.loss(path, prediction, t, mse).detach().reshape(num, -1).mean(1)
    return Floor(loss.mean(), loss.std() / num**0.5, mse.mean(), left.mean())


def check_floor(objective: Objective) -> None:
    """Raises ValueError for a loss that is no weighted square of the error of a belief about Gaussian noise."""
    own = type(objective)
    plain = own.loss is Objective.loss and own.loss_at is Objective.loss_at and own.penalty is Objective.penalty
    if not plain or objective.tells != {"velocity"}:
        raise ValueError(
            "the loss of this objective is not a weighted square alone, so its least value has no such form. "
            "Train the oracle with it: the loss of its steps is the least one."
        )
    if not objective.noise.white:
        raise ValueError("the least loss is known for independent noise. Use objective.noise=gaussian.")
