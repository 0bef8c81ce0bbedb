"""The answer of a perfect network, for data whose law is a mixture of Gaussians: nothing is learned.

    y = p E[x0|x_t] + q E[noise|x_t]          vidiff/diffusion/mixture.py has the posterior means

It is told what every network is told, c_in x_t and a label of the time, and finds x_t and t from them. With it an
objective shows its least loss and a sampler its own error: no other backbone has a smaller one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vidiff.diffusion.mixture import Mixture, time_of_label
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.path import expand
from vidiff.registry import BACKBONES
from vidiff.types import Cond, CondSpec, Grid

SHARES = ("weights", "means", "covariances", "classes", "eigenvalues", "axes")


@BACKBONES.register("oracle_mixture")
class OracleMixture(nn.Module):
    """For data `gaussian_mixture` and every objective whose answer is a belief about x0 and noise at t.

    Conditioner `one_hot` tells it the class: beliefs are then those of the class, without it those of all data. Where
    variances are asked for too (`iddpm`, `vlb`), it answers those of least bound. For `l1`, whose least loss the
    median has, it answers the mean, which samplers need.
    """

    uses, zero_init, exact = frozenset({"vector"}), False, True

    def __init__(self, *, grid: Grid, cond: CondSpec, law: Mixture | None, objective: Objective):
        """Raises ValueError for data without a known law, another condition, and objectives without a closed form."""
        super().__init__()
        if law is None:
            raise ValueError(
                "the law of these latents is not known. Use data: gaussian_mixture and tokenizer: pixels or tubelet."
            )
        if not objective.noise.white:
            raise ValueError("it knows the answer for independent noise. Use objective.noise: gaussian.")
        if objective.tells != {"velocity"}:
            raise ValueError(
                f"this objective's answers tell {' and '.join(sorted(objective.tells))}: where trajectories lead "
                "has no closed form. Use an objective that tells the velocity alone, such as rectified_flow."
            )
        classes = int(law.classes.max()) + 1
        if cond.vector not in (0, classes):
            raise ValueError(f"it takes the class as {classes} numbers. Use conditioner: one_hot, or none.")
        self.grid, self.blocks, self.objective = grid, nn.ModuleList(), (objective,)  # no part of it: in a tuple
        here = law.to(torch.get_default_device())
        for name in SHARES:
            self.register_buffer(name, getattr(here, name), persistent=False)

    def forward(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        """x (B,c,t,h,w), time (B,) or (B,t), cond.vector (B,classes) or None -> (B,out_channels,t,h,w)."""
        (objective,) = self.objective
        path, prediction = objective.path, objective.prediction
        t = time_of_label(prediction, path, time.double())
        x_t = x.double() / expand(prediction.input_scale(path, t), x.double())
        found = self.law.posterior(path, x_t, t, self.prior(cond))
        y = prediction.target(path, found.x0, found.noise, t)
        answers = [y, self.spread(objective, found.variance, t)] if objective.outputs == 2 else [y]
        return torch.cat(answers, dim=1).to(x.dtype)

    @property
    def law(self) -> Mixture:
        """The mixture, on the device of this module."""
        law = object.__new__(Mixture)
        law.__dict__ = {name: getattr(self, name) for name in SHARES}
        return law

    def prior(self, cond: Cond) -> Tensor | None:
        """The weights of the components given the class (B,K): all of them where the vector is zero."""
        if cond.vector is None:
            return None
        told = cond.vector.double()
        mine = told[:, self.classes]
        return self.weights * torch.where(told.any(dim=1, keepdim=True), mine, torch.ones_like(mine))

    def spread(self, objective: Any, variance: Tensor, t: Tensor) -> Tensor:
        """What tells the log-variance of a step of least bound: log(beta~ + rate^2 Var[x0|x_t]), as it is asked for."""
        chain = objective.chain
        beta, posterior = (expand(value, variance) for value in chain.variances(t))
        best = (posterior + expand(chain.rate(t), variance) ** 2 * variance).log()
        if objective.variance == "learned":
            return best
        room = beta.log() - posterior.log()
        return torch.where(room > 0, 2 * (best - posterior.log()) / room - 1, 0.0)

    def check(self, grid: Grid) -> None:
        """Raises ValueError for another grid than that of the law."""
        if grid != self.grid:
            raise ValueError(f"the law is that of latents {self.grid}, not of {grid}.")
