"""What every spacing promises: vidiff.diffusion.sampler.Spacing."""

from __future__ import annotations

from itertools import product

import torch

from vidiff.checks.parts import Straight, registered, require
from vidiff.registry import Component


def descends_to_clean(component: Component) -> None:
    """steps + 1 times in float64, on every path and for any number of steps, that descend within the interval and end
    at 0 (clean): without the 0 the sampler stops in noise. A spacing of a fixed list refuses other numbers."""
    spacing, intervals = component.build(component.tiny), ((0.0, 1.0), (0.3, 0.95))
    for (name, path), wanted, (low, high) in product(registered("path", Straight()), (1, 2, 7, 50), intervals):
        if spacing.fixed not in (None, wanted):
            try:
                spacing(wanted, path, (low, high))
            except ValueError as refusal:
                told = f"{wanted} steps, and the list of" in str(refusal)
                require(told, f"{wanted} steps are refused without saying what is listed: {refusal}")
            else:
                require(False, f"it lists {spacing.fixed} steps, and {wanted} were not refused.")
        steps = spacing.fixed or wanted
        times, where = spacing(steps, path, (low, high)), f"{steps} steps in [{low:g}, {high:g}] on path {name}"
        fits = times.shape == (steps + 1,) and times.dtype == torch.float64 and times.device.type == "cpu"
        require(fits, f"{tuple(times.shape)} {times.dtype} on {times.device.type} for {where}.")
        require(times[-1] == 0, f"the last time is {times[-1]:.3g} for {where}.")
        require((times.diff() <= 0).all(), f"the times rise for {where}.")
        inside = (times[:-1] >= low).all() and 0 < times[0] <= high
        require(inside, f"the times leave the interval for {where}.")
        require((low, high) != (0.0, 1.0) or (times.diff() < 0).all(), f"a time comes twice for {where}.")


CHECKS = (descends_to_clean,)
