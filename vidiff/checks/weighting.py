"""What every weighting promises, on every registered path and prediction: vidiff.diffusion.weighting.Weighting."""

from __future__ import annotations

import torch

from vidiff.checks.parts import Beside, Straight, apart, draw, registered, require
from vidiff.diffusion.weighting import Weighting
from vidiff.registry import Component, build

T = torch.tensor([[1e-6, 0.02, 0.3], [0.55, 0.9, 0.999]], dtype=torch.float64)


def make(component: Component) -> Weighting:
    """A tiny one."""
    return component.build(component.tiny)


def is_finite_and_not_negative(component: Component) -> None:
    """A weight per time, shaped like t and in its dtype, finite, never negative and somewhere above 0, behind every
    prediction: 1/sigma without a clamp is not finite, and a negative weight rewards errors."""
    weighting, predictions = make(component), registered("prediction")
    for name, path in registered("path", Straight()):
        for other, prediction in predictions:
            weight, where = weighting(path, prediction, T), f"on path {name} behind {other}."
            fits = weight.shape == T.shape and weight.dtype == T.dtype
            require(fits, f"{tuple(weight.shape)} {weight.dtype} for t {tuple(T.shape)} {T.dtype} {where}")
            require(weight.isfinite().all(), f"it is not finite {where}")
            require((weight >= 0).all() and weight.max() > 0, f"it is negative somewhere, or 0 everywhere, {where}")


def computes_where_its_times_are(component: Component) -> None:
    """Weights of times on another device are there."""
    weighting = make(component)
    if isinstance(weighting, torch.nn.Module):
        weighting.to("meta")  # one that learns lives where the network does
    device = weighting(build("path", "ddpm"), build("prediction", "v"), T.to("meta")).device.type
    require(device == "meta", f"it is on {device}.")


def a_space_is_a_space(component: Component) -> None:
    """A weight that is stated in a `space` (x0, noise, v, velocity) gives, for one and the same wrong belief about x_t,
    the same loss behind every prediction; else naming another prediction changes two things."""
    weighting = make(component)
    if component.target.space == "target":
        raise Beside("it weighs the network's own error")
    t, predictions = T[:, 1:].flatten(), registered("prediction")
    x0, noise, wrong = (draw(len(t), 7, seed=i).double() for i in (5, 6, 7))
    for name, path in registered("path", Straight()):
        off = -(path.alpha(t) / path.sigma(t))[:, None] * wrong  # the noise error that goes with an x0 error of `wrong`
        losses = {}
        for other, prediction in predictions:
            right, belief = (prediction.target(path, a, b, t) for a, b in ((x0, noise), (x0 + wrong, noise + off)))
            losses[other] = weighting(path, prediction, t) * ((right - belief) ** 2).mean(1)
        first = next(iter(losses))
        for other, loss in losses.items():
            over = apart(loss, losses[first], 1e-8, 1e-9 if path.alpha(t).min() > 1e-6 else 1e-6)
            require(over <= 0, f"behind {other} the loss is another than behind {first}, on path {name}.")


CHECKS = (is_finite_and_not_negative, computes_where_its_times_are, a_space_is_a_space)
