"""Guidance: from the estimates of several branches (cond, uncond, ...) to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.diffusion.estimate import Estimate, EstimateFn, Prediction
from vidiff.diffusion.objective import SINGULAR
from vidiff.diffusion.path import Path, expand
from vidiff.types import Cond

Disturb = Callable[[nn.Module, Any, range], AbstractContextManager]
"""(backbone, the rows at work (vidiff.blocks.Rows), a span of rows) -> a context in which the backbone is disturbed
for these rows and no others."""


@dataclass(frozen=True, eq=False)
class Branch:
    """One belief that guidance may ask for: under a condition, from a network that may be disturbed."""

    cond: Cond
    disturb: Disturb | None = None


Evaluate = Callable[[Tensor, Tensor, Sequence[Branch]], list[Estimate]]
"""(x_t, t, branches) -> one Estimate per branch, all in one batched call of the network."""


@dataclass(frozen=True)
class Given:
    """What there is to guide with in one sampling run. `path` is that of the x_t which are asked about."""

    cond: Branch
    uncond: Branch
    path: Path | None = None
    only: Callable[[Sequence[int]], Branch] | None = None
    """Of several conditions those with these numbers, all others dropped."""


class Guidance:
    """How beliefs are combined; acts on every channel, on x0 and noise alike.

    A call makes the estimate of one sampling run; what it remembers from step to step lives in that estimate.
    """

    needs_uncond = True
    silent = False
    """Whether there are times at which it asks the network nothing."""

    def __call__(self, evaluate: Evaluate, given: Given) -> EstimateFn:
        """The guided estimate as a function of (x_t, t)."""
        raise NotImplementedError

    def check(self, model: Any) -> None:
        """Raises ValueError when this model (a Diffuser) cannot be guided so."""


class Around(Guidance):
    """A guidance that changes what another one, its part `guidance`, says."""

    def __init__(self, guidance: Guidance):
        self.guidance = guidance

    @property
    def needs_uncond(self) -> bool:
        """Whether the inner guidance compares with and without a condition."""
        return self.guidance.needs_uncond

    @property
    def silent(self) -> bool:
        """Whether the inner guidance asks nothing at times."""
        return self.guidance.silent

    def check(self, model: Any) -> None:
        """Raises ValueError when the inner guidance does."""
        self.guidance.check(model)


class AgainstDisturbed(Around):
    """guidance + (scale - 1) (cond - disturbed): away from a network that is disturbed on purpose; scale 1 is none."""

    def __init__(self, scale: float, guidance: Guidance):
        super().__init__(guidance)
        self.scale = scale

    def disturb(self, backbone: nn.Module, rows: Any, span: range) -> AbstractContextManager:
        """A context in which these rows are disturbed."""
        raise NotImplementedError

    def __call__(self, evaluate: Evaluate, given: Given) -> EstimateFn:
        if self.scale == 1:
            return self.guidance(evaluate, given)
        inner = overheard(self.guidance, evaluate, given, given.cond, Branch(given.cond.cond, self.disturb))

        def estimate(x: Tensor, t: Tensor) -> Estimate:
            believed, heard = inner(x, t)
            return added(believed, (self.scale - 1, *heard)) if heard else believed

        return estimate


def overheard(
    guidance: Guidance, evaluate: Evaluate, given: Given, *branches: Branch
) -> Callable[[Tensor, Tensor], tuple[Estimate, list[Estimate]]]:
    """(x_t, t) -> what `guidance` says, and what these branches said in the same call of the network.

    Nothing is heard where the guidance asks the network nothing.
    """
    heard: list[Estimate] = []

    def listening(x: Tensor, t: Tensor, asked: Sequence[Branch]) -> list[Estimate]:
        together = [*asked, *(b for b in branches if b not in asked)]
        beliefs = evaluate(x, t, together)
        heard[:] = [beliefs[together.index(b)] for b in branches]
        return beliefs[: len(asked)]

    inner = guidance(listening, given)

    def estimate(x: Tensor, t: Tensor) -> tuple[Estimate, list[Estimate]]:
        heard.clear()
        return inner(x, t), list(heard)

    return estimate


def added(base: Estimate, *terms: tuple[float, Estimate, Estimate]) -> Estimate:
    """base + sum of weight (one - other), on x0 and noise alike."""
    x0, noise = base
    for weight, one, other in terms:
        x0, noise = x0 + weight * (one.x0 - other.x0), noise + weight * (one.noise - other.noise)
    return Estimate(x0, noise)


def chosen(where: Tensor, one: Estimate, other: Estimate) -> Estimate:
    """`one` where True (B,) or (B,t), elsewhere `other`."""
    mask = expand(where, one.x0).bool()
    return Estimate(*(torch.where(mask, a, b) for a, b in zip(one, other, strict=True)))


def revised(path: Path, estimate: Estimate, x0: Tensor, t: Tensor) -> Estimate:
    """The estimate of the same x_t that believes this x0: the noise gives way by alpha / sigma of the change."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    rate = torch.where(sigma > 0, alpha / sigma, torch.zeros_like(sigma))
    return Estimate(x0, estimate.noise + expand(rate, x0) * (estimate.x0 - x0))


def check_space(space: Prediction, path: Path, interval: tuple[float, float]) -> None:
    """Raises ValueError where guidance cannot be computed in this space: it tells nothing at the first time."""
    first = torch.tensor(interval[1], dtype=torch.float64, device="cpu")
    if not SINGULAR <= space.determinant(path, first).abs().item() < float("inf"):
        name, t = type(space).__name__.lower(), f"{interval[1]:g}"
        raise ValueError(f"in the space of {name} it cannot be computed at t = {t} on this path. Use space: v.")
