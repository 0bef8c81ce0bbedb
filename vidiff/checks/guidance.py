"""What every guidance promises: estimate -> estimate, on all channels."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.checks.parts import draw, require
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.guidance import Branch, Given
from vidiff.diffusion.path import Path
from vidiff.registry import Component
from vidiff.types import Cond

SHAPE = (2, 7, 3, 4, 5)


class Straight(Path):
    """x_t = (1 - t) x0 + t noise, for guidance that looks at the noise level."""

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t

    def alpha_dot(self, t):
        return -torch.ones_like(t)

    def sigma_dot(self, t):
        return torch.ones_like(t)


class Weak:
    """The model of another run."""

    def estimator(self, cond, guidance=None):
        return lambda x, t: Estimate(x / 2, x)


def guides_all_channels_alike(component: Component) -> None:
    """Beliefs with their channels in reverse are guided to the same answer in reverse: a rule that stops at three or
    four channels leaves the others unguided."""
    given = Given(Branch(Cond()), Branch(Cond()), Straight(), lambda parts: Branch(Cond()))
    with_it = Estimate(draw(*SHAPE), draw(*SHAPE, seed=3))
    without = Estimate(draw(*SHAPE, seed=5), draw(*SHAPE, seed=6))

    def guided(reverse: bool) -> Estimate:
        def turn(y: Tensor) -> Tensor:
            return y.flip(1) if reverse else y

        def evaluate(x, t, branches):
            return [Estimate(*map(turn, with_it if branch is given.cond else without)) for branch in branches]

        estimate = component.build(component.tiny, load=lambda run: Weak())(evaluate, given)
        return Estimate(*map(turn, estimate(turn(draw(*SHAPE, seed=4)), torch.full((SHAPE[0],), 0.5))))

    one, other = guided(False), guided(True)
    require(one.x0.isfinite().all() and one.noise.isfinite().all(), "numbers that are not finite.")
    apart = (one.x0 - other.x0).abs().amax(dim=(0, 2, 3, 4))
    require(apart.max() <= 1e-4, f"in reverse order channels are off by {', '.join(f'{a:.3g}' for a in apart)}.")


CHECKS = (guides_all_channels_alike,)
