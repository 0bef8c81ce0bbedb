"""What every metric promises: vidiff.types.Metric, a number about videos drawn beside real ones."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor

from vidiff.checks.parts import require, watched_dice
from vidiff.registry import Component

SHAPE = (3, 8, 32, 40)


def make(component: Component) -> Any:
    """A tiny one."""
    return component.build(component.tiny)


def clips(num: int = 6, seed: int = 1) -> Tensor:
    """Smooth moving videos, uint8 (B,C,T,H,W), no two alike."""
    dice = torch.Generator().manual_seed(seed)
    coarse = torch.randn(num, *SHAPE[:2], 4, 5, generator=dice).flatten(0, 1)
    fine = torch.nn.functional.interpolate(coarse, SHAPE[2:], mode="bilinear").unflatten(0, (num, -1))
    return (127.5 + 60 * fine).clamp(0, 255).to(torch.uint8)


def noise(num: int = 6, seed: int = 5) -> Tensor:
    """Videos of independent bytes."""
    return torch.randint(256, (num, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def measured(component: Component, real: Tensor, fake: Tensor, sizes: tuple[int, ...] = (6,)) -> dict[str, float]:
    """What a fresh one says of these videos, shown in parts of these sizes."""
    metric = make(component)
    for one, other in zip(real.split(list(sizes)), fake.split(list(sizes)), strict=True):
        metric.update(one, other)
    return metric.compute()


def differ(a: dict[str, float], b: dict[str, float], rtol: float = 0.0) -> str:
    """The first name whose numbers differ by more than rtol, with both; '' where none does."""
    if a.keys() != b.keys():
        return f"{sorted(a)} against {sorted(b)}"
    return next((f"{k} {a[k]:.6g} against {b[k]:.6g}" for k in a if abs(a[k] - b[k]) > rtol * (1 + abs(b[k]))), "")


def gives_numbers_with_names(component: Component) -> None:
    """compute() gives {name: number}, not empty, the numbers plain and finite, after update(real, fake) with videos
    uint8 (B,C,T,H,W): they go to JSON files and TensorBoard."""
    found = measured(component, clips(), clips(seed=2))
    require(isinstance(found, dict) and found, f"compute() gives {found!r}.")
    odd = [
        k for k, v in found.items() if not isinstance(k, str) or isinstance(v, bool) or not isinstance(v, (int, float))
    ]
    require(not odd, f"{', '.join(map(str, odd))}: no name with a plain number (call .item()).")
    endless = [k for k, v in found.items() if not math.isfinite(v)]
    require(not endless, f"{', '.join(endless)}: not finite.")


def says_its_protocol(component: Component) -> None:
    """`protocol` is a mapping that JSON can hold and that is not empty: a number without what it was measured under
    (sizes, frames, network, how many clips) cannot be compared with another."""
    metric = make(component)
    metric.update(clips(), clips(seed=2))
    metric.compute()
    require(isinstance(metric.protocol, dict) and metric.protocol, f"protocol is {metric.protocol!r}.")
    try:
        json.dumps(metric.protocol, allow_nan=False)
    except (TypeError, ValueError) as why:
        require(False, f"JSON cannot hold it: {why}")


def batches_do_not_matter(component: Component) -> None:
    """The same videos in one batch and in three give the same numbers: sum up what is needed of each, and divide at the
    end by all, never average averages."""
    real, fake = clips(), clips(seed=2)
    whole = measured(component, real, fake)
    found = differ(measured(component, real, fake, (1, 3, 2)), whole, 1e-4)
    require(not found, f"in parts of 1, 3 and 2, and as a whole: {found}.")


def order_does_not_matter(component: Component) -> None:
    """Pairs of real and drawn videos in another order give the same numbers."""
    real, fake, order = clips(), clips(seed=2), torch.tensor([4, 0, 5, 2, 1, 3])
    found = differ(measured(component, real[order], fake[order]), measured(component, real, fake), 1e-4)
    require(not found, f"{found}.")


def sees_what_is_drawn(component: Component) -> None:
    """Noise in the place of videos that look like the real ones moves a number: a metric that does not see that
    measures nothing."""
    near, far = measured(component, clips(), clips(seed=2)), measured(component, clips(), noise())
    require(bool(differ(near, far, 1e-3)), f"{near} for both.")


def two_keep_apart(component: Component) -> None:
    """What one has been shown, another does not know, and asking twice gives the same: state belongs to the object."""
    busy, metric = make(component), make(component)
    busy.update(noise(), noise(seed=6))
    metric.update(clips(), clips(seed=2))
    first = metric.compute()
    found = differ(metric.compute(), first)
    require(not found, f"asked twice: {found}.")
    found = differ(first, measured(component, clips(), clips(seed=2)), 1e-6)
    require(not found, f"beside another one and alone: {found}.")


def leaves_its_inputs_alone(component: Component) -> None:
    """The videos it is shown are as they were, and no global generator was used: other metrics are shown them too."""
    real, fake = clips(), clips(seed=2)
    measured(component, real, fake)  # what is loaded late is loaded now
    with watched_dice():
        measured(component, real, fake)
    require(torch.equal(real, clips()) and torch.equal(fake, clips(seed=2)), "the videos were changed.")


def nothing_is_no_number(component: Component) -> None:
    """compute() before any update is a ValueError, never a number, NaN or a ZeroDivisionError: nothing was measured."""
    try:
        found = make(component).compute()
    except ValueError:
        return
    require(False, f"it gives {found!r}.")


CHECKS = (gives_numbers_with_names, says_its_protocol, batches_do_not_matter, order_does_not_matter,
          sees_what_is_drawn, two_keep_apart, leaves_its_inputs_alone, nothing_is_no_number)  # fmt: skip
