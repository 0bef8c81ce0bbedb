"""What every prediction promises, on every registered path: vidiff.diffusion.estimate.Prediction."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from vidiff.checks.parts import Straight, apart, draw, registered, require
from vidiff.diffusion.estimate import Estimate, Prediction
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.path import Path
from vidiff.registry import Component, build

INSIDE = torch.cat(
    [torch.tensor([1e-3, 0.999], dtype=torch.float64), torch.linspace(0.02, 0.98, 47, dtype=torch.float64)]
)


def make(component: Component) -> tuple[Prediction, list[tuple[str, Path]]]:
    """A tiny one, and the paths."""
    return component.build(component.tiny), registered("path", Straight())


def pairs(t: Tensor) -> tuple[Tensor, Tensor]:
    """Data and noise for these times."""
    return tuple(draw(len(t), 3, 4, 5, 6, seed=i).double() for i in (11, 12))


def error(found: Estimate, x0: Tensor, noise: Tensor) -> float:
    """The largest difference to data and noise."""
    return max(apart(found.x0, x0, 0, 0), apart(found.noise, noise, 0, 0))


def solves_for_data_and_noise(component: Component) -> None:
    """solve(x_t, target(x0, noise)) is (x0, noise), and ask(x0, noise) the target: two equations in two unknowns. A
    sign or a coefficient that target and solve do not share shows here."""
    prediction, paths = make(component)
    x0, noise = pairs(INSIDE)
    for name, path in paths:
        x_t, y = path.point(x0, noise, INSIDE), prediction.target(path, x0, noise, INSIDE)
        estimate = prediction.solve(path, x_t, y, INSIDE)
        off = error(estimate, x0, noise)
        # x0 = (x_t - sigma noise) / alpha loses the digits that alpha is short of: `polynomial` ends at alpha 1e-9
        near = 1e-12 * max(1.0, 2e-3 / path.alpha(INSIDE).min().item())
        require(off <= near, f"data and noise come back off by {off:.3g} on path {name}.")
        off = apart(prediction.ask(path, estimate, INSIDE), y, 1e-12, 1e-12)
        require(off <= 0, f"`ask` gives another target, off by {off:.3g} on path {name}.")
        off = apart(path.point(*estimate, INSIDE), x_t, 1e-12, 1e-12)
        require(off <= 0, f"alpha x0 + sigma noise is off x_t by {off:.3g} on path {name}.")


def solves_at_pure_noise_or_is_refused(component: Component) -> None:
    """At t = 1 it gives data and noise back, or, where its two equations are one there, an objective with it is
    refused with an interval that is accepted: `determinant` must tell."""
    prediction, paths = make(component)
    t = torch.ones(2, dtype=torch.float64)
    rest = build("weighting", "uniform"), build("times", "uniform"), build("noise", "gaussian")
    for name, path in paths:
        d = prediction.determinant(path, t)[0].abs()
        if d < 1e-6 or not d.isfinite():
            try:
                Objective(path, prediction, *rest)
            except ValueError as refusal:
                found = re.search(r"is impossible at t = 1: .*\. Use .* interval: \[0, (0\.99?9?)\]", str(refusal))
                require(found, f"on path {name} it is refused with other words: {refusal}")
                Objective(path, prediction, *rest, interval=(0.0, float(found[1])))
                continue
            require(False, f"on path {name} the determinant at t = 1 is {d:.3g}, and it is not refused.")
        Objective(path, prediction, *rest)
        x0, noise = pairs(t)
        estimate = prediction.solve(path, path.point(x0, noise, t), prediction.target(path, x0, noise, t), t)
        off = error(estimate, x0, noise)  # alpha is 5e-5 at the end of ddpm_cosine
        require(off <= 1e-10, f"at t = 1 data and noise come back off by {off:.3g} on path {name}.")


def clean_points_are_the_data(component: Component) -> None:
    """Where sigma is 0, x_t is the data whatever the network says, and the noise is finite."""
    prediction, paths = make(component)
    t = torch.zeros(2, dtype=torch.float64)
    x_t, y = pairs(t)
    for name, path in paths:
        estimate = prediction.solve(path, x_t, y, t)
        off = apart(estimate.x0, x_t, 1e-12)
        require(off <= 0, f"x0 is off x_t by {off:.3g} on path {name}.")
        require(estimate.noise.isfinite().all(), f"the noise is not finite on path {name}.")


def takes_a_time_per_frame(component: Component) -> None:
    """Times (B,t) give on each frame what times (B,) give for that frame alone."""
    prediction, paths = make(component)
    t = torch.tensor([[0.1, 0.3, 0.5, 0.7], [0.2, 0.4, 0.6, 0.8]], dtype=torch.float64)
    x0, noise = pairs(t)  # (2,3,4,5,6): 4 frames
    for name, path in paths:
        x_t, y = path.point(x0, noise, t), prediction.target(path, x0, noise, t)
        off = error(prediction.solve(path, x_t, y, t), x0, noise)
        near = 1e-12 * max(1.0, 2e-3 / path.alpha(t).min().item())
        require(off <= near, f"data and noise come back off by {off:.3g} on path {name}.")
        for f in range(4):
            one = prediction.target(path, x0[:, :, f : f + 1], noise[:, :, f : f + 1], t[:, f])
            require(torch.equal(one, y[:, :, f : f + 1]), f"frame {f} alone has another target on path {name}.")


def tells_the_network_something_finite(component: Component) -> None:
    """The label is finite, of order one (at most 2) and ascends; the factor of the input is finite and above 0."""
    prediction, paths = make(component)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    for name, path in paths:
        label, scale = prediction.label(path, t), prediction.input_scale(path, t)
        fits = label.isfinite().all() and label.abs().max() <= 2 and (label.diff() >= 0).all()
        require(fits, f"the label is up to {label.abs().max().item():.3g}, or falls, on path {name}.")
        require(scale.isfinite().all() and (scale > 0).all(), f"input_scale is not finite, or not above 0, on {name}.")


def computes_where_its_arguments_are(component: Component) -> None:
    """Float64 times on another device, float32 latents there: data and noise are float32 and stay there."""
    prediction, paths = make(component)
    x, t = torch.empty(2, 3, 4, 5, 6, device="meta"), torch.empty(2, dtype=torch.float64, device="meta")
    for name, path in paths:
        estimate = prediction.solve(path, x, prediction.target(path, x, x, t), t)
        for part in (*estimate, prediction.label(path, t)):
            require(part.device.type == "meta", f"it computes on {part.device.type} on path {name}.")
        for part in estimate:
            require(part.dtype == torch.float32, f"it gives {part.dtype} for float32 on path {name}.")


def determinant_is_that_of_the_equations(component: Component) -> None:
    """determinant = alpha q - sigma p, with `pair` = (p, q) the target's coefficients of data and noise."""
    prediction, paths = make(component)
    for name, path in paths:
        p, q = prediction.pair(path, INSIDE)
        rows = torch.stack([torch.stack([path.alpha(INSIDE), path.sigma(INSIDE)], -1), torch.stack([p, q], -1)], -2)
        off = apart(prediction.determinant(path, INSIDE), torch.linalg.det(rows), 1e-12, 1e-9)
        require(off <= 0, f"it is off by {off:.3g} on path {name}.")


CHECKS = (solves_for_data_and_noise, solves_at_pure_noise_or_is_refused, clean_points_are_the_data,
          takes_a_time_per_frame, tells_the_network_something_finite, computes_where_its_arguments_are,
          determinant_is_that_of_the_equations)  # fmt: skip
