"""What every noise prior promises: vidiff.diffusion.noise.Noise."""

from __future__ import annotations

import torch

from vidiff.checks.parts import require, watched_dice
from vidiff.diffusion.noise import Noise
from vidiff.random import Random
from vidiff.registry import Component

SHAPE = (3, 4, 5, 6)


def make(component: Component) -> Noise:
    """A tiny one."""
    return component.build(component.tiny)


def every_element_is_standard(component: Component) -> None:
    """Over 4,000 samples each element has mean 0 and variance 1, within five deviations: paths, weights and signal to
    noise ratios all count on it. Mixing two noises takes coefficients with a^2 + b^2 = 1."""
    num = 4000
    x = make(component)((num, 2, 3, 2, 4), Random(0, "moments", rows=range(num)), torch.float64)
    mean, variance = x.mean(0).abs().max().item(), (x.var(0) - 1).abs().max().item()
    require(mean < 5 / num**0.5, f"a mean is {mean:.3g} from 0.")
    require(variance < 5 * (2 / num) ** 0.5, f"a variance is {variance:.3g} from 1.")


def rows_draw_for_themselves(component: Component) -> None:
    """Row i depends on its own key alone, in any batch and dtype; other rows and seeds are other noise; no global
    generator is used."""
    noise = make(component)
    for dtype in (torch.float32, torch.float64):
        with watched_dice():
            many = noise((8, *SHAPE), Random(5, "n", rows=range(20, 28)), dtype)
            few = noise((2, *SHAPE), Random(5, "n", rows=[23, 21]), dtype)
            other = noise((8, *SHAPE), Random(6, "n", rows=range(20, 28)), dtype)
        fits = many.shape == (8, *SHAPE) and many.dtype == dtype
        require(fits, f"{tuple(many.shape)} {many.dtype} for {(8, *SHAPE)} {dtype}.")
        alike = torch.equal(few[0], many[3]) and torch.equal(few[1], many[1])
        require(alike, "a row draws other noise in another batch.")
        require(not torch.equal(many[0], many[1]), "two rows draw the same noise.")
        require(not torch.equal(many, other), "two seeds draw the same noise.")


CHECKS = (every_element_is_standard, rows_draw_for_themselves)
