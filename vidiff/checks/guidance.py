"""What every guidance promises: estimate -> estimate, on all channels."""

from __future__ import annotations

import torch

from vidiff.checks.parts import draw, require
from vidiff.diffusion.estimate import Estimate
from vidiff.registry import Component
from vidiff.types import Cond

SHAPE = (2, 7, 3, 4, 5)


def guides_all_channels_alike(component: Component) -> None:
    """Where the two estimates differ by the same amount everywhere, so does the guided one from either: a rule that
    stops at three or four channels leaves the others unguided."""
    beliefs = [Estimate(draw(*SHAPE), draw(*SHAPE, seed=3)), Estimate(draw(*SHAPE) - 0.5, draw(*SHAPE, seed=3) + 0.5)]

    def evaluate(x, t, conds):
        return beliefs[: len(conds)] if len(conds) < 3 else [*beliefs, *beliefs[1:]][: len(conds)]

    estimate = component.build(component.tiny)(evaluate, Cond(), Cond())
    guided = estimate(draw(*SHAPE, seed=4), torch.full((SHAPE[0],), 0.5))
    shift = (guided.x0 - beliefs[0].x0).mean(dim=(0, 2, 3, 4))
    spread = (shift.max() - shift.min()).item()
    require(spread <= 1e-4, f"channels are shifted by {', '.join(f'{s:.3g}' for s in shift.tolist())}.")
    require(guided.x0.isfinite().all() and guided.noise.isfinite().all(), "numbers that are not finite.")


CHECKS = (guides_all_channels_alike,)
